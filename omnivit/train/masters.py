"""AdamW for weights in bfloat16: what is too small for their 8 bits is kept beside them, and not rounded away.

Near 0.02, where the weights of an LLM lie, two neighbours in bfloat16 are 0.0001 apart: an update of 2e-5, a usual
learning rate, rounds back to where the weight was. So each weight has a master in float32, of which the weight is the
upper half, rounded, and `rest` the 16 bits that are missing. Moments are float32 too: a second moment in bfloat16
cannot decay by a thousandth. That is 14 bytes a weight (2 weight, 2 gradient, 2 rest, 8 moments); weights in float32
take 16.

Rounding by chance would take 12 bytes and give other, noisier weights; masters give those of float32, and the same ones
on every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.adamw import adamw

from omnivit.errors import RecipeError

CHUNK = 2**24
"""Numbers that are in float32 at a time, beside the moments."""
REST = "rest"
_LOWER = 16
_HALF = 1 << (_LOWER - 1)


class MasterAdamW(AdamW):
    """AdamW that steps weights in bfloat16 by masters in float32, and all others as torch does."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure` computes the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        low = {p: p.grad for group in self.param_groups for p in group["params"] if _has_master(p)}
        for parameter in low:
            parameter.grad = None  # so that torch's own step passes over it
        _unhooked(AdamW.step)(self)
        for parameter, gradient in low.items():
            parameter.grad = gradient
        for group in self.param_groups:
            for pieces in _together(self._pieces([p for p in group["params"] if low.get(p) is not None])):
                _step(pieces, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch does, but each tensor keeps the dtype that it was saved in; torch would take the parameter's."""
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, values in state_dict["state"].items():
            parameter = parameters[number]
            if _has_master(parameter):
                self.state[parameter] = {
                    key: value.clone() if key == "step" else value.to(parameter.device, copy=True)
                    for key, value in values.items()
                }

    def _pieces(self, parameters: Iterable[Tensor]) -> Iterator[Piece]:
        """The parameters, cut into pieces of at most `CHUNK` numbers: AdamW treats each number by itself."""
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)
                state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32)
                state[REST] = torch.zeros_like(parameter, dtype=torch.int16)
            done = state["step"].clone()
            state["step"] += 1
            whole = [parameter.detach(), parameter.grad, state["exp_avg"], state["exp_avg_sq"], state[REST]]
            flat = all(tensor.is_contiguous() for tensor in whole)
            parts = [tensor.view(-1).split(CHUNK) if flat else [tensor] for tensor in whole]
            for weight, gradient, exp_avg, exp_avg_sq, rest in zip(*parts, strict=True):
                yield Piece(weight, gradient, exp_avg, exp_avg_sq, rest, done.clone())


class Piece(NamedTuple):
    """Some numbers of one parameter, and what AdamW knows of them."""

    weight: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    rest: Tensor
    step: Tensor
    """Steps done."""


def widened(weight: Tensor, rest: Tensor) -> Tensor:
    """The master in float32 of a weight in bfloat16 and the 16 bits [int16] that it lacks."""
    bits = weight.view(torch.int16).to(torch.int32) << _LOWER
    return (bits + rest).view(torch.float32)


def narrowed(master: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse: the master, rounded to bfloat16 (half away from zero), and what that leaves out [int16]."""
    bits = master.view(torch.int32)
    upper = (bits + _HALF) >> _LOWER
    return upper.to(torch.int16).view(torch.bfloat16), (bits - (upper << _LOWER)).to(torch.int16)


def check_trainable(parameters: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Refuse to train what cannot hold the sum of small updates.

    Raises:
        RecipeError: a parameter is held in float16 or is quantized; says what to write instead.
    """
    for name, parameter in parameters:
        if parameter.dtype in (torch.float32, torch.float64, torch.bfloat16):
            continue
        kind = str(parameter.dtype).removeprefix("torch.")
        raise RecipeError(
            f"{where}: {name} would be trained in {kind}, where small updates are lost and large gradients overflow. "
            f"Use float32 or bfloat16 (`dtype: bfloat16`; OmniViT keeps the additional bits that small updates need), "
            f"or keep it frozen and train LoRA: `lora: {{r: 16}}`, train: "
            f'{{"llm.*lora_*": 2.0e-4}}.'
        )


def state_bytes(parameter: Tensor) -> int:
    """What the optimizer keeps for each number of a parameter."""
    return 10 if _has_master(parameter) else 2 * parameter.element_size()


def _unhooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """A class's own step without the hooks that torch puts around it: ours has them, and a step is counted once."""
    return step.__wrapped__ if getattr(step, "hooked", False) else step  # type: ignore[attr-defined]


def _has_master(parameter: Tensor) -> bool:
    return parameter.dtype == torch.bfloat16


def _together(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces on one device, of `CHUNK` numbers in all or one piece more."""
    group: list[Piece] = []
    for piece in pieces:
        if group and (group[0].weight.device != piece.weight.device or sum(p.weight.numel() for p in group) >= CHUNK):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _step(pieces: list[Piece], group: dict[str, Any]) -> None:
    masters = [widened(piece.weight, piece.rest) for piece in pieces]
    beta1, beta2 = group["betas"]
    adamw(
        masters,
        [piece.gradient.float() for piece in pieces],
        [piece.exp_avg for piece in pieces],
        [piece.exp_avg_sq for piece in pieces],
        [],
        [piece.step for piece in pieces],
        foreach=group["foreach"],
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )
    for piece, master in zip(pieces, masters, strict=True):
        weight, rest = narrowed(master)
        piece.weight.copy_(weight)
        piece.rest.copy_(rest)
