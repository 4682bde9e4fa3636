"""Folders of `omnivit.run.export.general`, opened: recipe and weights -> an assistant.

Every tensor of the model is in the folder, buffers that are not stored elsewhere included: an encoder whose recipe
names pretrained weights is built without them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from omnivit.errors import CheckpointError
from omnivit.model.build import preparer_of
from omnivit.model.filled import all_tensors, empty_model, filled_model
from omnivit.recipe import load as load_recipe
from omnivit.run.assistant import Assistant
from omnivit.run.folder import RECIPE
from omnivit.run.trust import require as require_trust
from omnivit.train.checkpoint import read_tensors


def open_folder(folder: Path, trust: bool = False, weights: bool = True) -> Assistant:
    """The model of an exported folder, on the CPU.

    Args:
        folder: as `general.write` makes it.
        trust: run code that its recipe names (see `omnivit.run.trust`).
        weights: False: only what prepares prompts is used, so weights stay as they are created.

    Raises:
        OmniVitError: the folder is no export, or is damaged.
    """
    if not (folder / RECIPE).is_file():
        raise CheckpointError(f"{folder} is no export of OmniViT: {RECIPE} is missing.")
    recipe = load_recipe(folder / RECIPE)
    require_trust(recipe, trust, folder, readers=False)
    model = filled_model(recipe, read(folder), folder) if weights else empty_model(recipe).requires_grad_(False)
    return Assistant(model, preparer_of(model, recipe), recipe)


def read(folder: Path) -> dict[str, Tensor]:
    """The tensors of all shards. Raises CheckpointError where there are none, or one is damaged."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} contains no model*.safetensors.")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_tensors(file)
    return tensors


def check_same(assistant: Assistant, folder: Path) -> None:
    """Open a folder and compare its tensors with those of the model that it was written from, bit by bit.

    Where the folder's model holds a tensor in another dtype, the original is rounded to it.

    Raises:
        CheckpointError: names the first that differs.
    """
    again = open_folder(folder, trust=True)
    originals = all_tensors(assistant.model)
    for name, value in all_tensors(again.model).items():
        if not torch.equal(value, originals[name].to(value.dtype)):
            raise CheckpointError(f"The folder would not give the same model: {name} differs after it is read again.")
    if again.preparer.chat.fingerprint() != assistant.preparer.chat.fingerprint():
        raise CheckpointError("The folder would not give the same prompts: its tokenizer or template differs.")
