"""Checks of modules that rules of several kinds share."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from omnivit.testing.rules import Broken
from omnivit.testing.trial import difference
from omnivit.testing.weight_files import no_weights_read
from omnivit.testing.worker import call

T = TypeVar("T")
LARGE = 1 << 20
"""Bytes that a module may contain without weights, such as one table."""
CLOSE = 1e-4
"""Greatest difference of numbers that are computed in another order, as a share of the largest; float32."""
ROUGH = 0.08
"""The same between float32 and bfloat16, which has 8 bits: a few steps of rounding one after the other."""


def check_meta(build: Callable[[], nn.Module]) -> None:
    """Building under the meta device gives the same parameters there, without memory for them."""
    with torch.device("meta"), no_weights_read():
        light = build()
    heavy = build()
    _check_memory(light)
    for name, parameter in light.named_parameters():
        if parameter.device.type != "meta":
            raise Broken(
                f"under `torch.device('meta')`, parameter {name!r} is on {parameter.device}.",
                "Create tensors with torch's functions without `device=`, and read files only in `load`.",
            )
    shapes = [{name: list(value.shape) for name, value in made.state_dict().items()} for made in (light, heavy)]
    if shapes[0] != shapes[1]:
        name = next(name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
        raise Broken(
            f"{name!r} is {shapes[0].get(name, 'not there')} when built on the meta device, "
            f"{shapes[1].get(name, 'not there')} otherwise."
        )


def _check_memory(light: nn.Module) -> None:
    """Raise Broken where a module that was built on the meta device takes much memory."""
    for name, size in memory_of(light):
        if size > LARGE:
            raise Broken(
                f"under `torch.device('meta')`, `{name}` takes {size:,} bytes.",
                "Create large tables with torch's functions without `device=`, or in `load`.",
            )


def memory_of(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Name and bytes of every tensor on a real device and every array in a module, except parameters."""
    yield from ((name, value.nbytes) for name, value in module.named_buffers() if not value.is_meta)
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                for leaf in tree_leaves(value):
                    if isinstance(leaf, np.ndarray) or (isinstance(leaf, Tensor) and not leaf.is_meta):
                        yield f"{prefix}.{name}" if prefix else name, leaf.nbytes


def check_same_weights(module: nn.Module, twin: nn.Module) -> None:
    """Two modules, built from one seed, are the same."""
    again = twin.state_dict()
    for name, wanted in module.state_dict().items():
        where = difference(name, again[name], wanted) if name in again else f"{name} is gone"
        if where:
            raise Broken(f"built twice from one seed: {where}.", "Use torch's default generator, which is seeded.")


def save_and_load(source: nn.Module, target: nn.Module, folder: Path) -> None:
    """Carry a module's state to another one through a safetensors file, as checkpoints do."""
    state = source.state_dict()
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise Broken(
            f"its state contains {strange[0]!r}, which is not a tensor.",
            "Keep settings in `Config`, and only tensors here.",
        )
    try:
        save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / "state.safetensors")
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise Broken(f"its state cannot be written as safetensors: {error}") from error
    try:
        target.load_state_dict(load_file(folder / "state.safetensors"))
    except RuntimeError as error:
        raise Broken(
            f"a second one, built from the same config, cannot load the state: {' '.join(str(error).split())}",
            "Create parameters that depend on `Config` alone.",
        ) from error


def check_gradients(module: nn.Module) -> None:
    """After a backward pass, every parameter that trains has a finite gradient."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            raise Broken(
                f"parameter {name!r} {list(parameter.shape)} has no gradient after a backward pass over a batch.",
                "Use it in every forward pass, or do not create it: DDP waits forever for a gradient that never comes.",
            )
        if not bool(torch.isfinite(parameter.grad).all()):
            raise Broken(f"the gradient of parameter {name!r} {list(parameter.shape)} is not finite.")


def check_pickles(function: Callable[[Any], T], what: str, arguments: Sequence[Any]) -> list[T]:
    """What a function of loader workers returns in one, for each argument.

    Raises:
        Broken: it contains weights, does not pickle, or fails there.
    """
    try:
        stream = io.BytesIO()
        _Weightless(stream).dump(function)
    except Broken as error:
        raise Broken(f"{what} {error.evidence}", error.do) from None
    except Exception as error:  # unpicklable objects raise whatever they like
        raise Broken(
            f"{what} does not pickle: {type(error).__name__}: {error}",
            "Make it a function or a frozen dataclass at the top of a module: no lambda, no inner function or class.",
        ) from error
    try:
        return call(stream.getvalue(), arguments)
    except Broken as error:
        raise Broken(f"{what}, in a worker: {error.evidence}", error.do) from error
    except Exception as error:
        raise Broken(
            f"{what} works here, and in a worker raises {type(error).__name__}: {error}",
            "It must be importable and depend on nothing that is set up elsewhere.",
        ) from error


class _Weightless(pickle.Pickler):
    """Refuses tensors and modules."""

    def persistent_id(self, entry: object) -> None:
        """Called for every object that is written."""
        if isinstance(entry, Tensor | nn.Module):
            kind = (
                f"a tensor {list(entry.shape)}" if isinstance(entry, Tensor) else f"the module {type(entry).__name__}"
            )
            raise Broken(
                f"contains {kind}, which every loader worker would get a copy of.",
                "Make it a frozen dataclass of plain numbers, not a method of the plugin.",
            )
