"""OmniViT: any encoder as an eye, an ear or a hand of a shared large language model.

Importing this package imports nothing heavy; `omnivit.load` brings in PyTorch when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from omnivit import moved

if TYPE_CHECKING:
    from omnivit.run.assistant import Assistant, Sampling, load
    from omnivit.run.reply import Prediction, Reply

__all__ = ["Assistant", "Prediction", "Reply", "Sampling", "__version__", "load"]

__version__ = "0.1.0"


moved.install()


def _shield() -> None:
    """For what imports torch."""
    from omnivit.registry.shield import shield

    shield()


if "--multiprocessing-fork" in sys.orig_argv:
    _shield()  # in a worker that was started by spawn, which imports torch before it calls anything of ours


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _shield()
    home = "omnivit.run.reply" if name in ("Prediction", "Reply") else "omnivit.run.assistant"
    return getattr(importlib.import_module(home), name)
