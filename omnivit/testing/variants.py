"""Other settings of a plugin: each field of its `Config` in turn, changed to something else that it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import torch

from omnivit.contracts.encoder import Encoder, Processor
from omnivit.recipe.convert import hints


def variants(plugin: type[Encoder], config: Any) -> Iterator[tuple[str, Processor]]:
    """A description of each change, and the processor of an encoder that is built with it, without weights.

    Only independent settings are changed: numbers, booleans and choices, not names or blocks. Values that
    the plugin refuses are skipped.
    """
    for name, wanted in hints(type(config)).items():
        for value in _others(wanted, getattr(config, name)):
            try:
                with torch.device("meta"):
                    processor = plugin(dataclasses.replace(config, **{name: value})).processor()
            except Exception:
                continue
            yield f"`{name}` {value!r} instead of {getattr(config, name)!r}", processor


GUESSES: Mapping[Any, list[Any]] = {bool: [True, False], int: [1, 8, 32], float: [0.5, 2.0]}
"""Values to try instead of null."""


def _others(annotation: Any, value: Any) -> list[Any]:
    """Values of an annotation other than `value`."""
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if choice != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 2 * value, value // 2]
    if isinstance(value, float):
        return [value * 2, value / 2]
    if value is None:
        return [guess for kind in get_args(annotation) for guess in GUESSES.get(kind) or _others(kind, ...)]
    return []
