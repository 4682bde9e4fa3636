"""Requests that join and leave give the tokens of `generate`: for every family of LLMs that is taken to do so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.model.decoding import TESTED, RowDecoding, rows_of

WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES: dict[str, Any] = {**WIDTHS, "intermediate_size": 48, "num_key_value_heads": 2}
WINDOW = {"head_dim": 8, "sliding_window": 6}
SETTINGS: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "falcon": WIDTHS,
    "gpt_neox": {**WIDTHS, "intermediate_size": 48},
    "opt": {**WIDTHS, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gemma": {**SIZES, "head_dim": 8},
    "gemma2": {**SIZES, **WINDOW},
    "gemma3_text": {**SIZES, **WINDOW},
    "mistral": {**SIZES, "sliding_window": 6},
    "mixtral": {**SIZES, "num_local_experts": 4},
    "qwen2_moe": {**SIZES, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4},
    "qwen3": {**SIZES, "head_dim": 8},
}
NEW = 9
PROMPTS = (5, 14, 3, 8, 40)
"""Lengths; the second and the last one are longer than all columns that are in use when they join."""


def model_of(kind: str, **more: Any) -> CausalLM:
    """An LLM with weights that make its tokens depend on all that came before."""
    llm = CausalLM(CausalConfig(config={"model_type": kind, **SETTINGS.get(kind, SIZES), **more}, tokenizer="bytes"))
    generator = torch.Generator().manual_seed(0)
    for parameter in llm.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return llm.eval()


def prompt(llm: CausalLM, number: int) -> tuple[Tensor, Tensor, Tensor]:
    ids = 40 + (torch.arange(PROMPTS[number])[None] * (3 + number)) % 90
    return llm.embed(ids), torch.ones_like(ids, dtype=torch.bool), torch.arange(ids.shape[1])[None]


def alone(llm: CausalLM, number: int) -> list[int]:
    ids = llm.generate(*prompt(llm, number), max_new_tokens=NEW, do_sample=False, eos_token_id=None)
    return [int(id) for id in ids[0]]


def grouped(prompts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts of one sample each, padded on the left."""
    length = max(mask.shape[1] for _, mask, _ in prompts)

    def pad(tensor: Tensor) -> Tensor:
        room = torch.zeros(1, length - tensor.shape[1], *tensor.shape[2:], dtype=tensor.dtype)
        return torch.cat([room, tensor], dim=1)

    embeds, masks, positions = (torch.cat([pad(part) for part in parts]) for parts in zip(*prompts, strict=True))
    return embeds, masks, positions


@torch.inference_mode()
def together(llm: CausalLM, rows: RowDecoding) -> dict[int, list[int]]:
    """Two begin; one, then two others join while they run; each leaves after its last token."""
    ids: dict[int, list[int]] = {number: [] for number in range(len(PROMPTS))}
    running: list[int] = []
    joins = {0: [0, 1], 3: [2], 5: [3, 4]}
    for step in range(30):
        if step in joins:
            logits = rows.join(*grouped([prompt(llm, number) for number in joins[step]]))
            running += joins[step]
            fresh = joins[step]
        else:
            logits = rows.step(torch.tensor([ids[number][-1] for number in running]))
            fresh = running
        for number, id in zip(fresh, logits.argmax(dim=-1).tolist(), strict=True):
            ids[number].append(id)
        for row in reversed(range(len(running))):
            if len(ids[running[row]]) == NEW:
                rows.leave(row)
                running[row] = running[-1]
                running.pop()
        if not running and step > max(joins):
            break
    return ids


@pytest.mark.parametrize("kind", sorted(TESTED))
def test_requests_that_join_and_leave_get_the_tokens_of_generate(kind: str) -> None:
    llm = model_of(kind)
    with torch.inference_mode():
        expected = {number: alone(llm, number) for number in range(len(PROMPTS))}
    rows = llm.decoding()
    assert isinstance(rows, RowDecoding)
    found = together(llm, rows)
    assert found == expected
    assert len({tuple(ids) for ids in expected.values()}) > 2, "the prompts matter"
    assert together(llm, rows) == expected, "what earlier requests left behind changes nothing"


def test_room_grows_and_is_used_again() -> None:
    llm = model_of("llama", max_position_embeddings=2048)
    rows = RowDecoding(llm.hf, llm._positions)
    embeds, mask, positions = prompt(llm, 0)
    with torch.inference_mode():
        expected = llm.generate(embeds, mask, positions, max_new_tokens=300, do_sample=False, eos_token_id=None)
        last = rows.join(embeds, mask, positions).argmax(dim=-1)
        ids = [int(last)]
        for _ in range(299):
            last = rows.step(last).argmax(dim=-1)
            ids.append(int(last))
    assert ids == expected[0].tolist()
    assert rows._rows.column_room == 512
    with torch.inference_mode():  # one joins, the long one leaves, and the columns before the new one are free again
        first = rows.join(embeds, mask, positions).argmax(dim=-1)
        rows.leave(0)
        ids = [int(first)]
        for _ in range(250):
            first = rows.step(first).argmax(dim=-1)
            ids.append(int(first))
    assert ids == expected[0, :251].tolist()
    assert rows._rows.column_room == 512


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("jamba", {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1}),  # layers with a state
        ("openai-gpt", None),  # no cache
        ("phi3", {"original_max_position_embeddings": 16, "rope_scaling": {
            "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}}),
        ("olmo3", {"sliding_window": 6}),  # sliding windows, and not tested
    ],
)  # fmt: skip
def test_models_whose_rows_may_depend_on_each_other_are_not_taken(kind: str, settings: dict[str, Any] | None) -> None:
    options = {"n_embd": 32, "n_layer": 2, "n_head": 4} if settings is None else {**SIZES, **settings}
    llm = CausalLM(CausalConfig(config={"model_type": kind, **options}, tokenizer="bytes")).eval()
    assert llm.decoding() is None


def test_a_model_that_is_not_listed_proves_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = model_of("cohere")
    assert llm.hf.config.model_type not in TESTED
    assert llm.decoding() is not None
    embed = llm.hf.get_input_embeddings().forward
    monkeypatch.setattr(llm.hf.get_input_embeddings(), "forward", lambda ids: embed(ids) * (1 + (ids.shape[1] == 1)))
    assert rows_of(llm, llm.hf, llm._positions) is None, "its steps do not agree with its forward pass"


def test_settings_of_generation_that_the_engine_lacks_are_left_to_generate() -> None:
    llm = model_of("llama")
    llm.hf.generation_config.repetition_penalty = 1.5
    rows = llm.decoding()
    assert rows is not None and rows.adjust is not None
    llm.hf.generation_config.no_repeat_ngram_size = 2
    assert llm.decoding() is None
