"""The plugin contract as tests, for authors of plugins.

Derive a test class from the contract of your plugin's kind and name the plugin; pytest runs every rule on its example:

    from omnivit.testing import EncoderContract

    class TestThermal(EncoderContract):
        encoder = ThermalEncoder

`omnivit plugins check NAME` runs the same rules. Nothing here needs pytest. docs/plugins/contract.md explains each.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnivit.testing.adapter import AdapterContract
    from omnivit.testing.encoder import EncoderContract
    from omnivit.testing.head import HeadContract
    from omnivit.testing.llm import LLMContract
    from omnivit.testing.metric import MetricContract
    from omnivit.testing.reader import ReaderContract
    from omnivit.testing.rules import Broken, Contract, NotApplicable, rule

__all__ = [
    "AdapterContract", "Broken", "Contract", "EncoderContract", "HeadContract", "LLMContract", "MetricContract",
    "NotApplicable", "ReaderContract", "rule",
]  # fmt: skip
_RULES = ("Broken", "Contract", "NotApplicable", "rule")


def __getattr__(name: str) -> Any:
    """A name of `__all__`, imported when it is asked for: most contracts need torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "rules" if name in _RULES else name.removesuffix("Contract").lower()
    module = importlib.import_module(f"{__name__}.{home}")
    return getattr(module, name)
