"""`--to peft`: the LLM's LoRA as an adapter folder, which `peft.PeftModel.from_pretrained(base, folder)` loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from omnivit.errors import RecipeError
from omnivit.model.lora import ADAPTER, lora_layers
from omnivit.run.export.opened import OpenRun
from omnivit.run.export.options import known_options
from omnivit.run.export.tensors import trained_tensors

WEIGHTS, ROOT = "adapter_model.safetensors", "base_model.model."
"""The file that peft reads, and what it puts before the names of the base model."""


def export(opened: OpenRun, folder: Path, options: Mapping[str, Any]) -> list[Path]:
    """Write adapter_config.json and adapter_model.safetensors.

    Raises:
        RecipeError: the LLM has no LoRA, or more of it was trained than LoRA.
    """
    known_options(options, {}, "peft")
    llm, lora = opened.llm, opened.llm.config.lora
    layers = lora_layers(llm.hf)
    if lora is None or not layers:
        raise RecipeError("The LLM of this run has no LoRA. Use `--to merged` for the LLM, or `--to safetensors`.")
    _check_only_lora(opened)
    from peft import LoraConfig

    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=llm.config.path,
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules=sorted(layers),
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    weights = {}
    for name, value in llm.hf.state_dict().items():
        if ".lora_" in name:
            key = name.replace(f".{ADAPTER}", "")
            key = key.removesuffix(".weight") if "lora_magnitude_vector" in key else key
            weights[ROOT + key] = value.detach().cpu().contiguous()
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    return sorted(folder.iterdir())


def _check_only_lora(opened: OpenRun) -> None:
    """Refuse a run whose LLM has changed outside of its LoRA: an adapter folder could not hold that."""
    names, merged = trained_tensors(opened)
    others = [name for name in names if name.startswith("llm.") and ".lora_" not in name]
    if others or merged or opened.llm._patching is not None:
        what = "a stage merged LoRA into it" if merged else f"{others[0]} was trained" if others else "an adapter did"
        raise RecipeError(
            f"This run changed the LLM in other ways than by its LoRA ({what}), and an adapter folder of peft cannot "
            f"hold that. Use `--to merged` or `--to hf`."
        )
