"""LoRA and DoRA on chosen modules of an LLM, by peft; no wrapper, so that parameter paths keep their names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from omnivit.errors import RecipeError, suggest
from omnivit.model.weights import require

ALL_LINEAR = "all-linear"


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


def add_lora(model: nn.Module, head: nn.Module, lora: Lora) -> None:
    """Add LoRA to the target layers. Its weights are float32; before training, the model computes the same as without.

    New parameters are called `...q_proj.lora_A.default.weight` and so on; the original weight of a target becomes
    `...q_proj.base_layer.weight`.

    Args:
        model: changed in place; only the new parameters remain trainable.
        head: the output head, which `all-linear` excludes.
        lora: rank and targets.

    Raises:
        PluginError: peft is not installed.
        RecipeError: a target matches no linear layer.
    """
    require("peft", extra="lora", purpose="for `lora`")
    from peft import LoraConfig, inject_adapter_in_model

    names = _target_names(model, head, lora)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules=names,
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.float32)


def _target_names(model: nn.Module, head: nn.Module, lora: Lora) -> list[str]:
    """The full names of the layers that `lora.targets` names."""
    from transformers.pytorch_utils import Conv1D

    linear = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    if lora.targets == ALL_LINEAR:
        return [name for name, module in linear.items() if module is not head]
    targets = [lora.targets] if isinstance(lora.targets, str) else lora.targets
    matches = {target: [name for name in linear if f".{name}".endswith(f".{target}")] for target in targets}
    for target, names in matches.items():
        if not names:
            available = {name.rpartition(".")[2] for name in linear} | {ALL_LINEAR}
            raise RecipeError(
                f"lora.targets: {target!r} is not a linear layer of the LLM; {suggest(target, available)}"
            )
    return sorted({name for names in matches.values() for name in names})
