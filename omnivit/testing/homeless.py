"""Finds tensors that would stay behind on another device, also where there is no other device.

A tensor is homeless if it was created without `device=`, or is an attribute of a module but neither parameter nor
buffer, and was not moved since: on a GPU it would stay on the CPU. An operation that mixes it with others fails there;
here it is reported.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from omnivit.testing.rules import Broken

MAKERS = frozenset(
    {torch.arange, torch.as_tensor, torch.asarray, torch.empty, torch.eye, torch.full, torch.hann_window}
    | {torch.linspace, torch.logspace, torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm}
    | {torch.scalar_tensor, torch.tensor, torch.tril_indices, torch.triu_indices, torch.zeros}
)
"""Functions that create tensors on the default device, unless they get another."""
MOVERS = frozenset({Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.type_as})
SIZES_ONLY = frozenset({Tensor.copy_, Tensor.expand_as, Tensor.view_as, Tensor.reshape_as})
"""Functions that take tensors of several devices."""
HERE = str(Path(__file__).parent)
TORCH = str(Path(torch.__file__).parent)


class Homes(TorchFunctionMode):
    """Inside, an operation that mixes homeless tensors with others raises Broken with the place that they come from."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._lost = WeakIdKeyDictionary()  # homeless tensor -> where it is from
        for name, tensor in _attributes(module):
            self._lost[tensor] = f"`{name}`, neither parameter nor buffer"

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        options = kwargs or {}
        given = [value for value in tree_leaves((args, options)) if isinstance(value, Tensor)]
        lost = [tensor for tensor in given if tensor in self._lost]
        if func in MAKERS and not given:
            place = "" if _is_told(options.get("device")) else f"created without a `device` in {plugin_line()}"
        elif func in MOVERS:
            place = self._after_move(func, args, options)
        else:
            self._check(func, args, given, lost)
            place = self._lost[lost[0]] if lost and len(lost) == len(given) else ""
        result = func(*args, **options)
        if func in MOVERS and result is args[0]:  # it lay there already: an alias of it may have another home
            result = result.view_as(result)
        if place:
            self._lost.update({tensor: place for tensor in tree_leaves(result) if isinstance(tensor, Tensor)})
        return result

    def _after_move(self, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> str:
        """Where a tensor that `.to`, `.cpu` or `.cuda` returns comes from; empty if it has a home then."""
        said = (*args[1:], *options.values())
        device = next((value for value in said if isinstance(value, str | torch.device)), None)
        if func is Tensor.cpu or isinstance(device, str):
            return f"moved to a device by its name in {plugin_line()}"
        others = [value for value in said if isinstance(value, Tensor)]
        stays = device is None and not others and func is not Tensor.cuda
        followed = others[0] if others else args[0]
        return str(self._lost[followed]) if followed in self._lost and (stays or others) else ""

    def _check(self, func: Callable[..., Any], args: tuple[Any, ...], given: list[Tensor], lost: list[Tensor]) -> None:
        """Raise Broken where the operation could not be done on another device."""
        if func in SIZES_ONLY or not lost:
            return
        if func is Tensor.__getitem__ and args[0] not in self._lost:  # an index may lie on the CPU
            return
        if func is Tensor.__setitem__ and args[0] not in self._lost:
            lost = [tensor for tensor in lost if tensor is args[2]]
        strays = [tensor for tensor in lost if tensor.ndim]  # a single number goes with tensors of any device
        if strays and len(lost) < len(given):
            raise Broken(
                f"a tensor {list(strays[0].shape)}, {self._lost[strays[0]]}, is combined with the others in "
                f"`{getattr(func, '__name__', func)}`, {plugin_line()}.",
                "Create it on their device (`torch.arange(n, device=x.device)`), or register it as a buffer.",
            )


def _attributes(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that modules keep as plain attributes, alone or in containers such as lists."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                path = f"{prefix}.{name}" if prefix else name
                yield from ((path, leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _is_told(device: Any) -> bool:
    """Whether a function follows the device of another tensor, which is a `torch.device`; a text is written by hand."""
    return device is not None and not isinstance(device, str)


def plugin_line() -> str:
    """The line of the plugin that is running."""
    frames = traceback.extract_stack()[:-2]
    return _place(frame for frame in reversed(frames) if not frame.filename.startswith((HERE, TORCH)))


def _place(frames: Iterable[traceback.FrameSummary]) -> str:
    return next((f"{Path(frame.filename).name} line {frame.lineno}" for frame in frames), "an unknown place")
