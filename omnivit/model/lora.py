"""LoRA and DoRA on chosen modules of a model, by peft; no wrapper, so that parameter paths keep their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omnivit.errors import RecipeError, suggest
from omnivit.model.weights import require

ALL_LINEAR = "all-linear"
ADAPTER = "default"
"""The name that peft gives to the only LoRA of a module."""


@dataclass
class Lora:
    """Low-rank updates of weights (Hu et al., LoRA, arXiv 2106.09685); with `dora`, updates of their directions, and
    learned magnitudes (Liu et al., DoRA, arXiv 2402.09353)."""

    r: int = 16
    """Rank of the updates."""
    alpha: float = 32.0
    """The updates are multiplied by alpha / r."""
    dropout: float = 0.0
    """Dropout probability before the update, in training."""
    targets: str | list[str] = ALL_LINEAR
    """Names of the modules to train (`[q_proj, v_proj]`; a name with dots matches the end of a path), or `all-linear`:
    every linear layer except the output head."""
    dora: bool = False
    """Use DoRA: train magnitudes and low-rank directions separately."""

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"r ({self.r}) must be at least 1, alpha ({self.alpha}) above 0, and dropout ({self.dropout}) in [0, "
                "1)."
            )
        if self.targets == []:
            raise ValueError("`targets` is empty. List names of modules, or write all-linear.")


def add_lora(model: nn.Module, head: nn.Module | None, lora: Lora, what: str = "the LLM") -> dict[nn.Module, nn.Module]:
    """Add LoRA to the target layers. Its weights are float32; before training, the model computes the same as without.

    New parameters are called `...q_proj.lora_A.default.weight` and so on; the original weight of a target becomes
    `...q_proj.base_layer.weight`.

    Args:
        model: changed in place; only the new parameters remain trainable.
        head: the output head, which `all-linear` excludes; None: there is none.
        lora: rank and targets.
        what: the model, for errors.

    Returns:
        Each target -> the layer that stands in its place.

    Raises:
        PluginError: peft is not installed.
        RecipeError: a target matches no linear layer, or one whose weight is used without calling the layer.
    """
    require("peft", extra="lora", purpose="for `lora`")
    from peft import LoraConfig, inject_adapter_in_model

    names = _target_names(model, head, lora, what)
    targets = {name: model.get_submodule(name) for name in names}
    # A list has no `config`, which peft would interpret; of an LLM it has to know whether the weights are quantized.
    holder, prefix = (model, "") if head is not None else (nn.ModuleList([model]), "0.")
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules=[prefix + name for name in names],
    )
    inject_adapter_in_model(config, holder)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.float32)
    return {layer: model.get_submodule(name) for name, layer in targets.items()}


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """Path -> layer, for every layer with LoRA."""
    return {name: module for name, module in model.named_modules() if ADAPTER in getattr(module, "lora_A", ())}


def check_mergeable(layers: Mapping[str, Any], where: object) -> None:
    """Check that the LoRA of some layers can be added to the weights below it.

    Raises:
        RecipeError: there is none, or it is DoRA, or the weights are quantized.
    """
    if not layers:
        raise RecipeError(f"{where}: the recipe has no `lora`, so nothing can be merged.")
    for name, layer in layers.items():
        if layer.use_dora.get(ADAPTER):
            raise RecipeError(f"{where}: {name} has DoRA, which cannot be merged. Remove `dora`.")
        if not layer.get_base_layer().weight.is_floating_point():
            raise RecipeError(f"{where}: the weights of {name} are quantized, so LoRA cannot be added to them.")


def factors(model: nn.Module) -> dict[str, Tensor]:
    """Parameter name -> value, of all LoRA that changes something: where B is not zero."""
    return {
        f"{name}.lora_{kind}.{ADAPTER}.weight": getattr(layer, f"lora_{kind}")[ADAPTER].weight.detach().cpu().clone()
        for name, layer in lora_layers(model).items()
        if bool(layer.lora_B[ADAPTER].weight.any())
        for kind in "AB"
    }


@torch.no_grad()
def merge_and_renew(model: nn.Module) -> None:
    """Add all LoRA to the weights that it adapts, and draw a new one, which changes nothing until it is trained."""
    for layer in lora_layers(model).values():
        if bool(layer.lora_B[ADAPTER].weight.any()):
            weight = layer.get_base_layer().weight
            weight.copy_(weight.float() + layer.get_delta_weight(ADAPTER).float())
        layer.reset_lora_parameters(ADAPTER, init_lora_weights=True)


def add_product(weight: Tensor, a: Tensor, b: Tensor, scaling: float, transposed: bool) -> None:
    """Add `scaling` B A to a weight [out, in], or [in, out] if it is `transposed`, in float32."""
    update = (b.float() @ a.float()) * scaling
    weight.copy_(weight.float() + (update.T if transposed else update).to(weight.device))


def _target_names(model: nn.Module, head: nn.Module | None, lora: Lora, what: str) -> list[str]:
    """The full names of the layers that `lora.targets` names."""
    from transformers.pytorch_utils import Conv1D

    linear = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    called = [name for name in linear if not _is_bypassed(model, name)]
    if lora.targets == ALL_LINEAR:
        names = [name for name in called if linear[name] is not head]
        if not names:
            raise RecipeError(f"lora: {what} has no linear layer.")
        return names
    targets = [lora.targets] if isinstance(lora.targets, str) else lora.targets
    matches = {target: [name for name in linear if f".{name}".endswith(f".{target}")] for target in targets}
    for target, names in matches.items():
        if not names:
            available = {name.rpartition(".")[2] for name in called} | {ALL_LINEAR}
            raise RecipeError(f"lora.targets: {target!r} is not a linear layer of {what}; {suggest(target, available)}")
        if bypassed := [name for name in names if name not in called]:
            raise RecipeError(
                f"lora.targets: {bypassed[0]} of {what} is never called, because its block uses the weight itself. "
                f"LoRA there would have no effect. Remove {target!r}."
            )
    return sorted({name for names in matches.values() for name in names})


def _is_bypassed(model: nn.Module, name: str) -> bool:
    """Whether the module around a layer uses the layer's weight without calling it.

    torch's attention does, and so do timm's EVA and BEiT where queries and values have biases of their own.
    """
    parent = model.get_submodule(name.rpartition(".")[0])
    own_biases = name.endswith("qkv") and getattr(parent, "q_bias", None) is not None
    return isinstance(parent, nn.MultiheadAttention) or (own_biases and not getattr(parent, "qkv_bias_separate", False))
