"""A run that is opened to be exported: its recipe, its model in float32 on the CPU, and what it was made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omnivit.contracts.blocks import Block, with_changed_blocks
from omnivit.errors import OmniVitError, RecipeError
from omnivit.model.causal import CausalLM
from omnivit.recipe import Recipe
from omnivit.run import provenance
from omnivit.run.assistant import Assistant
from omnivit.run.folder import open_recipe
from omnivit.run.loading import assistant_of
from omnivit.run.provenance import PROVENANCE

DTYPE, FULL = "dtype", "float32"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Name -> dtype, of weights that an export can hold."""


@dataclass(frozen=True)
class OpenRun:
    """A run to be exported."""

    folder: Path
    recipe: Recipe
    """As the run folder has it."""
    assistant: Assistant
    """On the CPU, in float32 unless the run was opened with another dtype."""
    provenance: Mapping[str, Any]
    """What the run was made with; empty where the folder has no record, as after `omnivit import`."""
    checkpoint: str | None
    """As it was asked for."""
    dtype: torch.dtype
    """Of the weights that are written: that of the recipe's LLM."""

    @property
    def llm(self) -> CausalLM:
        """The LLM. Raises RecipeError where it is none of transformers."""
        llm = self.assistant.model.llm
        if not isinstance(llm, CausalLM):
            raise RecipeError(f"{self.recipe.where('model.llm')}: {type(llm).__name__} is no LLM of transformers.")
        return llm


def open_run(
    folder: Path,
    checkpoint: str | None = None,
    trust: bool = False,
    dtype: str = FULL,
    overrides: Sequence[str] = (),
) -> OpenRun:
    """Open a run for export.

    Args:
        folder: of the run.
        checkpoint: as of `omnivit.load`.
        trust: as of `omnivit.load`.
        dtype: of the model: `float32`, or `recipe`: as the run was trained.
        overrides: as of `omnivit.load`.

    Raises:
        OmniVitError: as `omnivit.load`.
    """
    if dtype not in (FULL, "recipe"):
        raise OmniVitError(f"dtype {dtype!r}: expected {FULL} or recipe.")
    recipe = open_recipe(folder, trust, overrides)
    assistant = assistant_of(folder, in_full(recipe) if dtype == FULL else recipe, "cpu", checkpoint)
    record = provenance.read(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    return OpenRun(folder, recipe, assistant, record, checkpoint, written_dtype(recipe, assistant))


def in_full(recipe: Recipe) -> Recipe:
    """A recipe whose model is in float32: LoRA is merged in it without loss, and every CPU computes in it.

    Weights that are quantized while the run trains are read as they were before.
    """
    return with_changed_blocks(recipe, _in_full)


def _in_full(block: Block) -> Mapping[str, Any]:
    changes = {DTYPE: FULL, "quantize": None} if block.is_plugin else {}
    return {name: changes.get(name, value) for name, value in block.options.items()}


def written_dtype(recipe: Recipe, assistant: Assistant) -> torch.dtype:
    """The dtype in which the recipe holds its LLM."""
    name = recipe.model.llm.get(DTYPE, FULL)
    known = {**DTYPES, "fastest": torch.bfloat16}
    if name in known:
        return known[name]
    llm = assistant.model.llm
    stored = llm.stored_dtype() if isinstance(llm, CausalLM) else None
    return stored or torch.float32
