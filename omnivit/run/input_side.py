"""Encoders and adapters of an export for vLLM (`--to vllm`), without the LLM: a medium in, its tokens' embeddings out.

The distribution omnivit-vllm runs it inside vLLM. Shapes: L tokens of a medium, D width of the LLM.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from omnivit.contracts.blocks import Block, with_changed_blocks
from omnivit.contracts.llm import LanguageModel
from omnivit.contracts.sample import Media
from omnivit.data.collate import stacked_items
from omnivit.errors import CheckpointError, RecipeError
from omnivit.model.build import slots_of
from omnivit.model.filled import empty_model, fill
from omnivit.model.omni import OmniModel
from omnivit.model.staging import configure
from omnivit.recipe import load as load_recipe
from omnivit.run.folder import RECIPE
from omnivit.run.trust import require as require_trust


@dataclass
class ElsewhereConfig:
    """Options of `LLMElsewhere`."""

    width: int = 0
    """Width of the LLM's embeddings."""


class LLMElsewhere(LanguageModel):
    """In the place of an LLM that another program runs: adapters are built for its width."""

    Config = ElsewhereConfig
    contract = 1

    def __init__(self, config: ElsewhereConfig) -> None:
        super().__init__()
        self.width = config.width

    def tokenizer(self) -> NoReturn:
        """Not here."""
        self._refuse()

    def embed(self, ids: Tensor) -> NoReturn:
        """Not here."""
        del ids
        self._refuse()

    def embedding(self) -> NoReturn:
        """Not here."""
        self._refuse()

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Not here."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise RecipeError(
            "An encoder or adapter of this model reads the LLM, which another program runs. Serve the run by "
            "`omnivit serve RUN --backend vllm`."
        )


class InputSide:
    """Encoders and adapters by input slot.

    Attributes:
        model: has the weights once `fill` was called.
    """

    def __init__(self, model: OmniModel, slots: Mapping[str, Any]) -> None:
        self.model, self.slots = model, dict(slots)
        self._scratch = tempfile.TemporaryDirectory(prefix="omnivit-")

    @classmethod
    def open(cls, folder: Path, width: int, trust: bool = False) -> InputSide:
        """Build what an export's recipe describes, with weights still to be filled in.

        Args:
            folder: as `omnivit.run.export.vllm` writes it.
            width: of the LLM.
            trust: run code that the recipe names (see `omnivit.run.trust`).

        Raises:
            OmniVitError: the folder is no such export, or a plugin is missing.
        """
        if not (folder / RECIPE).is_file():
            raise CheckpointError(f"{folder} is no export for vLLM: {RECIPE} is missing.")
        recipe = load_recipe(folder / RECIPE)
        require_trust(recipe, trust, folder, readers=False)
        elsewhere = {"name": f"{__name__}:{LLMElsewhere.__name__}", "width": width}

        def change(block: Block) -> Mapping[str, Any]:
            return elsewhere if block.where.path == "model.llm" else block.options

        recipe = with_changed_blocks(recipe, change)
        model = empty_model(recipe).eval().requires_grad_(False)
        configure(model, recipe, None)
        return cls(model, slots_of(model, recipe))

    def fill(self, tensors: dict[str, Tensor], source: Path) -> None:
        """Take all tensors `encoders.*` and `adapters.*`. Raises CheckpointError where they do not fit."""
        fill(self.model, tensors, source)

    def prepare(self, slot: str, source: Any) -> dict[str, Tensor]:
        """A medium -> named tensors. Raises MediaError where it cannot be read."""
        item: dict[str, Tensor] = self.slots[slot](Media(slot, source))
        return item

    def tokens(self, slot: str, item: Mapping[str, Tensor]) -> int:
        """The number of its tokens, L."""
        count: int = self.slots[slot].tokens(item)
        return count

    def encode(self, slot: str, item: Mapping[str, Tensor], device: torch.device) -> Tensor:
        """A prepared medium -> embeddings [L, D]."""
        items = {name: tensor.to(device) for name, tensor in stacked_items([item]).items()}
        features = self.model.adapted(slot, self.model.encoded(slot, items))
        return features.values[0][features.mask[0]]

    def example(self, slot: str) -> Path:
        """A file that the slot reads, with the most tokens of those that its encoder has for tests."""
        folder = Path(self._scratch.name) / slot
        folder.mkdir(exist_ok=True)
        media = type(self.model.slot_encoders(slot)[0]).example(folder).media
        paths = [Path(each.root or "", str(each.source)) for each in media]
        return max(paths, key=lambda path: self.tokens(slot, self.prepare(slot, path)))
