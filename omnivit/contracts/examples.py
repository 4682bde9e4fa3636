"""Examples: what a plugin is tested with, small enough to be built and run in a second and without a download.

A plugin returns one from its class method `example`; `omnivit.testing` and `omnivit plugins check` test the contract
with it.

Shapes: D width of the tokens that a component takes, D_llm width of the LLM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.contracts.sample import Media
from omnivit.errors import PluginError

if TYPE_CHECKING:
    from omnivit.contracts.features import Layout


@dataclass(frozen=True)
class EncoderExample:
    """A small encoder and media for it."""

    media: Sequence[Media]
    """At least two, of odd and different sizes; they are tested one by one and all together."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The block of a recipe, without `name`."""
    batch_statistics: bool = False
    """While it trains, layers such as BatchNorm normalise over the whole batch, so that media depend on each other."""


@dataclass(frozen=True)
class AdapterExample:
    """A small adapter and the layouts of tokens that it takes."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """The block of a recipe, without `name`."""
    layouts: Sequence[Layout] = ()
    """Layouts of the media to test it with; empty: one token, seven tokens and a grid of 3 x 4, if it takes them."""
    width: int = 24
    """D of the tokens that come in."""
    llm_width: int = 32
    """D_llm."""
    text_unchanged: bool = False
    """True: right after `install`, before training, the LLM returns for text alone the same as without the adapter."""


@dataclass(frozen=True)
class LLMExample:
    """A small LLM with random weights."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """The block of a recipe, without `name`."""


@dataclass(frozen=True)
class ReaderExample:
    """A data file of at least three samples."""

    path: Path
    root: Path
    """The folder that the paths of its media start from."""
    bad: Sequence[Path] = ()
    """Damaged files, each in its own way: opening one, or reading one of its samples, must raise an error."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The options of the reader, as a recipe has them; only for a reader with a `Config`."""


@dataclass(frozen=True)
class HeadExample:
    """A small head and what it learns from."""

    targets: Sequence[Any]
    """For three occurrences of its token, as in samples: numbers, lists of them, or paths inside the folder."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The block of a recipe, without `name`."""
    llm_width: int = 32
    """D_llm."""


@dataclass(frozen=True)
class MetricExample:
    """References that a metric can score."""

    references: Sequence[str] = ("a red car", "two dogs on a beach", "Yes.", "The answer is 42.")
    """At least three, all different. The contract compares each with itself, with another one, and with no text."""


def no_example(plugin: type, folder: Path) -> PluginError:
    """The error of a plugin that has no example."""
    del folder
    return PluginError(
        f"{plugin.__module__}.{plugin.__qualname__} has no example to test the contract with. Return one from the "
        "class method `example(folder)`; see docs/plugins/contract.md."
    )
