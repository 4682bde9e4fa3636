"""Components inside components: a block in an adapter's or encoder's options -> the adapter or encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from omnivit import registry
from omnivit.contracts import registries
from omnivit.contracts.adapter import Adapter
from omnivit.contracts.encoder import Encoder
from omnivit.contracts.options import merge_options
from omnivit.errors import RecipeError
from omnivit.recipe.convert import hints

T = TypeVar("T")


def build_adapter(block: Mapping[str, Any], path: str, width: int, llm_width: int) -> Adapter:
    """Build a registered adapter (or `module:Class`) for tokens of `width`, inside another one.

    Args:
        block: `name`, then its options, as in a recipe.
        path: the place of the block in the outer adapter's options, such as `steps[0]`, for errors.
        width: of the tokens that it takes.
        llm_width: width of the LLM.

    Raises:
        RecipeError: no `name`, or options that it does not know.
        PluginError: no such adapter, or a broken one.
    """
    cls, config = _found(registries.adapters, block, path)
    adapter: Adapter = cls(config, width, llm_width)
    return adapter


def build_encoder(block: Mapping[str, Any], path: str, modality: str) -> Encoder:
    """Build a registered encoder (or `module:Class`) inside another one, whose `load` must call its `load`.

    Args:
        block: `name`, then its options, as in a recipe.
        path: the place of the block in the outer encoder's options, such as `encoder`, for errors.
        modality: the media that it must read, such as `image`.

    Raises:
        RecipeError: no `name`, options that it does not know, or it reads other media.
        PluginError: no such encoder, or a broken one.
    """
    cls, config = _found(registries.encoders, block, path)
    if cls.modality != modality:
        raise RecipeError(
            f"{path}: {block['name']!r} reads {cls.modality!r} media, but an encoder for {modality!r} is expected here."
        )
    encoder: Encoder = cls(config)
    if encoder.levels:
        raise RecipeError(
            f"{path}: {block['name']!r} gives {encoder.levels} levels, which the encoder around it does not pass on. "
            f"Use `join: tokens` or `join: channels`."
        )
    return encoder


def configure_encoder(encoder: Encoder, block: Mapping[str, Any], path: str) -> None:
    """Give an encoder inside another one its options for a stage (see `Encoder.configure`).

    Args:
        encoder: from `build_encoder`.
        block: `name`, then its options, as the outer encoder's `Config` has them now.
        path: as for `build_encoder`.

    Raises:
        RecipeError: the values do not fit.
    """
    if encoder.stageable:
        options = {key: value for key, value in block.items() if key != "name"}
        encoder.configure(merge_options(encoder.Config, options, path))


def _found(known: registry.Registry[T], block: Mapping[str, Any], path: str) -> tuple[Any, Any]:
    """The class and the config that a block names."""
    name = block.get("name")
    if not isinstance(name, str):
        raise RecipeError(f"{path}: `name` is missing. Available: {', '.join(sorted(known.names()))}.")
    cls: Any = known.get(name)
    options = {key: value for key, value in block.items() if key != "name"}
    if "lora" in options and "lora" not in hints(cls.Config):
        raise RecipeError(
            f"{path}.lora: LoRA is an option of the component that contains this block. Write `lora` there; `targets` "
            f"can name the modules of one part: [ends.of.their.path]."
        )
    return cls, merge_options(cls.Config, options, path)
