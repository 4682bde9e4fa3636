"""The adapter `vocabulary`: parity with Macaw-LLM, whose table it reads, masks, refusals."""

from __future__ import annotations

import copy
import math
import pickle
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_support import read_golden
from matrix_support import RowsConfig, RowsEncoder
from omnivit_adapters.vocabulary import VocabularyAdapter, VocabularyConfig
from torch import Tensor, nn

from omnivit.contracts.features import Features, Layout
from omnivit.contracts.options import merge_options
from omnivit.errors import RecipeError
from omnivit.model.causal import CausalConfig, CausalLM

GOLDEN = read_golden("adapters/vocabulary")
WIDTH, LLM, TOKENS, TABLE = 10, 32, 23, "llm.model.embed_tokens.weight"


def weight(name: str) -> Tensor:
    """What the golden numbers were made with: a sine, whose phase the name decides."""
    shape = GOLDEN["keys"][name]
    phase = zlib.crc32(name.encode()) % 1000
    return (0.3 * torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.7 + phase)).reshape(shape).float()


@pytest.fixture(scope="module")
def macaw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Macaw-LLM with the keys of all branches and of other parts."""
    path = tmp_path_factory.mktemp("macaw") / "pytorch_model.bin"
    torch.save({name: weight(name) for name in GOLDEN["keys"]}, path)
    return path


@pytest.fixture
def llm() -> CausalLM:
    """A tiny LLM whose table is the golden one."""
    sizes = {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    llm = CausalLM(CausalConfig(tokenizer="bytes", config={"model_type": "llama", "hidden_size": LLM, **sizes}))
    set_table(llm, weight(TABLE))
    return llm


def set_table(llm: CausalLM, table: Tensor) -> None:
    llm.hf.set_input_embeddings(nn.Embedding.from_pretrained(table.clone(), freeze=False))


def build(llm: CausalLM | None = None, width: int = WIDTH, **options: Any) -> VocabularyAdapter:
    torch.manual_seed(0)
    adapter = VocabularyAdapter(VocabularyConfig(**{"heads": 4, **options}), width, LLM)
    adapter.load()
    if llm is not None:
        adapter.install(llm, RowsEncoder(RowsConfig()), "image")
    return adapter.eval()


def features() -> Features:
    """The golden rows: two media of five."""
    rows = torch.sin(torch.arange(2 * 5 * WIDTH, dtype=torch.float64) * 1.3).reshape(2, 5, WIDTH).float()
    return Features(rows, torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, 5, 2, dtype=torch.long))


def golden(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.tensor(GOLDEN[name]).reshape(shape)


def test_numbers_are_those_of_macaw_llm(macaw: Path, llm: CausalLM) -> None:
    adapter, found = build(llm, path=str(macaw)), features()
    found.values.requires_grad_()
    out = adapter(found).values
    torch.testing.assert_close(out, golden("output", (2, 5, LLM)), rtol=0, atol=1e-5)
    (out * torch.cos(torch.arange(out.numel()).float()).reshape(out.shape)).sum().backward()
    assert found.values.grad is not None and adapter.attention.bias_k.grad is not None
    torch.testing.assert_close(found.values.grad, golden("grad_rows", (2, 5, WIDTH)), rtol=0, atol=1e-5)
    torch.testing.assert_close(adapter.attention.bias_k.grad, golden("grad_bias_k", (1, 1, LLM)), rtol=0, atol=1e-5)
    table = llm.embedding().grad
    assert table is not None
    torch.testing.assert_close(table[3:], golden("grad_table", (TOKENS - 3, LLM)), rtol=0, atol=1e-5)


def test_the_branch_says_whose_weights_are_loaded(macaw: Path) -> None:
    adapter = build(path=str(macaw), branch="video")
    assert torch.equal(adapter.project.weight, weight("transform_video_to_hidden.weight"))
    assert torch.equal(adapter.attention.in_proj_weight, weight("video_align_attention.in_proj_weight"))


def test_weights_that_do_not_fit_are_refused(macaw: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"audio_align_attention.*project.weight \[32, 6\] for \[32, 10\]"):
        build(path=str(macaw), branch="audio")
    torch.save({"llama_proj.weight": torch.zeros(2)}, tmp_path / "other.bin")
    with pytest.raises(RecipeError, match=r"Missing: .*and 5 more"):
        build(path=str(tmp_path / "other.bin"))


def test_without_the_extra_rows_there_are_no_parameters_of_theirs(llm: CausalLM) -> None:
    assert "attention.bias_k" not in build(learned_row=False).state_dict()
    full, bare = build(llm), build(llm, zero_row=False)
    assert list(full.state_dict()) == list(bare.state_dict())
    assert not torch.equal(full(features()).values, bare(features()).values)


def test_the_table_is_the_current_one_and_stays_the_llms(llm: CausalLM) -> None:
    adapter, keys = build(llm), set(llm.state_dict())
    before = adapter(features()).values
    assert {name.partition(".")[0] for name, _ in adapter.named_parameters()} == {"project", "attention"}
    assert set(llm.state_dict()) == keys
    with torch.no_grad():
        llm.embedding().mul_(2)
    trained = adapter(features()).values
    set_table(llm, weight(TABLE).repeat(2, 1).flip(0))
    assert not torch.equal(before, trained)
    assert not torch.equal(adapter(features()).values, trained)
    assert torch.equal(copy.deepcopy(adapter)(features()).values, adapter(features()).values)


def test_a_table_of_another_dtype_is_read(llm: CausalLM) -> None:
    adapter = build(llm)
    exact = adapter(features()).values
    llm.to(torch.bfloat16)
    assert adapter(features()).values.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(adapter(features()).values.float(), exact, rtol=0, atol=0.02)
    half = features().with_values(features().values.bfloat16())
    torch.testing.assert_close(adapter.to(torch.bfloat16)(half).values.float(), exact, rtol=0, atol=0.02)


def test_before_install_it_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match=r"no embedding table.* Call `install"):
        build()(features())


def test_rows_keep_their_number_and_place_and_know_nothing_of_padding(llm: CausalLM) -> None:
    adapter, found = build(llm), features()
    whole = adapter(found)
    assert whole.grid is found.grid and whole.mask is found.mask
    mask = torch.arange(5) < torch.tensor([5, 3])[:, None]
    padded = replace(found, values=found.values.masked_fill(~mask[..., None], torch.nan), mask=mask)
    out = adapter(padded).values
    assert torch.equal(out[mask], whole.values[mask])
    out[mask].sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in adapter.parameters())
    assert pickle.loads(pickle.dumps(adapter.length))(Layout(5, (1, 5))) == Layout(5, (1, 5))


def test_dropout_is_for_training_alone(llm: CausalLM) -> None:
    adapter = build(llm, dropout=0.5)
    assert torch.equal(adapter(features()).values, adapter(features()).values)
    adapter.train()
    assert not torch.equal(adapter(features()).values, adapter(features()).values)


def test_it_builds_on_meta_and_compiles(llm: CausalLM) -> None:
    with torch.device("meta"):
        assert next(VocabularyAdapter(VocabularyConfig(), 6, 64).parameters()).is_meta
    adapter = build(llm)
    compiled = torch.compile(adapter, backend="eager", fullgraph=True)
    assert torch.equal(compiled(features()).values, adapter(features()).values)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"width \(30\) is not a multiple of `heads` \(16\)"):
        VocabularyAdapter(VocabularyConfig(), 6, 30)
    for options, message in (({"heads": 0}, "heads"), ({"dropout": 1.0}, "dropout"), ({"branch": "smell"}, "branch")):
        with pytest.raises(RecipeError, match=message):
            merge_options(VocabularyConfig, options, "model.inputs.image.adapter")
