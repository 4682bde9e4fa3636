"""`modality_adaptive`: separate norms, keys and values for the tokens of media; query, output and MLP are shared.

mPLUG-Owl2 (Ye et al., mPLUG-Owl2: Revolutionizing Multi-modal Large Language Model with Modality Collaboration, arXiv
2311.04257, section 3.2): tokens of text and of media have separate weights for norms, keys and values, and common
weights for queries. The new weights start as copies of the LLM's, so that the outputs for text alone do not change.

The paper describes LLaMA's two norms. If a block has more norms (Gemma 2 and 3), each gets a copy for media. The norms
of queries and keys inside an attention (Qwen 3, Gemma 3) stay shared, as does everything there but the projections.

Shapes: M media, S tokens of a medium, D LLM width, B samples, T tokens, R tokens of media, Q width of all queries, K
width of all keys and values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from omnivit.plugin import (
    Adapter,
    AdapterExample,
    Card,
    Context,
    Encoder,
    Features,
    Instruction,
    LanguageModel,
    Layer,
    Patching,
    RecipeError,
    chosen,
    copy_of,
    same_length,
)

FUSED = "qkv_proj"
"""One matrix for query, key and value, in this order (Phi 3)."""


@dataclass
class ModalityAdaptiveConfig:
    """Options of `modality_adaptive`."""

    layers: list[int] | None = None
    """Numbers of the layers with separate weights, from 0; default: every `layer_interval`-th layer."""
    layer_interval: int = 1
    """Distance between layers with separate weights: with 4, layers 3, 7, 11, ... (counted from 0); default: all
    layers."""

    renamed: ClassVar[Mapping[str, str]] = {"every": "layer_interval"}

    def __post_init__(self) -> None:
        if self.layer_interval < 1:
            raise ValueError(f"layer_interval ({self.layer_interval}) must be at least 1.")
        if self.layers is not None and (not self.layers or self.layer_interval != 1):
            raise ValueError("set either `layer_interval`, or `layers` with at least one number.")


class ModalityAdaptiveAdapter(Adapter):
    """Returns tokens [M, S, D] unchanged (D must be the LLM's width), and adds weights for them to the LLM's layers.

    Parameters are `layers.N.k_proj.weight`, `layers.N.v_proj.weight`, `layers.N.input_layernorm.weight`, ..., by the
    LLM's own names (`layers.N.kv_proj.weight` [K, D] where the LLM fuses its projections); they exist after `install`.
    """

    Config = ModalityAdaptiveConfig
    contract = 1
    packs = True
    card = Card(
        paper="Ye et al., mPLUG-Owl2: Revolutionizing Multi-modal Large Language Model with Modality Collaboration, "
        "arXiv 2311.04257",
        tokens="as many as it receives",
    )
    length = staticmethod(same_length)

    def __init__(self, config: ModalityAdaptiveConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.width = width
        self.config = config
        self.layers = nn.ModuleDict()

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Two layers of the LLM."""
        del folder
        return AdapterExample({"layers": [0, 3]}, width=32, text_unchanged=True)

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        """Copy norms, key and value of the chosen layers, and let the copies map the tokens of the slot's media.

        Raises:
            RecipeError: a layer does not exist, its projections are not supported, or its weights are quantized.
        """
        del encoder
        for layer in chosen(llm.patching.layers, self.config.layers, self.config.layer_interval):
            if str(layer.index) not in self.layers:  # an adapter that two inputs share is installed twice
                self.layers[str(layer.index)] = _copies(layer)
            copies = self.layers[str(layer.index)]
            assert isinstance(copies, nn.ModuleDict)
            _install(llm.patching, layer, copies, slot)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] as they are."""
        del instruction
        return features


def _copies(layer: Layer) -> nn.ModuleDict:
    projections = layer.projections()
    copies = {name: copy_of(norm) for name, norm in layer.norms.items()}
    if FUSED in projections:
        copies["kv_proj"] = _lower_part(copy_of(projections[FUSED]), _query_width(layer))
    elif {"k_proj", "v_proj"} <= projections.keys():
        copies |= {name: copy_of(projections[name]) for name in ("k_proj", "v_proj")}
    else:
        raise RecipeError(
            f"modality_adaptive: the projections of {type(layer.attention).__name__} are {', '.join(projections)}, but "
            f"the adapter needs `k_proj` and `v_proj`, or `{FUSED}`. Use `visual_expert`, which supports other "
            f"projections."
        )
    return nn.ModuleDict(copies)


def _install(patching: Patching, layer: Layer, copies: nn.ModuleDict, slot: str) -> None:
    originals = {**layer.norms, **layer.projections()}
    for name, module in copies.items():
        if name == "kv_proj":
            patching.around(originals[FUSED], functools.partial(_fused, module, _query_width(layer), slot))
        else:
            patching.twin(originals[name], slot, module)


def _query_width(layer: Layer) -> int:
    """Q, which is the width of the output projection's input."""
    return int(layer.projections()["o_proj"].in_features)  # type: ignore[arg-type]


def _lower_part(linear: nn.Module, start: int) -> nn.Module:
    """The outputs of a linear layer from `start` on."""
    assert isinstance(linear, nn.Linear)
    linear.weight = nn.Parameter(linear.weight.detach()[start:].clone())
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[start:].clone())
    linear.out_features -= start
    return linear


def _fused(expert: nn.Module, start: int, slot: str, plain: Callable[[Tensor], Tensor], context: Context | None,
           hidden: Tensor) -> Tensor:  # fmt: skip
    """[B, T, D] -> [B, T, Q + K]: keys and values of the slot's media by `expert`, the rest by the LLM."""
    projected = plain(hidden)
    if context is None or slot not in context.media or not len(context.media[slot].tokens):
        return projected
    rows = context.media[slot].tokens
    media = hidden.flatten(0, 1).index_select(0, rows).to(next(expert.parameters()).dtype)
    query, rest = projected.flatten(0, 1).tensor_split((start,), dim=1)
    rest = rest.index_copy(0, rows, expert(media).to(rest.dtype))
    return torch.cat([query, rest], dim=1).view(projected.shape)
