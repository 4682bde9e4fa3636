"""LoRA that peft has saved, as the source of `init_from`."""

from __future__ import annotations

import json
from pathlib import Path

from omnivit.errors import RecipeError
from omnivit.model.lora import ADAPTER
from omnivit.model.weight_file import WeightFile
from omnivit.model.weights import locate
from omnivit.recipe.convert import Where
from omnivit.run.start_source import Source, record_of

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
PEFT_PREFIX = "base_model.model."
UNSUPPORTED = {"rank_pattern": {}, "alpha_pattern": {}, "bias": "none", "use_dora": False, "use_rslora": False}
"""Settings of a LoRA that peft has saved, with their values that are understood."""


def open_peft(name: str, where: Where, read: bool) -> Source:
    """A LoRA that peft has saved, as the LoRA of the LLM."""
    here = where / "lora"
    folder = _peft_folder(name, here)
    weights = next((folder / file for file in PEFT_WEIGHTS if (folder / file).is_file()), None)
    try:
        config = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{here}: {folder / PEFT_CONFIG} cannot be read ({type(error).__name__}: {error})."
        ) from error
    if weights is None:
        raise RecipeError(f"{here}: {folder} contains none of {', '.join(PEFT_WEIGHTS)}.")
    if config.get("peft_type") != "LORA":
        raise RecipeError(f"{here}: {folder} contains {config.get('peft_type')!r}, not LoRA.")
    for key, value in UNSUPPORTED.items():
        if config.get(key) not in (value, None):
            raise RecipeError(f"{here}: {folder / PEFT_CONFIG}: {key}: {config[key]!r} is not supported.")
    file = WeightFile(weights)
    tensors = file.read() if read else file.on_meta()
    own = {_peft_name(key): value for key, value in tensors.items()}
    record = record_of("lora", folder, (folder / PEFT_CONFIG, weights), read)
    return Source(f"the LoRA {name}", own, record, lambda _: alpha / rank, prefix="llm.hf")


def _peft_folder(name: str, where: Where) -> Path:
    try:
        place = locate(name)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    if isinstance(place, Path):
        return place
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(place, allow_patterns=["adapter_*"]))


def _peft_name(key: str) -> str:
    """peft saves LoRA without the name of the adapter: `...q_proj.lora_A.weight`."""
    name = key.removeprefix(PEFT_PREFIX)
    for kind in "AB":
        name = name.replace(f".lora_{kind}.weight", f".lora_{kind}.{ADAPTER}.weight")
    return name
