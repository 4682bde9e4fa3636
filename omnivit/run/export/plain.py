"""A model's tensors under the names that transformers gives them: LoRA merged, new tokens in the tables.

Nothing changes in the model that is read. Shapes: V rows of a table, K new tokens, D width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnivit.errors import RecipeError
from omnivit.model.causal import CausalLM
from omnivit.model.lora import lora_layers
from omnivit.model.new_tokens import NewTokens

SHARD = "4GB"
"""The most that one file of weights holds."""


@dataclass(frozen=True)
class PlainLLM:
    """An LLM as transformers has it."""

    state: dict[str, Tensor]
    """Without the output head, where it shares the table of embeddings."""
    config: Any
    """Its transformers config, a copy."""


@torch.no_grad()
def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The stored tensors of a module with its LoRA (or DoRA) merged in float32, under the names without LoRA."""
    layers = lora_layers(module)
    state = {
        name.replace(".base_layer.", "."): value.detach()
        for name, value in module.state_dict().items()
        if ".lora_" not in f".{name}"
    }
    for name, layer in layers.items():
        weight = layer.get_base_layer().weight
        if not weight.is_floating_point():
            raise RecipeError(f"The weights of {name} are quantized, so LoRA cannot be merged into them.")
        merged = copy.deepcopy(layer).float()
        merged.merge(safe_merge=True)
        state[f"{name}.weight"] = merged.get_base_layer().weight.detach()
    return state


def plain_llm(llm: CausalLM) -> PlainLLM:
    """An LLM with LoRA merged and the rows of new tokens in its tables.

    Raises:
        RecipeError: an adapter changes layers of it, or its weights are quantized.
    """
    if llm._patching is not None:
        raise RecipeError(
            "An adapter of this run changes layers of the LLM, so the LLM alone computes something else. Use "
            "`--to hf`, which keeps both together."
        )
    return _plain(llm)


def _plain(llm: CausalLM) -> PlainLLM:
    state, config = plain_state(llm.hf), copy.deepcopy(llm.hf.config)
    names = {id(module): name for name, module in llm.hf.named_modules()}
    table, head = llm.hf.get_input_embeddings(), llm.hf.get_output_embeddings()
    tied = head.weight is table.weight
    places = (f"{names[id(table)]}.weight", f"{names[id(head)]}.weight", f"{names[id(head)]}.bias")
    if llm.tokens is not None:
        _add_rows(state, llm.tokens, places)
        config.get_text_config().vocab_size = len(state[places[0]])
    if tied:
        state.pop(places[1], None)
    config.get_text_config().tie_word_embeddings = tied
    return PlainLLM(state, config)


def _add_rows(state: dict[str, Tensor], tokens: NewTokens, places: tuple[str, str, str]) -> None:
    """Write the rows of new tokens into the tables of embedding, output head and its bias."""
    output = tokens.embedding if tokens.output is None else tokens.output
    for place, rows in zip(places, (tokens.embedding, output, tokens.bias), strict=True):
        if rows is not None and place in state:
            state[place] = with_rows(state[place], tokens.first, rows.detach())


def with_rows(table: Tensor, first: int, rows: Tensor) -> Tensor:
    """A table [V, ...] with K rows from `first` on, in the place of its own or after its end."""
    longer = table.new_zeros((max(len(table), first + len(rows)), *table.shape[1:]))
    longer[: len(table)] = table
    longer[first : first + len(rows)] = rows.to(table.dtype)
    return longer


def write_weights(folder: Path, state: dict[str, Tensor], dtype: torch.dtype | None) -> None:
    """Write tensors as model.safetensors, in shards if they are large; floating point ones in `dtype`, if given."""
    from huggingface_hub import save_torch_state_dict

    cast = {
        name: (value.to(dtype) if dtype is not None and value.is_floating_point() else value).contiguous().clone()
        for name, value in state.items()
    }
    save_torch_state_dict(cast, folder, max_shard_size=SHARD)
