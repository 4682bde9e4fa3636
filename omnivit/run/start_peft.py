"""LoRA that peft has saved, as the source of `init_from`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from omnivit.errors import RecipeError
from omnivit.model.lora import ADAPTER
from omnivit.model.weight_file import WeightFile
from omnivit.model.weights import locate
from omnivit.recipe.convert import Where
from omnivit.run.start_source import Source, record_of

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
MAGNITUDE = ".lora_magnitude_vector"
PEFT_PREFIX = "base_model.model."
DORA = "use_dora"
UNSUPPORTED = {"rank_pattern": {}, "alpha_pattern": {}, "bias": "none", DORA: False, "use_rslora": False}
"""Settings of a LoRA that peft has saved, with their values that are understood."""


@dataclass(frozen=True)
class PeftFolder:
    """A folder of LoRA that peft has saved."""

    path: Path
    where: str
    """Where it is named, for errors."""
    config: Mapping[str, Any]
    weights: Path

    @classmethod
    def read(cls, folder: Path, where: str) -> PeftFolder:
        """Find its files, and read its settings. Raises RecipeError where one is missing or is no LoRA's."""
        weights = next((folder / file for file in PEFT_WEIGHTS if (folder / file).is_file()), None)
        try:
            config = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
            int(config["r"]), float(config["lora_alpha"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                f"{where}: {folder / PEFT_CONFIG} cannot be read ({type(error).__name__}: {error})."
            ) from error
        if weights is None:
            raise RecipeError(f"{where}: {folder} contains none of {', '.join(PEFT_WEIGHTS)}.")
        if config.get("peft_type") != "LORA":
            raise RecipeError(f"{where}: {folder} contains {config.get('peft_type')!r}, not LoRA.")
        return cls(folder, where, config, weights)

    def tensors(self, read: bool = True, dora: bool = False) -> dict[str, Tensor]:
        """Path in the LLM -> tensor; on the meta device without `read`.

        Raises:
            RecipeError: the folder has a setting that is not understood, or that is not wanted here.
        """
        for key, value in UNSUPPORTED.items():
            if self.config.get(key) not in (value, None) and not (dora and key == DORA):
                raise RecipeError(
                    f"{self.where}: {self.path / PEFT_CONFIG}: {key}: {self.config[key]!r} is not supported."
                )
        file = WeightFile(self.weights)
        return {_peft_name(key): value for key, value in (file.read() if read else file.on_meta()).items()}


def open_peft(name: str, where: Where, read: bool) -> Source:
    """A LoRA that peft has saved, as the LoRA of the LLM."""
    here = where / "lora"
    opened = PeftFolder.read(_peft_folder(name, here), str(here))
    scaling = float(opened.config["lora_alpha"]) / int(opened.config["r"])
    record = record_of("lora", opened.path, (opened.path / PEFT_CONFIG, opened.weights), read)
    return Source(f"the LoRA {name}", opened.tensors(read), record, lambda _: scaling, prefix="llm.hf")


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
    return f"{name}.{ADAPTER}.weight" if name.endswith(MAGNITUDE) else name
