"""What every plugin says of itself, of whichever kind: the contract that it was written for, its version, and facts.

Knows neither torch nor what a plugin does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Card:
    """Facts for people who choose among plugins. The licence of the code is the distribution's; it is not said here."""

    paper: str = ""
    """Where the method was published, as `Author et al., Title, arXiv NNNN.NNNNN`."""
    weights: str = ""
    """Licence of the weights that it usually loads, and whose they are; empty: it loads none."""
    tokens: str = ""
    """Rows of the LLM that a medium takes, in words: `576 (24 x 24 patches)`."""


class Plugin:
    """What encoders, adapters, LLMs, readers, heads and metrics have in common."""

    contract: ClassVar[int]
    """The version of the plugin contract that it was written for: `omnivit.registry.contract.CONTRACT` of that time."""
    version: ClassVar[int] = 1
    """Raised when the same `Config` gives other parameters or numbers; a recipe may ask for one: `name: thermal@1`."""
    card: ClassVar[Card] = Card()
    """Paper, licence of weights and the like, for `omnivit plugins info`."""
