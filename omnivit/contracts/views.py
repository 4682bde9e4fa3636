"""Encoders whose tower several branches read, each in its own way: `encoder: {share: image, layer: -3}`.

BLIVA (Hu et al., arXiv 2308.09936) reads the last hidden state of a vision transformer with a Q-Former, and the one
before it with a linear layer. The tower is built, loaded and run once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from torch import Tensor

from omnivit.contracts.encoder import Encoder, Processor
from omnivit.contracts.features import Features
from omnivit.contracts.options import merge_options
from omnivit.errors import RecipeError
from omnivit.recipe.convert import Where


class ViewableEncoder(Encoder):
    """Base class of encoders whose tower other branches may read in another way."""

    view_options: ClassVar[frozenset[str]]
    """The options that a recipe may set beside `share`. They change neither the items nor what the tower computes."""
    config: Any
    """The `Config` that this encoder was built from."""

    @abstractmethod
    def __init__(self, config: Any, views: Sequence[Any] = ()) -> None:
        """Build the tower, as deep as `config` and those of all views need. Raises RecipeError as encoders do."""
        super().__init__()

    @abstractmethod
    def encode(self, items: Mapping[str, Tensor]) -> Any:
        """Run the tower on the stacked items -> what `read` takes, for all configs."""

    @abstractmethod
    def read(self, states: Any, config: Any) -> Features:
        """The features of a config, from what `encode` returned."""

    @abstractmethod
    def width_of(self, config: Any) -> int:
        """D, the width of the tokens of a config."""

    @abstractmethod
    def levels_of(self, config: Any) -> int:
        """The number of `Features.levels` of a config."""

    @abstractmethod
    def processor_of(self, config: Any) -> Processor:
        """The processor of a config. All make the same items; lengths and grids differ."""

    def processor(self) -> Processor:
        """That of this encoder's own config."""
        return self.processor_of(self.config)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """Features [M, S, D] of this encoder's own config."""
        return self.read(self.encode(items), self.config)


class EncoderView(Encoder):
    """The tower of another encoder, read with other options. All parameters are the other encoder's."""

    def __init__(self, encoder: ViewableEncoder, config: Any) -> None:
        super().__init__()
        self._encoder = (encoder,)  # in a tuple, so that its parameters do not count as the view's, too
        self.config = config
        self.modality = encoder.modality  # type: ignore[misc]  # of the encoder, not of this class
        self.width, self.levels = encoder.width_of(config), encoder.levels_of(config)

    @property
    def encoder(self) -> ViewableEncoder:
        """The encoder that owns the tower."""
        return self._encoder[0]

    def processor(self) -> Processor:
        """The encoder's processor, with the lengths of this view."""
        return self.encoder.processor_of(self.config)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """Features [M, S, D] of this view."""
        return self.encoder.read(self.encoder.encode(items), self.config)


def view_config(name: str, cls: type[Any], config: Any, options: Mapping[str, Any], where: Where) -> Any:
    """The `Config` of a branch that shares an encoder and reads it with other options.

    Args:
        name: of the encoder.
        cls: its class.
        config: its own `Config`.
        options: beside `share`.
        where: the branch's block.

    Raises:
        RecipeError: the encoder has no views, or an option would change its tower or its items.
    """
    allowed = cls.view_options if issubclass(cls, ViewableEncoder) else frozenset()
    refused = [key for key in options if key not in allowed]
    if refused:
        raise RecipeError(
            f"{where / refused[0]}: `{refused[0]}` cannot stand beside `share`, because the encoder {name!r} runs once "
            f"for all branches that share it. Available beside `share`: {', '.join(sorted(allowed)) or 'nothing'}."
        )
    return merge_options(cls.Config, {**asdict(config), **options}, where)


def owner_of(encoder: Encoder) -> Encoder:
    """The encoder that owns the tower: itself, unless it is a view."""
    return encoder.encoder if isinstance(encoder, EncoderView) else encoder


def encode_all(readers: Sequence[Encoder], items: Mapping[str, Tensor]) -> dict[Encoder, Features]:
    """The features of an encoder and of views of it; the tower runs once.

    Args:
        readers: distinct, all with the same owner.
        items: stacked, as the owner's processor prepares them.
    """
    if len(readers) == 1:
        return {readers[0]: readers[0](items)}
    owner = owner_of(readers[0])
    assert isinstance(owner, ViewableEncoder)
    states = owner.encode(items)
    return {reader: owner.read(states, reader.config) for reader in readers}
