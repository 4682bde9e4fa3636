"""The encoder contract: media in, tokens of features out. The encoder owns the processor that prepares its media.

Shapes: M media over the whole batch, S tokens of a medium, D = `width`.
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
from omnivit.contracts.fit import Fit
from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError


@runtime_checkable
class Processor(Protocol):
    """Converts one medium to tensors, in a loader worker. Its pickle is small: it contains no weights.

    The result depends on the medium and `media.seed` alone; a seed of None means no augmentation.
    """

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare one medium: named tensors, which the collator stacks to [M, ...].

        Where their sizes vary from medium to medium (frames of a video, points of a scan), the collator pads them with
        zeros; the item then needs another tensor with its own size, so that the encoder can ignore the padding.

        Raises:
            MediaError: the medium cannot be read; names file and reason.
        """
        ...

    def length(self, item: Mapping[str, Tensor]) -> int:
        """The number of tokens that the encoder returns for this item (Law 2)."""
        ...

    def fingerprint(self) -> str:
        """A short text that changes whenever the same medium gives other tensors."""
        ...


@runtime_checkable
class GridProcessor(Processor, Protocol):
    """A processor of an encoder whose tokens may fill a grid."""

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        """Sizes ((t,) y, x) of the grid that the tokens of this item fill in order; None: there is no grid.

        Where `length` is greater, there are tokens beside the grid (`Layout.beside`): before it, or before each frame.
        """
        ...


@runtime_checkable
class PrefacingProcessor(Processor, Protocol):
    """A processor that adds text from a medium's file, such as its header, to the LLM's input."""

    def preface(self, media: Media) -> str:
        """Plain text that the LLM reads right before the medium; empty: nothing.

        Raises:
            MediaError: the medium cannot be read; names file and reason.
        """
        ...


@runtime_checkable
class DescribingProcessor(Processor, Protocol):
    """A processor that tells the LLM about a prepared medium, such as the times of a video's frames."""

    def description(self, item: Mapping[str, Tensor]) -> str:
        """Plain text that the LLM reads right after the medium; empty: nothing."""
        ...


@runtime_checkable
class FittingProcessor(Processor, Protocol):
    """A processor that knows which part of its image the model sees, so that boxes can be written as text."""

    def fit_of(self, media: Media) -> Fit:
        """The map from pixels of the upright image to the model's image; with the augmentation of `media.seed`.

        Raises:
            MediaError: the medium cannot be read; names file and reason.
        """
        ...


def layout_of(processor: Processor, item: Mapping[str, Tensor]) -> Layout:
    """Number and grid of the tokens that an encoder returns for an item."""
    grid = processor.grid(item) if isinstance(processor, GridProcessor) else None
    return Layout(processor.length(item), grid)


class Encoder(nn.Module, Plugin, ABC):
    """Base class of encoders (entry-point group `omnivit.encoders`).

    `__init__(config)` builds the modules without reading weights, so that `omnivit check` can construct it under
    `torch.device("meta")`; `load` then loads pretrained weights.
    """

    Config: ClassVar[type[Any]]
    """A dataclass with the options that a recipe may set; a docstring after each field is the help of the option."""
    modality: ClassVar[str]
    """The media that it reads: `image`, `video`, `audio`, `points`, ..."""
    width: int
    """D, the width of the tokens that it returns."""
    levels: int = 0
    """The number of hidden states in `Features.levels`, which only some adapters read; 0: it gives none."""
    stageable: ClassVar[frozenset[str]] = frozenset()
    """Options that a stage may change (`stages[].inputs`): how media are prepared and encoded, but never the names or
    shapes of parameters. `configure` must be able to change them. An option that is the block of another encoder
    (`encoder` of `video`) stands for that encoder's own."""

    def configure(self, config: Any) -> None:
        """Take other values of the options in `stageable`, before a stage and before the model is used.

        Afterwards `processor` and `forward` behave as if the encoder had been constructed with this `Config`. It is
        called again and again, with all options each time, so what an earlier call changed must not remain. An encoder
        with `stageable` options must define it.

        Raises:
            RecipeError: the values do not fit the model.
        """
        raise NotImplementedError(f"{type(self).__name__} has `stageable` options, but no `configure`.")

    @abstractmethod
    def processor(self) -> Processor:
        """The processor that prepares this encoder's media."""

    @abstractmethod
    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """Encode the stacked items ([M, ...] each) to `Features` [M, S, D]."""

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Describe the content of a file, without a model and without a recipe, for `omnivit media`.

        Raises:
            MediaError: the file is damaged, or contains nothing that this encoder reads; or the encoder cannot
                describe files, which is the default.
        """
        raise MediaError(f"{media}: {cls.__name__} cannot describe a file. Try the encoder in a recipe, with --recipe.")

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """A small configuration and media of odd sizes, to test the contract with. Files go to the empty `folder`.

        Raises:
            PluginError: there is no example, which is the default.
        """
        raise no_example(cls, folder)

    def resized(self, name: str, value: Tensor) -> Tensor | None:  # noqa: ARG002 - the default has no such weight
        """A weight of another shape, from `init_from`, in the shape that it has here, such as a table of positions.

        Args:
            name: of the weight, below this encoder.
            value: from the source; on the meta device when a recipe is checked.

        Returns:
            None: its shape cannot change, which is the default and then an error.
        """
        return None

    def load(self) -> None:
        """Load pretrained weights; called once, on real devices. The default keeps the constructor's initialisation."""
        return
