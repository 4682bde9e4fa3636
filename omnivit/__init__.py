"""OmniViT: any encoder as an eye, an ear or a hand of a shared large language model.

Importing this package imports nothing heavy and changes nothing outside of it; `omnivit.load` imports PyTorch when it
is first used. Where a damaged distribution makes `import torch` fail, see `omnivit.registry.shield`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from omnivit import moved

if TYPE_CHECKING:
    from omnivit.run.assistant import Assistant, Sampling
    from omnivit.run.loading import load
    from omnivit.run.reply import Prediction, Reply
    from omnivit.run.verbs import check_recipe, evaluate_run, resume_run, train_recipe

__all__ = [
    "Assistant",
    "Prediction",
    "Reply",
    "Sampling",
    "__version__",
    "check_recipe",
    "evaluate_run",
    "load",
    "resume_run",
    "train_recipe",
]

__version__ = "0.1.0"
_HOME = {
    "Assistant": "omnivit.run.assistant",
    "Prediction": "omnivit.run.reply",
    "Reply": "omnivit.run.reply",
    "Sampling": "omnivit.run.assistant",
    "check_recipe": "omnivit.run.verbs",
    "evaluate_run": "omnivit.run.verbs",
    "load": "omnivit.run.loading",
    "resume_run": "omnivit.run.verbs",
    "train_recipe": "omnivit.run.verbs",
}


moved.install()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """All names, for completion: those of `__all__` are imported when they are first used."""
    return sorted({*globals(), *__all__})
