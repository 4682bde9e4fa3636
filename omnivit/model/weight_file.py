"""Weights in files, by name: which tensors there are and of which shape, and then some of them.

A file is one of safetensors, whose header tells names and shapes, or one that torch has pickled, of which only tensors
are unpickled. A folder is read through its index, or has one such file.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from omnivit.errors import RecipeError
from omnivit.model.weights import STATE_SUFFIXES, read_state

INDEX = ".index.json"


class WeightFile:
    """The weights of a file or folder. Names and shapes are read without the weights, as far as the format allows it.

    Args:
        path: a file of weights, or a folder with one or with an index of several.

    Raises:
        RecipeError: there are no weights, or a file is damaged or contains anything but tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = _files(path)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the weights are in."""
        return tuple(self._files)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, of all tensors."""
        return {name: shape for file in self._files for name, shape in _shapes(file)}

    def read(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Name -> tensor, of the named ones, or of all."""
        chosen = None if names is None else frozenset(names)
        return {name: tensor for file in self._files for name, tensor in _tensors(file, chosen)}

    def on_meta(self) -> dict[str, Tensor]:
        """Name -> tensor without content."""
        return {name: torch.empty(shape, device="meta") for name, shape in self.shapes.items()}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in STATE_SUFFIXES:
            raise RecipeError(f"{path} is not a file of weights. Available: files that end in "
                              f"{', '.join(STATE_SUFFIXES)}.")  # fmt: skip
        return [path]
    for suffix in STATE_SUFFIXES:
        indices = sorted(path.glob(f"*{suffix}{INDEX}"))
        if indices:
            return [path / name for name in _indexed(indices[0])]
        if len(files := sorted(path.glob(f"*{suffix}"))) == 1:
            return files
        if files:
            raise RecipeError(
                f"{path} contains {len(files)} files of weights and no index of them. Name one: "
                f"{', '.join(file.name for file in files[:5])}."
            )
    held = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    raise RecipeError(f"{path} contains no weights (*{', *'.join(STATE_SUFFIXES)}). It contains: "
                      f"{', '.join(held[:8]) or 'nothing'}.")  # fmt: skip


def _indexed(index: Path) -> list[str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = sorted(set(names))
        if any(Path(name).name != name for name in files):
            raise ValueError("it names files of other folders")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RecipeError(f"{index}: the index of weights cannot be read ({type(error).__name__}: {error}).") from error
    return files


def _shapes(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    if file.suffix != ".safetensors":
        yield from ((name, tuple(value.shape)) for name, value in read_state(file, torch.device("meta")).items())
        return
    try:
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
            yield from ((name, tuple(opened.get_slice(name).get_shape())) for name in names)
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{file} cannot be read as safetensors: {error}") from error


def _tensors(file: Path, names: frozenset[str] | None) -> Iterator[tuple[str, Tensor]]:
    if file.suffix != ".safetensors":
        yield from ((name, value) for name, value in read_state(file).items() if names is None or name in names)
        return
    try:
        with safe_open(file, "pt") as opened:
            yield from ((name, opened.get_tensor(name)) for name in opened.keys() if names is None or name in names)  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{file} cannot be read as safetensors: {error}") from error


def metadata(file: Path) -> Mapping[str, str]:
    """The texts in the header of a safetensors file."""
    try:
        with safe_open(file, "pt") as opened:
            return opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{file} cannot be read as safetensors: {error}") from error
