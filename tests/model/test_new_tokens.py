"""Rows of new tokens do what resizing the tables would do, and leave the tables alone."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from omnivit.errors import RecipeError
from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.model.lora import Lora
from omnivit.model.new_tokens import NewTokens, add_to_tokenizer
from omnivit.model.tokens import byte_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8, "layer_types": ["full_attention"] * 2},
    "phi": {},
}
"""Apart, one table, one table that scales, a head with a bias."""
ROWS, NEW = 264, 3


def built(family: str, rows: int = ROWS) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=rows, pad_token_id=256, **SIZES, **FAMILIES[family])
    return AutoModelForCausalLM.from_config(config).eval()


def resized(model: Any, new: NewTokens) -> Any:
    """A copy whose tables hold the same rows at the end, by transformers' own way."""
    plain = copy.deepcopy(model)
    plain.resize_token_embeddings(ROWS + NEW, mean_resizing=False)
    with torch.no_grad():
        plain.get_input_embeddings().weight[ROWS:] = new.embedding
        head = plain.get_output_embeddings()
        head.weight[ROWS:] = new.embedding if new.output is None else new.output
        if new.bias is not None:
            head.bias[ROWS:] = new.bias
    return plain


def beside(model: Any, *ids: int) -> NewTokens:
    return NewTokens(model.get_input_embeddings(), model.get_output_embeddings(), ids)


def changed(model: Any, rows: int = ROWS) -> NewTokens:
    new = beside(model, *range(rows, rows + NEW))
    for parameter in new.parameters():
        nn.init.normal_(parameter, std=0.1)
    return new


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_equal_those_of_resized_tables(family: str) -> None:
    model = built(family)
    other = copy.deepcopy(model)
    new = changed(model)
    plain = resized(other, new)
    ids = torch.tensor([[5, ROWS, 7, ROWS + 2, 9], [ROWS + 1, 1, 2, 3, ROWS]])
    ours, theirs = model(input_ids=ids).logits, plain(input_ids=ids).logits
    assert ours.shape == theirs.shape == (2, 5, ROWS + NEW)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    for logits in (ours, theirs):
        (logits * weights).sum().backward()
    table, head = plain.get_input_embeddings(), plain.get_output_embeddings()
    assert new.embedding.grad is not None and new.embedding.grad.any()
    torch.testing.assert_close(new.embedding.grad, table.weight.grad[ROWS:], rtol=1e-4, atol=1e-4)
    assert (new.output is None) == (head.weight is table.weight)
    if new.output is not None:
        torch.testing.assert_close(new.output.grad, head.weight.grad[ROWS:], rtol=1e-4, atol=1e-4)
    if new.bias is not None:
        torch.testing.assert_close(new.bias.grad, head.bias.grad[ROWS:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_writes_and_reads_them(family: str) -> None:
    model = built(family)
    untouched = copy.deepcopy(model)
    new = changed(model)
    with torch.no_grad():  # so that the new ones are what it likes to say
        for name, parameter in new.named_parameters():
            parameter.mul_(8 if name in ("embedding", "output") else 1)
    plain = resized(untouched, new)
    ids = torch.tensor([[5, ROWS + 1, 7, 8], [1, 2, 3, ROWS + 2]])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 256}
    ours, theirs = model.generate(input_ids=ids, **options), plain.generate(input_ids=ids, **options)
    assert ours.tolist() == theirs.tolist()
    assert int(ours[:, 4:].max()) >= ROWS, "none of them was written, so that nothing is shown"


def test_spare_rows_of_a_table_are_passed_over() -> None:
    """Many models have more rows than their tokenizer has tokens: new ids fall on those."""
    model = built("llama", rows=ROWS + 8)
    before = model(input_ids=torch.tensor([[1, 2]])).logits
    new = changed(model)
    after = model(input_ids=torch.tensor([[1, 2]])).logits
    assert after.shape == before.shape
    assert torch.equal(after[..., :ROWS], before[..., :ROWS])
    assert torch.equal(after[..., ROWS + NEW :], before[..., ROWS + NEW :])
    assert not torch.isclose(after[..., ROWS : ROWS + NEW], before[..., ROWS : ROWS + NEW]).any()
    torch.testing.assert_close(model.get_input_embeddings()(torch.tensor([ROWS + 1]))[0], new.embedding[1])


def test_they_begin_as_the_mean() -> None:
    model = built("llama")
    before = model(input_ids=torch.tensor([[1, 2]])).logits.log_softmax(dim=-1)
    new = beside(model, ROWS)
    torch.testing.assert_close(new.embedding[0], model.get_input_embeddings().weight.mean(dim=0))
    after = model(input_ids=torch.tensor([[1, 2]])).logits.log_softmax(dim=-1)
    assert float((before - after[..., :ROWS]).abs().max()) < 2 / ROWS  # a share of one among so many


def test_weights_of_other_dtypes() -> None:
    model = built("llama").bfloat16()
    new = changed(model)
    logits = model(input_ids=torch.tensor([[ROWS, 1]])).logits
    assert new.embedding.dtype == torch.float32 and logits.dtype == torch.bfloat16 and logits.isfinite().all()


def test_what_has_no_place_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"new tokens have the ids \[264, 266\], but the table .* has 264 rows"):
        beside(built("llama"), ROWS, ROWS + 2)
    with pytest.raises(RecipeError, match="must be consecutive"):
        beside(built("llama"), ROWS + 1)
    quantized = built("llama")
    quantized.set_output_embeddings(Quantized())
    with pytest.raises(RecipeError, match="quantized"):
        beside(quantized, ROWS)


class Quantized(nn.Module):
    """Weights that are no numbers to train beside."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(4, 4, dtype=torch.int8))


def test_tokenizers_take_them_once() -> None:
    tokenizer = byte_tokenizer()
    assert add_to_tokenizer(tokenizer, ["[BOX]", "<|reserved_1|>", "[SEG]"]) == [264, 265]
    assert add_to_tokenizer(tokenizer, ["[BOX]"]) == []
    assert tokenizer("a[SEG] b[BOX]")["input_ids"] == [97, 265, 32, 98, 264]
    assert tokenizer.decode([97, 264], skip_special_tokens=True) == "a[BOX]"


def causal(**options: Any) -> CausalLM:
    config = {"model_type": "llama", "num_key_value_heads": 2, **SIZES}
    return CausalLM(CausalConfig(config=config, tokenizer="bytes", **options))


def test_the_llm_trains_them_alone() -> None:
    llm = causal()
    llm.add_tokens(["[BOX]"])
    assert {name for name, _ in llm.named_parameters() if name.startswith("tokens.")} == {
        "tokens.embedding", "tokens.output",
    }  # fmt: skip
    table = llm.embedding().clone()
    optimizer = torch.optim.AdamW(llm.tokens.parameters(), lr=0.1, weight_decay=0.1)  # type: ignore[union-attr]
    ids = torch.tensor([[1, 264, 2, 264]])
    mask = torch.ones_like(ids, dtype=torch.bool)

    def output() -> Tensor:
        return llm(llm.embed(ids), mask, torch.arange(4)[None], mask).logits

    before = output().detach()
    before.requires_grad_(False)
    output()[:, 264].sum().backward()
    optimizer.step()
    assert torch.equal(llm.embedding(), table)
    assert not torch.allclose(output(), before)


def test_nothing_changes_where_nothing_is_new() -> None:
    llm = causal()
    llm.add_tokens(["<|reserved_0|>"])
    assert llm.tokens is None


def test_with_lora_on_the_output_head() -> None:
    llm = causal(lora=Lora(r=2, targets=["lm_head", "q_proj"]))
    llm.add_peft()
    llm.add_tokens(["[BOX]"])
    ids = torch.tensor([[1, 264, 2]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    found = llm(llm.embed(ids), mask, torch.arange(3)[None], mask).logits
    assert found.shape == (3, 265)
    found.sum().backward()
    assert llm.tokens is not None and llm.tokens.embedding.grad is not None


def test_they_learn_as_peft_trains_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's contenders, at a tiny size: the same losses, step by step."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    benchmark: Any = importlib.import_module("new_tokens")
    for name, value in {"WORDS": 64, "WIDTH": 32, "LENGTH": 16, "RATE": 0.05}.items():
        monkeypatch.setattr(benchmark, name, value)
    losses = {}
    for make in (benchmark.beside, benchmark.peft):
        model, trained = make()
        step, _ = benchmark.stepper(model, trained, 64 + benchmark.NEW)
        losses[make.__name__] = [step() for _ in range(5)]
    assert losses["beside"] == pytest.approx(losses["peft"], rel=1e-6)
    assert losses["beside"][-1] < losses["beside"][0] - 0.01
    assert [name for name, *_ in benchmark.compare(rounds=1)] == ["omnivit", "peft", "resized", "none"]
