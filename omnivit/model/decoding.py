"""Requests that join and leave while others run, with a causal LM of transformers (`omnivit.contracts.decoding`).

A model is taken where it is sure that its rows do not know of each other: its layers keep keys and values and nothing
else, and nothing in it depends on the longest row. Types in `TESTED` are proven by tests; any other model proves itself
once, on two short prompts.

Shapes: n running requests, B joining ones, T tokens of their prompts, D LLM width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, RepetitionPenaltyLogitsProcessor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from omnivit.contracts.llm import LanguageModel
from omnivit.model.arguments import accepted, accepts
from omnivit.model.row_cache import RowCache

TESTED = frozenset(
    {"bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral", "mixtral"}
    | {"olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "smollm3", "stablelm"}
)
"""Types of LLMs whose rows are proven to give the tokens of `generate` (tests/model/test_decoding.py)."""
UNSTEADY = frozenset({"dynamic", "longrope"})
"""Rotary embeddings whose frequencies depend on the longest row."""
KEY_VALUE = frozenset({"cache", "past_key_values"})
"""Names of the argument under which models take a cache of keys and values; others have states of other kinds."""
HARMLESS = frozenset(
    {
        "bos_token_id",
        "cache_implementation",
        "do_sample",
        "eos_token_id",
        "max_length",
        "max_new_tokens",
        "pad_token_id",
    }
    | {"repetition_penalty", "temperature", "top_k", "top_p", "transformers_version", "use_cache"}
    | {"output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate"}
)
"""Settings of a model's generation that the engine has, or that change no token."""


class RowDecoding:
    """Running requests of one model. Implements `omnivit.contracts.decoding.Decoding`."""

    def __init__(self, model: Any, positions: Callable[[Tensor], dict[str, Tensor]]) -> None:
        self.adjust = _penalty(model)
        self._model, self._positions = model, positions
        self._rows = RowCache(len(_layers(model)), model.get_input_embeddings().weight.device)
        self._next = torch.zeros(0, dtype=torch.long)
        self._options: dict[str, Any] = {"use_cache": True}
        if accepts(model, "logits_to_keep"):  # over a large vocabulary, the prompt's logits take most of the time
            self._options |= accepted(model, logits_to_keep=1)

    def join(self, embeds: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Prompts [B, T, D], padded on the left -> logits [B, V] of their first new tokens."""
        self._rows.open(len(embeds), embeds.shape[1])
        logits = self._call(mask.long(), positions, inputs_embeds=embeds)
        self._rows.add(mask)
        self._next = torch.cat([self._next.to(positions.device), positions[:, -1] + 1])
        return logits

    def step(self, ids: Tensor) -> Tensor:
        """Last ids [n] -> logits [n, V]."""
        mask = self._rows.advance()
        logits = self._call(mask, self._next[:, None], input_ids=ids[:, None])
        self._next = self._next + 1
        return logits

    def leave(self, row: int) -> None:
        """Free a row; the last row takes its number."""
        self._rows.remove(row)
        self._next[row] = self._next[-1]
        self._next = self._next[:-1]

    def _call(self, mask: Tensor, positions: Tensor, **inputs: Tensor) -> Tensor:
        arguments = accepted(
            self._model, attention_mask=mask, cache=self._rows.cache, **inputs, **self._positions(positions)
        )
        logits: Tensor = self._model(**arguments, **self._options).logits[:, -1]
        return logits


def rows_of(llm: LanguageModel, model: Any, positions: Callable[[Tensor], dict[str, Tensor]]) -> RowDecoding | None:
    """The running requests of a model; None where it is not sure that its rows are independent.

    Args:
        llm: whose `forward` the model must agree with.
        model: the transformers model.
        positions: positions [B, T] -> the model's arguments for them.
    """
    if not _understood(model):
        return None
    if model.config.model_type in TESTED or _agrees(llm, RowDecoding(model, positions)):
        return RowDecoding(model, positions)
    return None


def _understood(model: Any) -> bool:
    layers = _layers(model)
    kinds = {type(layer) for layer in layers}
    tested = model.config.model_type in TESTED
    return bool(
        type(model).__module__.startswith("transformers.")
        and layers
        and kinds <= ({DynamicLayer, DynamicSlidingWindowLayer} if tested else {DynamicLayer})
        and not model.config.is_encoder_decoder
        and UNSTEADY.isdisjoint(_rope_types(model.config.to_dict()))
        and not unusual_settings(model.generation_config)
    )


def _layers(model: Any) -> list[Any]:
    """The layers of the cache that transformers would make for a model; none where it makes none."""
    if not (accepts(model, "cache") and accepts(model, "input_ids") and accepts(model, "inputs_embeds")):
        return []
    if not KEY_VALUE.issuperset(accepted(model, cache=None)):
        return []
    return list(DynamicCache(config=model.config.get_text_config(decoder=True)).layers)


def _rope_types(settings: Any) -> Iterator[str]:
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key in ("rope_type", "type") and isinstance(value, str):
                yield value
            yield from _rope_types(value)


def unusual_settings(settings: GenerationConfig) -> list[str]:
    """The names of a model's settings of generation that change tokens and that the engine does not have."""
    default = GenerationConfig().to_dict()  # type: ignore[no-untyped-call]
    return [
        name
        for name, value in settings.to_dict().items()
        if name not in HARMLESS and not name.startswith("_") and value and value != default.get(name)
    ]


def _penalty(model: Any) -> Callable[[Tensor, Tensor], Tensor] | None:
    penalty = model.generation_config.repetition_penalty
    return None if penalty in (None, 1.0) else RepetitionPenaltyLogitsProcessor(penalty)


@torch.inference_mode()
def _agrees(llm: LanguageModel, rows: RowDecoding) -> bool:
    """Whether rows that join one after the other give the logits of the whole sequences."""
    device = llm.embedding().device
    texts = [torch.arange(3, 6, device=device), torch.arange(4, 13, device=device)]
    fresh = torch.tensor([7, 8], device=device)
    try:
        logits = []
        for text in texts:  # the second prompt is longer than the first one is by then
            mask = torch.ones(1, len(text), dtype=torch.bool, device=device)
            rows.join(llm.embed(text[None]), mask, torch.arange(len(text), device=device)[None])
        for id in fresh:
            logits = list(rows.step(id.repeat(2)))
        wholes = [torch.cat([text, fresh])[None] for text in texts]
        return all(_close(ours, _last(llm, ids)) for ours, ids in zip(logits, wholes, strict=True))
    except Exception:
        return False  # it has a cache of another kind, or takes other arguments: `generate` knows them


def _last(llm: LanguageModel, ids: Tensor) -> Tensor:
    mask = torch.ones_like(ids, dtype=torch.bool)
    keep = mask.clone()
    keep[:, :-1] = False
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    logits: Tensor = llm(llm.embed(ids), mask, positions, keep).logits[0]
    return logits


def _close(ours: Tensor, theirs: Tensor) -> bool:
    """Equal within the precision of the weights."""
    bound = 64 * torch.finfo(theirs.dtype).eps * float(theirs.abs().max())
    return bool((ours - theirs).abs().max() <= bound)
