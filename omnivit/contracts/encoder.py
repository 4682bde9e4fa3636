"""The encoder contract: media in, rows of features out. The encoder owns the processor that prepares its media.

Shapes: M media over the whole batch, S rows a medium, D = `width`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from omnivit.contracts.card import Plugin
from omnivit.contracts.examples import EncoderExample, no_example
from omnivit.contracts.features import Features, Layout
from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError


@runtime_checkable
class Processor(Protocol):
    """Turns one medium into tensors, in a loader worker. Pickles small: it holds no weights.

    It is deterministic given `media.seed`; a seed of None means no augmentation at all.
    """

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare one medium: named tensors, which the collator stacks to [M, ...].

        Where their sizes vary from medium to medium (frames of a clip, points of a scan), the collator fills up with
        zeros; an item then says its own size in a tensor beside them, by which the encoder leaves the filling out.

        Raises:
            MediaError: the medium cannot be read; names file and reason.
        """
        ...

    def length(self, item: Mapping[str, Tensor]) -> int:
        """The number of rows that the encoder will return for this item (Law 2)."""
        ...

    def fingerprint(self) -> str:
        """A short text that changes whenever the same medium would give other tensors."""
        ...


@runtime_checkable
class GridProcessor(Processor, Protocol):
    """A processor whose rows may fill a grid."""

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        """Sizes ((t,) y, x) of the grid that the rows of this item fill in order; None: they fill none."""
        ...


@runtime_checkable
class PrefacingProcessor(Processor, Protocol):
    """A processor that tells the LLM in words what a medium's file says beside it."""

    def preface(self, media: Media) -> str:
        """What the LLM reads right before the medium, as plain text; empty: nothing.

        Raises:
            MediaError: the medium cannot be read; names file and reason.
        """
        ...


def layout_of(processor: Processor, item: Mapping[str, Tensor]) -> Layout:
    """How the rows that an encoder will return for an item lie."""
    grid = processor.grid(item) if isinstance(processor, GridProcessor) else None
    return Layout(processor.length(item), grid)


class Encoder(nn.Module, Plugin, ABC):
    """Base class of encoders (entry-point group `omnivit.encoders`).

    `__init__(config)` builds the structure without reading weights, so that `omnivit check` can construct it under
    `torch.device("meta")`; `load` then fills in pretrained weights.
    """

    Config: ClassVar[type[Any]]
    """A dataclass: exactly what a recipe may say, with a docstring after each field."""
    modality: ClassVar[str]
    """What it reads: `image`, `video`, `audio`, `points`, ..."""
    width: int
    """D, the width of the rows that it returns."""

    @abstractmethod
    def processor(self) -> Processor:
        """The processor that prepares this encoder's media."""

    @abstractmethod
    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """Encode the stacked items ([M, ...] each) to `Features` [M, S, D]."""

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Say what a file holds, without a model and without a recipe, for `omnivit media`.

        Raises:
            MediaError: it holds nothing that this encoder reads, or is damaged; or the encoder does not tell, as the
                default does.
        """
        raise MediaError(f"{media}: {cls.__name__} cannot describe a file. Try the encoder in a recipe, with --recipe.")

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """A small configuration and media of odd sizes, to try the contract on. Files go to `folder`, which is empty.

        Raises:
            PluginError: it gives none, as the default does.
        """
        raise no_example(cls, folder)

    def load(self) -> None:
        """Fill in pretrained weights; called once, on real devices. Default: the constructor's own initialisation."""
        return
