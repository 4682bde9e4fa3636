"""Any run as a folder that transformers loads by a class of OmniViT (`omnivit.hf`).

    config.json                  model_type `omnivit`, and where the classes are
    configuration_omnivit.py, modeling_omnivit.py, processing_omnivit.py
                                 import the installed omnivit and the distributions of the run's plugins
    recipe.yaml, provenance.json the model; what it was made with
    tokenizer/                   of the LLM
    parts/                       folders and files that the recipe names on the disk
    model*.safetensors           all weights of all parts, in the names of OmniViT

The recipe builds the LLM from its settings instead of its pretrained weights, which are in the folder. Each tensor has
the dtype in which this recipe's model holds it: with `dtype=bfloat16`, the LLM's parameters are rounded; what the LLM
computes its positions from, and LoRA, stays in float32.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from omnivit import __version__
from omnivit.contracts.blocks import Block, blocks_of, with_changed_blocks
from omnivit.errors import RecipeError
from omnivit.model.filled import all_tensors, empty_model
from omnivit.recipe import Recipe, to_yaml
from omnivit.recipe import load as load_recipe
from omnivit.run.export.opened import OpenRun
from omnivit.run.export.places import without_data
from omnivit.run.export.plain import write_weights
from omnivit.run.export.reading import check_same
from omnivit.run.folder import RECIPE
from omnivit.run.importing.imported import write_record

MODEL, CONFIG, PROCESSOR = "OmniViTForConditionalGeneration", "OmniViTConfig", "OmniViTProcessor"
FILES = {"configuration_omnivit": CONFIG, "modeling_omnivit": MODEL, "processing_omnivit": PROCESSOR}
"""Module in the folder -> the class that it imports."""
AUTO = {
    "AutoConfig": f"configuration_omnivit.{CONFIG}",
    "AutoProcessor": f"processing_omnivit.{PROCESSOR}",
    **dict.fromkeys(
        ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"), f"modeling_omnivit.{MODEL}"
    ),
}
TOKENIZER, PARTS = "tokenizer", "parts"
DERIVED = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "model_type")
"""Settings of a transformers config that a recipe does not give."""


def write(opened: OpenRun, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write the folder, and compare what it computes with the run.

    Raises:
        RecipeError: the LLM brings code of its own, or is none of transformers.
        CheckpointError: the folder would compute something else.
    """
    llm = opened.llm
    if llm.config.trust_remote_code:
        raise RecipeError("The LLM runs Python code of its checkpoint, which an export cannot contain.")
    llm._find_tokenizer().save_pretrained(folder / TOKENIZER)
    modules = modules_of(opened)
    write_recipe(opened, folder, dtype, modules)
    with torch.device("meta"):
        places = all_tensors(empty_model(load_recipe(folder / RECIPE)))
    state = all_tensors(opened.assistant.model)
    write_weights(folder, {name: value.to(places[name].dtype) for name, value in state.items()}, None)
    for name, cls in FILES.items():
        (folder / f"{name}.py").write_text(_source(cls, modules), encoding="utf-8")
    config = {
        "model_type": "omnivit",
        "architectures": [MODEL],
        "auto_map": AUTO,
        "omnivit_version": __version__,
        "plugins": modules,
        "inputs": list(opened.assistant.slots),
        "dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    check_same(opened.assistant, folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_recipe(opened: OpenRun, folder: Path, dtype: torch.dtype, modules: Mapping[str, str]) -> None:
    """Write recipe.yaml, whose paths are relative to the folder, and provenance.json. `modules` as of `modules_of`."""
    text = to_yaml(portable(opened, folder, dtype)).replace(f"{folder.resolve()}/", "./").replace(f"{folder}/", "./")
    (folder / RECIPE).write_text(text, encoding="utf-8")
    write_record(folder, opened.provenance, {"omnivit": __version__, "plugin_modules": dict(modules)})


def portable(opened: OpenRun, folder: Path, dtype: torch.dtype) -> Recipe:
    """The run's recipe without a path outside of the folder, data, evaluation and trainer."""
    llm, recipe = opened.llm, opened.recipe
    settings = {k: v for k, v in llm.hf.config.to_diff_dict().items() if k not in DERIVED and v is not None}
    settings["model_type"] = llm.hf.config.model_type
    changes = {
        "path": None,
        "config": json.loads(json.dumps(settings)),
        "tokenizer": str(folder / TOKENIZER),
        "quantize": None,
        "dtype": str(dtype).removeprefix("torch."),
    }
    copied: dict[Path, Path] = {}

    def change(block: Block) -> Mapping[str, Any]:
        if block.where.path == "model.llm":
            return {**block.options, **changes}
        return {name: _inside(value, folder, copied) for name, value in block.options.items()}

    changed = with_changed_blocks(recipe, change)
    return without_data(changed)


def _inside(value: Any, folder: Path, copied: dict[Path, Path]) -> Any:
    """A value of an option; a file or folder of this machine is copied, and its copy's path returned."""
    if not isinstance(value, str) or not Path(value).is_absolute() or not Path(value).exists():
        return value
    source = Path(value)
    if source not in copied:
        copied[source] = folder / PARTS / str(len(copied)) / re.sub(r"[^\w.-]", "_", source.name)
        copied[source].parent.mkdir(parents=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, copied[source])
    return str(copied[source])


def modules_of(opened: OpenRun) -> dict[str, str]:
    """Top-level module of each plugin of the model -> the distribution that holds it."""
    from importlib.metadata import packages_distributions

    owners, modules = packages_distributions(), {}
    for block in blocks_of(opened.recipe):
        if block.is_plugin and block.registry is not None:
            module = block.registry.get(block.name).__module__.partition(".")[0]
            if module != "omnivit":
                modules[module] = (owners.get(module) or [module])[0]
    return modules


def _source(cls: str, modules: Mapping[str, str]) -> str:
    """A module that imports a class, and first what that needs: transformers names what is not installed."""
    imports = "".join(f"import {module}  # in the distribution {owner}\n" for module, owner in sorted(modules.items()))
    head = '"""Written by `omnivit export`: the code is in the installed omnivit."""'
    return f"{head}\n\n{imports}from omnivit.hf import {cls}\n"
