"""The LLM's weights with everything that was trained in their places: LoRA added, new tokens in the tables.

Shapes: V rows of a table, K new tokens, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from omnivit.errors import CheckpointError
from omnivit.model.causal import CausalLM
from omnivit.model.lora import lora_layers


def check_whole(llm: CausalLM) -> None:
    """Check that the LLM is itself, apart from LoRA and new tokens.

    Raises:
        CheckpointError: adapters changed its layers, or its weights are quantized.
    """
    if llm._patching is not None:
        raise CheckpointError(
            "Adapters of this run changed the LLM's layers (visual expert, cross-attention, prefix, bottleneck), so "
            "the LLM alone computes something else. Use `omnivit serve`."
        )
    if llm.config.quantize is not None:
        raise CheckpointError(
            f"The LLM is quantized (`quantize: {llm.config.quantize}`), so LoRA cannot be merged into its weights. "
            "Open the run without `quantize`."
        )


@torch.no_grad()
def merged_weights(llm: CausalLM) -> Iterator[tuple[str, Tensor]]:
    """Name in transformers -> weight, tied tables once. The model is not changed."""
    layers = lora_layers(llm.hf)
    done: set[str] = set()
    for name, layer in layers.items():
        merged = copy.deepcopy(layer)
        merged.merge()
        for key, value in merged.get_base_layer().state_dict().items():
            yield f"{name}.{key}", value
        done.add(f"{name}.")
    head, table = llm.hf.get_output_embeddings(), llm.hf.get_input_embeddings()
    seen: set[int] = set()
    for name, value in llm.hf.state_dict(keep_vars=True).items():
        if any(name.startswith(prefix) for prefix in done) or id(value) in seen:
            continue
        seen.add(id(value))
        yield name, _with_new_rows(llm, value, value is table.weight, value is head.weight)


def _with_new_rows(llm: CausalLM, value: Tensor, is_table: bool, is_head: bool) -> Tensor:
    """A table [V, D] with the rows of new tokens [K, D] in their places."""
    new = llm.tokens
    if new is None or not (is_table or is_head):
        return value.detach()
    rows = new.embedding if is_table or new.output is None else new.output
    kept = value.detach()[: new.first]
    after = value.detach()[new.first + new.count :]
    return torch.cat([kept, rows.detach().to(kept.dtype), after])
