"""The plugin contract as tests, for authors of plugins.

Derive a test class from the contract of your plugin's kind and name the plugin; pytest runs every rule on its example:

    from omnivit.testing.encoder import EncoderContract

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
    from omnivit.testing.reader import ReaderContract

__all__ = ["AdapterContract", "EncoderContract", "HeadContract", "LLMContract", "ReaderContract"]


def __getattr__(name: str) -> Any:
    """A contract by its name, imported when it is asked for: most need torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{name.removesuffix('Contract').lower()}")
    return getattr(module, name)
