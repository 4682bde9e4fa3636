"""`visual_expert`: separate weights for the tokens of media in the LLM's layers.

CogVLM (Wang et al., CogVLM: Visual Expert for Pretrained Language Models, arXiv 2311.03079, section 2.1): in every
layer, a second QKV matrix, output matrix and MLP process the tokens of images. They start as copies of the LLM's
weights, which may stay frozen, so that the outputs for text alone do not change. Attention itself is over all tokens,
as before.

Shapes: M media, S tokens of a medium, D LLM width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from omnivit.plugin import (
    Adapter,
    AdapterExample,
    Card,
    Encoder,
    Features,
    Instruction,
    LanguageModel,
    Layer,
    Layout,
    RecipeError,
    chosen,
    copy_of,
    same_length,
)


@dataclass
class VisualExpertConfig:
    """Options of `visual_expert`."""

    layers: list[int] | None = None
    """Numbers of the layers with experts, from 0; default: every `layer_interval`-th layer."""
    layer_interval: int = 1
    """Distance between layers with experts: with 4, layers 3, 7, 11, ... (counted from 0); default: all layers."""
    parts: Literal["all", "attention", "mlp"] = "all"
    """Parts of a layer with experts: the projections of the attention, the MLP, or both as in CogVLM."""
    boundary_tokens: bool = False
    """The first and last token of a medium are its begin and end vectors (see `markers`), which CogVLM treats
    differently: all tokens between them share one position, and the LLM's own weights process the last token."""

    renamed: ClassVar[Mapping[str, str]] = {"every": "layer_interval", "ends": "boundary_tokens"}

    def __post_init__(self) -> None:
        if self.layer_interval < 1:
            raise ValueError(f"layer_interval ({self.layer_interval}) must be at least 1.")
        if self.layers is not None and (not self.layers or self.layer_interval != 1):
            raise ValueError("set either `layer_interval`, or `layers` with at least one number.")


class VisualExpertAdapter(Adapter):
    """Returns tokens [M, S, D] unchanged (D must be the LLM's width), and adds experts for them to the LLM's layers.

    Parameters are `layers.N.q_proj.weight`, ..., `layers.N.mlp.gate_proj.weight`, by the LLM's own names; they exist
    after `install`.
    """

    Config = VisualExpertConfig
    contract = 1
    packs = True
    card = Card(
        paper="Wang et al., CogVLM: Visual Expert for Pretrained Language Models, arXiv 2311.03079",
        tokens="as many as it receives",
    )

    def __init__(self, config: VisualExpertConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.width = width
        self.config = config
        self.length = between_markers if config.boundary_tokens else same_length
        self.positions = between_ends if config.boundary_tokens else None
        self.layers = nn.ModuleDict()

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Two layers of the LLM."""
        del folder
        return AdapterExample({"layers": [0, 3]}, width=32, text_unchanged=True)

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        """Copy the chosen modules; the copies process the tokens of the slot's media.

        Raises:
            RecipeError: a layer does not exist, its weights are quantized, or the layers of the LLM are not supported.
        """
        del encoder
        for layer in chosen(llm.patching.layers, self.config.layers, self.config.layer_interval):
            modules = self._replaced(layer)
            if str(layer.index) not in self.layers:  # an adapter that two inputs share is installed twice
                self.layers[str(layer.index)] = nn.ModuleDict({name: copy_of(part) for name, part in modules.items()})
            experts = self.layers[str(layer.index)]
            assert isinstance(experts, nn.ModuleDict)
            for name, module in modules.items():
                llm.patching.twin(module, slot, experts[name], inner=self.config.boundary_tokens)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] as they are."""
        del instruction
        return features

    def _replaced(self, layer: Layer) -> dict[str, nn.Module]:
        attention = layer.projections() if self.config.parts != "mlp" else {}
        return attention if self.config.parts == "attention" else {**attention, "mlp": layer.mlp}


def between_ends(rows: int) -> Tensor:
    """[tokens] 0 for the first, 1 for all between, 2 for the last."""
    positions = torch.ones(rows, dtype=torch.long)
    positions[0] = 0
    if rows > 1:
        positions[-1] = min(2, rows - 1)
    return positions


def between_markers(layout: Layout) -> Layout:
    """The length rule with begin and end vectors. Raises RecipeError if there are fewer than two tokens."""
    if layout.tokens < 2:
        raise RecipeError(
            f"visual_expert: `boundary_tokens: true` expects that the first and last token of a medium are its begin "
            f"and end vectors, but this medium has {layout.tokens} tokens. Put `{{name: markers, begin: true, end: "
            f"true}}` before `visual_expert` in the chain, or remove `boundary_tokens`."
        )
    return layout
