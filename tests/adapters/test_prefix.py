"""`prefix`: the numbers of the original, what tokens see of media, counts of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_support import (
    NONE,
    ROWS,
    WIDTH,
    Given,
    Item,
    Medium,
    batch_of,
    fill,
    generated,
    gradients,
    llm_of,
    model_of,
    plain_logits,
    wave,
)
from omnivit_adapters.prefix.adapter import PrefixAdapter, PrefixConfig
from prefix_support import FULL, PAIR, SINGLE, adapter_of, mixed_batch, trained_model
from torch import Tensor

from omnivit.contracts.adapter import Adapter
from omnivit.contracts.features import Features, Layout
from omnivit.errors import LibraryError, RecipeError
from omnivit.model import arguments
from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.model.omni import Branch, OmniModel

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/adapters/prefix.json").read_text(encoding="utf-8"))
# -- the original's numbers --------------------------------------------------------------------------------------------

_NAMES = {
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_OUTER = {"norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
_OUTER |= {"tok_embeddings.weight": "model.embed_tokens.weight"}


def original_llm() -> tuple[CausalLM, dict[int, Tensor]]:
    """LLaMA with the weights that the original was run with, and its gates."""
    sizes = {"hidden_size": 16, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = {"model_type": "llama", **sizes, "vocab_size": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    llm = CausalLM(CausalConfig(config=config, tokenizer="bytes")).eval().requires_grad_(False)
    names = {f"layers.{index}.{a}": f"model.layers.{index}.{b}" for index in range(3) for a, b in _NAMES.items()}
    gates = {f"layers.{index}.attention.gate": "" for index in range(3)}
    state = llm.hf.state_dict()
    for number, (theirs, ours) in enumerate(sorted((names | gates | _OUTER).items())):
        if ours:
            norm = "norm" in theirs
            value = wave(state[ours].shape, float(number), 0.2 if norm else 0.4) + float(norm)
            if ".wq." in theirs or ".wk." in theirs:  # they turn neighbours, transformers turns halves of a head
                value = value.view(2, 4, 2, 16).transpose(1, 2).reshape(16, 16)
            state[ours].copy_(value)
    return llm, {index: wave((2,), 2.0 + index, 1.5) for index in range(3)}


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=[case["name"] for case in GOLDEN["cases"]])
def test_numbers_of_the_original(case: dict[str, Any]) -> None:
    llm, gates = original_llm()
    adapter, count = adapter_of(prompts=case["prompts"], layers=2), case["prompts"]
    model = model_of(llm, {"image": adapter})
    prompts, visual = wave((2, count, 16), 8.0), wave((2, count, 16), 9.0)
    for number, index in enumerate((1, 2)):
        adapter.layers[str(index)].prompts.data.copy_(prompts[number])
        adapter.layers[str(index)].gate.data.copy_(gates[index])
    batch = batch_of(*[(*ids, Medium(0.0, count=count)) for ids in GOLDEN["ids"]], places=0)
    batch.media["image"].items["rows"][:, :count] = visual
    found = model(batch, batch.attention_mask).logits
    torch.testing.assert_close(found.flatten(), torch.tensor(case["logits"]), rtol=0, atol=1e-5)
    assert not torch.allclose(found, plain_logits(original_llm()[0], model, batch), atol=0.1)


def test_starts_as_the_original_starts() -> None:
    torch.manual_seed(0)
    adapter = PrefixAdapter(PrefixConfig(bias_scale=True), WIDTH, WIDTH)
    model_of(llm_of(layers=5), {"image": adapter})
    assert list(adapter.layers) == ["2", "3", "4"]  # all but the lowest two
    assert list(adapter.maps) == ["0", "1", "2", "3", "4"]
    rows = torch.cat([part.prompts for part in adapter.layers.values()])
    assert rows.shape == (30, WIDTH) and 0.9 < rows.std() < 1.1 and rows.mean().abs() < 0.1
    for name, parameter in adapter.named_parameters():
        if not name.endswith("prompts"):
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("scale"))))
    assert set(adapter.maps["0"]) == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }


# -- what tokens see ---------------------------------------------------------------------------------------------------


def test_every_token_of_a_sample_sees_its_media_and_no_other_sample_does() -> None:
    model, batch = trained_model(), mixed_batch()
    before = model(batch, batch.attention_mask).logits
    batch.media["image"].items["rows"][0] += 1.0
    changed = (model(batch, batch.attention_mask).logits != before).any(dim=1)
    assert changed.tolist() == [True] * 3 + [False] * 14  # the first token stands before its medium


def test_one_row_is_added_to_every_prompt_and_several_media_are_averaged() -> None:
    model = trained_model()
    rows = wave((ROWS, WIDTH), 0.4)
    single = batch_of(SINGLE, places=0)
    spread = batch_of((*SINGLE[:4], Medium(0.4, count=ROWS), 24), places=0)
    spread.media["image"].items["rows"][:] = rows[:1]
    assert torch.equal(model(single).logits, model(spread).logits)
    pair = batch_of(PAIR, places=0)
    both = wave((ROWS, WIDTH), 0.2), wave((ROWS, WIDTH), 0.3)[:1]
    mean = batch_of((Medium(0.0, count=ROWS), *[item for item in PAIR if isinstance(item, int)]), places=0)
    mean.media["image"].items["rows"][:] = (both[0] + both[1]) / 2
    torch.testing.assert_close(model(pair).logits, model(mean).logits, rtol=0, atol=1e-6)


def test_padding_of_media_changes_nothing() -> None:
    model, batch = trained_model(), mixed_batch()
    before = model(batch, batch.attention_mask).logits
    items = batch.media["image"].items
    items["rows"][torch.arange(ROWS) >= items["count"][:, None]] = float("nan")
    assert torch.equal(model(batch, batch.attention_mask).logits, before)


def test_rows_are_those_that_the_mask_names() -> None:
    values = torch.arange(6.0).view(1, 6, 1).expand(2, 6, WIDTH)
    mask = torch.tensor([[0, 1, 1, 0, 1, 1], [0, 0, 0, 1, 0, 0]], dtype=torch.bool)
    found = adapter_of()(Features(values, mask))
    assert found.values.shape == (2, 0, WIDTH) and found.mask.shape == (2, 0)
    assert found.memory.values[..., 0].tolist() == [[1, 2, 4, 5], [3, 3, 3, 3]]
    assert found.memory.mask.all()


def test_beams_see_the_media_of_their_sample() -> None:
    model = trained_model()
    batches = batch_of(PAIR, SINGLE, places=0, left=True), batch_of(PAIR, places=0), batch_of(SINGLE, places=0)
    with torch.no_grad():
        found = [ids for batch in batches for ids in generated(model, batch, num_beams=3).tolist()]
    assert found[:2] == found[2:]


def test_two_inputs_with_prompts_of_their_own_and_with_shared_ones() -> None:
    sound: tuple[Item, ...] = (5, Medium(0.1, count=1), 9, Medium(0.6, count=1, slot="sound"), 17)
    batch = batch_of(sound, NONE, places=0, slots=("image", "sound"))
    shared = adapter_of()
    own: dict[str, Adapter] = {"image": adapter_of(), "sound": adapter_of(layers=2)}
    for adapters in (own, {"image": shared, "sound": shared}):
        model = model_of(llm_of(), adapters)
        fill(model.adapters, 3.0)
        before = model(batch, batch.attention_mask).logits
        for slot in adapters:
            other = batch_of(sound, NONE, places=0, slots=("image", "sound"))
            other.media[slot].items["rows"] += 1.0
            changed = (model(other, batch.attention_mask).logits != before).any(dim=1)
            assert changed.tolist() == [True] * 3 + [False] * 5
        assert all(value.any() for value in gradients(model, batch).values())
    assert len(shared.layers) == 1


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "rows", "says"),
    [
        (10, 256, r"256 tokens, which cannot be added to 10 prompts\. .* 1 token, or 10 .*set `prompts: 256`"),
        (1, 2, r"2 tokens, which cannot be added to 1 prompts\. It must have 1 token\."),
        (10, 0, r"0 tokens"),
    ],
)
def test_counts_of_rows_that_do_not_fit(prompts: int, rows: int, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        adapter_of(prompts=prompts).length(Layout(rows))
    assert adapter_of(prompts=prompts).length(Layout(prompts)) == adapter_of().length(Layout(1)) == Layout(0)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"LLM's width \(16\), but their width is 12\. Put `linear` or `mlp` before"):
        PrefixAdapter(PrefixConfig(), 12, WIDTH)


def test_more_layers_than_there_are_and_unknown_attentions_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"`layers` is 3, but the LLM has only 2"):
        model_of(llm_of(), {"image": adapter_of(layers=3)})
    llm = llm_of()
    del llm.patching.layers[1].attention.k_proj
    with pytest.raises(RecipeError, match=r"LlamaAttention of the LLM does not have k_proj"):
        model_of(llm, {"image": adapter_of()})


def test_an_attention_that_passes_the_prompts_by_stops_the_step() -> None:
    """As when a version of transformers chooses the function of an attention in another way, or renames `scaling`."""
    model, batch = trained_model(), mixed_batch()
    attention: Any = model.llm.patching.layers[-1].attention
    model(batch, batch.attention_mask)
    changed, attention.config = attention.config, model.llm.hf.config
    with pytest.raises(LibraryError, match=r"did not use the attention function .* have no effect. transformers \d"):
        model(batch, batch.attention_mask)
    attention.config = changed
    with pytest.MonkeyPatch.context() as patch, pytest.raises(LibraryError, match="was called without `factor`"):
        patch.setattr(arguments, "NAMES", {**arguments.NAMES, "scaling": ("factor",)})
        model(batch, batch.attention_mask)


def test_memory_of_others_is_refused() -> None:
    rows = Features(torch.ones(1, 1, WIDTH), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(RecipeError, match="already keeps tokens for the LLM's layers"):
        adapter_of()(Features(rows.values, rows.mask, memory=rows))


def test_memory_of_another_branch_is_refused() -> None:
    llm, encoder, first, second = llm_of(), Given(), adapter_of(), adapter_of()
    model = OmniModel(llm, {"image": [Branch(encoder, first), Branch(encoder, second)]})
    for adapter in (first, second):
        adapter.install(llm, encoder, "image")
    llm.add_peft()
    with pytest.raises(
        RecipeError, match=r"another branch of the input keeps 4 tokens .* the 4 tokens for the prompts"
    ):
        model(batch_of(FULL, places=0))


@pytest.mark.parametrize(("name", "value"), [("prompts", 0), ("layers", 0)])
def test_impossible_options_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} \(0\) must be at least 1"):
        PrefixConfig(**{name: value})
