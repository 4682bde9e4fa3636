"""What every plugin of any kind states of itself: the contract that it was written for, its version, and facts.

Knows neither torch nor what a plugin does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Card:
    """Facts for people who choose a plugin. The licence of the code is in the distribution's metadata, not here."""

    paper: str = ""
    """Where the method was published, as `Author et al., Title, arXiv NNNN.NNNNN`."""
    weights: str = ""
    """Licence and owner of the weights that it usually loads; empty: it loads none."""
    tokens: str = ""
    """Tokens of a medium in the LLM, as text: `576 (24 x 24 patches)`."""


class Plugin:
    """What encoders, adapters, LLMs, readers, heads and metrics have in common."""

    contract: ClassVar[int]
    """The version of the plugin contract that it was written for: `omnivit.registry.contract.CONTRACT` of that time."""
    version: ClassVar[int] = 1
    """Increase it when the same `Config` gives other parameters or numbers. Recipes can request one: `thermal@1`."""
    card: ClassVar[Card] = Card()
    """Paper, licence of weights and the like, for `omnivit plugins info`."""
