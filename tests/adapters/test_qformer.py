"""The adapter `qformer`: LAVIS's own numbers, masks, instructions, and what a recipe may say."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matrix_support import model_of, recipe_of
from omnivit_adapters.qformer.adapter import QFormerAdapter, QFormerConfig
from qformer_support import GOLDEN, LLM, SIZES, TEXT, close, inputs, lavis_file, lavis_state, make

from omnivit.contracts.adapter import Instruction
from omnivit.contracts.features import Features, Layout
from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.data.collate import collate
from omnivit.errors import RecipeError
from omnivit.model.build import preparer_of

LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
         "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), [("plain", {}), ("instructed", TEXT)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_numbers_and_gradients_are_those_of_lavis(kind: str, options: Any, attention: str, tmp_path: Path) -> None:
    path = lavis_file(tmp_path, lavis_state(kind))
    adapter = make(path, input_norm=True, attention=attention, **options)
    features, instruction = inputs()
    features.values.requires_grad_()
    values = adapter(features, instruction).values
    close(values, GOLDEN[kind]["output"])
    (values * torch.cos(torch.arange(values.numel()).float()).reshape(values.shape)).sum().backward()
    close(features.values.grad, GOLDEN[kind]["grad_rows"])
    close(adapter.query_tokens.grad, GOLDEN[kind]["grad_query_tokens"])
    key = adapter.qformer.encoder.layer[1].attention.attention.key.weight
    close(key.grad, GOLDEN[kind]["grad_layer_1_attention_key"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 0}, "must be at least 1"),
        ({"heads": 5}, r"hidden \(768\) cannot be divided by 5 heads"),
        ({"dropout": 1.0}, r"dropout \(1\.0\)"),
        ({"instruction_limit": 600}, r"instruction_limit \(600\) must be between 1 and `positions` \(512\)"),
        ({"vocabulary": 9}, "Set `instruction_tokenizer`"),
        ({"attention": "flash"}, r"adapter\.attention: 'flash' is not allowed"),
    ],
)
def test_impossible_options_name_the_place(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        merge_options(QFormerConfig, options, "model.inputs.image.adapter")
    assert "model.inputs.image.adapter" in str(caught.value)


def test_a_table_smaller_than_the_tokenizer_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"`vocabulary` \(100\) is smaller than the tokenizer 'bytes' \(264 tokens\)"):
        make(vocabulary=100, **TEXT)


@pytest.mark.parametrize("options", [{}, TEXT], ids=["plain", "instructed"])
def test_padding_has_no_part_in_it(options: Any) -> None:
    adapter, (features, instruction) = make(**options), inputs()
    wild = features.values.masked_fill(~features.mask[..., None], float("nan"))
    words = replace(instruction, input_ids=instruction.input_ids.masked_fill(~instruction.attention_mask, 7))
    together = adapter(features.with_values(wild), words).values
    assert torch.equal(together, adapter(features, instruction).values)
    for number, (rows, tokens) in enumerate(
        zip(features.lengths(), instruction.attention_mask.sum(dim=1), strict=True)
    ):
        one = Features(features.values[number : number + 1, :rows], features.mask[number : number + 1, :rows])
        alone = Instruction(
            instruction.input_ids[number : number + 1, :tokens],
            instruction.attention_mask[number : number + 1, :tokens],
        )
        close(together[number], adapter(one, alone).values[0], 1e-6)
    empty = replace(features, mask=torch.zeros_like(features.mask))
    assert bool(adapter(empty, instruction).values.isfinite().all())


def test_as_many_rows_as_queries_whatever_comes_in() -> None:
    adapter, (features, _) = make(), inputs()
    out = adapter(features)
    assert out.values.shape == (3, 4, LLM) and bool(out.mask.all()) and out.grid is None
    rule = pickle.loads(pickle.dumps(adapter.length))
    assert rule(Layout(7, (7,))) == rule(Layout(300)) == Layout(4)
    with pytest.raises(RecipeError, match="the medium has no tokens"):
        rule(Layout(0))


@pytest.mark.parametrize("options", [{}, TEXT], ids=["plain", "instructed"])
def test_every_parameter_learns_and_no_text_ends_unseen(options: Any) -> None:
    adapter, (features, instruction) = make(input_norm=True, **options), inputs()
    half = features.with_values(features.values.bfloat16())
    out = adapter(half, instruction).values
    assert out.dtype == torch.float32
    out.square().sum().backward()
    assert [name for name, p in adapter.named_parameters() if p.grad is None] == []
    assert not any(name.startswith("qformer.encoder.layer.2.output.") for name, _ in adapter.named_parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert bool(adapter(half, instruction).values.isfinite().all())
    assert adapter.bfloat16()(half, instruction).values.dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{}, TEXT], ids=["plain", "instructed"])
def test_it_compiles_in_one_piece(options: Any) -> None:
    adapter, (features, instruction) = make(**options), inputs()
    compiled = torch.compile(adapter, backend="eager", fullgraph=True)
    close(compiled(features, instruction).values, adapter(features, instruction).values, 1e-6)


def test_dropout_only_while_training() -> None:
    adapter, (features, _) = make(dropout=0.5), inputs()
    assert torch.equal(adapter(features).values, adapter(features).values)
    adapter.train()
    assert not torch.equal(adapter(features).values, adapter(features).values)


def test_begins_as_the_original_and_builds_on_meta() -> None:
    adapter = QFormerAdapter(QFormerConfig(layers=2), 32, LLM)
    named = dict(adapter.named_parameters())
    for name in ("query_tokens", "qformer.encoder.layer.1.attention.attention.query.weight"):
        assert 0.019 < float(named[name].detach().std()) < 0.021
    assert not bool(named["qformer.encoder.layer.1.attention.attention.query.bias"].any())
    with torch.device("meta"):
        blip2 = QFormerAdapter(QFormerConfig(), 1408, 2560)
    assert all(parameter.is_meta for parameter in blip2.parameters())
    projection = 768 * 2560 + 2560
    assert sum(p.numel() for p in blip2.parameters()) == 105_137_664 + 32 * 768 + projection
    crossed = [hasattr(layer, "crossattention") for layer in blip2.qformer.encoder.layer]
    assert crossed == [True, False] * 6


def test_the_instruction_is_asked_for() -> None:
    with pytest.raises(ValueError, match="no instruction is given"):
        make(**TEXT)(inputs()[0])


def sample(name: str, question: str, answer: str, after: str = "Why?") -> Sample:
    asks = Message("user", (Media("media", 0), Text(question)))
    later = (Message("user", (Text(after),)), Message("assistant", (Text("So."),)))
    return Sample(name, (asks, Message("assistant", (Text(answer),)), *later))


def test_it_sees_the_question_and_never_the_answer() -> None:
    block = {"name": "omnivit_adapters.qformer.adapter:QFormerAdapter", **SIZES, **TEXT}
    recipe, model = recipe_of(block, "image", LLAMA), model_of(block, "image", LLAMA)
    preparer = preparer_of(model, recipe)
    asked = [sample("a", "Which colour?", "red"), sample("b", "Which colour?", "a long green answer", "How?"),
             sample("c", "Which shape?!", "red")]  # fmt: skip
    seen = []
    for one in asked:  # each alone, so that no batch neighbour changes the padding
        batch = collate([preparer(one)], ("media",), preparer.chat.pad_id)
        seen.append(model.encode(batch)["media"].values)
    assert torch.equal(seen[0], seen[1])
    assert float((seen[0] - seen[2]).abs().max()) > 1e-6
    batch = collate([preparer(one) for one in asked], ("media",), preparer.chat.pad_id)
    close(model.encode(batch)["media"].values, torch.cat(seen), 1e-6)
    assert bool(model(batch).logits.isfinite().all())


def test_without_projection_a_chain_goes_on() -> None:
    step = {"name": "omnivit_adapters.qformer.adapter:QFormerAdapter", **SIZES, "projection": False}
    chain = {"name": "chain", "steps": [step, {"name": "linear"}]}
    model = model_of(chain, "video", LLAMA)
    assert model.adapters["media"].steps[1].layers[0].weight.shape == (32, 16)
    with pytest.raises(RecipeError, match="tokens of width 16, but the LLM takes 32"):
        model_of(step, "video", LLAMA)
