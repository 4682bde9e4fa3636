"""The adapter `gated_cross_attention`: its numbers, what text sees, weights of others, what is refused."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from gated_support import (
    LATE,
    MEDIUM,
    NONE,
    ONE,
    ROWS,
    TWO,
    WIDTH,
    Given,
    Item,
    Medium,
    adapter_of,
    batch_of,
    everything,
    fill,
    generated,
    llm_of,
    model_of,
    wave,
)
from golden_support import read_golden
from omnivit_adapters.chain import ChainAdapter, ChainConfig
from omnivit_adapters.gated_cross_attention import (
    GatedCrossAttentionConfig,
    GatedLayer,
    MediaAttention,
)
from safetensors.torch import save_file
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.contracts.context import Context, SlotContext
from omnivit.contracts.features import Features, Layout
from omnivit.contracts.options import merge_options
from omnivit.errors import RecipeError

GOLDEN = read_golden("adapters/gated_cross_attention")


# -- the block against the original's numbers --------------------------------------------------------------------------


def original_inputs() -> tuple[Tensor, SlotContext]:
    """Hidden states [2, 9, 12] and media [5, 4, 10] as the original was given them: 3 in sample 0, 2 in sample 1."""
    media = wave((2, 3, ROWS, WIDTH), 2.0)
    began = torch.zeros(2, 9, dtype=torch.long)
    began[0, [2, 4, 7]] = 1
    began[1, [0, 5]] = 1
    samples, order = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 2, 3, 1, 2])
    rows = media[samples, order - 1]
    shown = Features(rows[:, :1], torch.ones(5, 1, dtype=torch.bool), memory=Features(rows, torch.ones(5, ROWS) > 0))
    return wave((2, 9, 12), 1.0), SlotContext(shown, samples, order, began.cumsum(1), began.flatten().nonzero()[:, 0])


def gated_layer(only_immediate: bool = True) -> GatedLayer:
    config = GatedCrossAttentionConfig(heads=2, head_width=8, only_immediate=only_immediate)
    layer = GatedLayer(config, WIDTH, 12)
    fill(layer)
    return layer


def last_column(found: SlotContext) -> SlotContext:
    return SlotContext(found.features, found.samples, found.order, found.seen[:, -1:], found.tokens[:0])


@pytest.mark.parametrize(("mode", "only_immediate"), [("immediate", True), ("all", False)])
def test_a_gated_layer_gives_the_numbers_of_open_flamingo(mode: str, only_immediate: bool) -> None:
    hidden, found = original_inputs()
    layer, expected = gated_layer(only_immediate), torch.tensor(GOLDEN[mode])
    # in mode `all` the original lets text before the first medium average over all media, those to come among them
    compared = found.seen > 0 if mode == "all" else found.seen >= 0
    torch.testing.assert_close(layer(hidden, found)[compared], expected[compared], atol=1e-5, rtol=0)
    step = layer(hidden[:, -1:], last_column(found))
    torch.testing.assert_close(step, torch.tensor(GOLDEN[f"{mode}_step"]), atol=1e-5, rtol=0)


def test_the_whole_llm_gives_the_logits_and_tokens_of_open_flamingo() -> None:
    llm = llm_of()
    fill(llm.hf, 5.0, 0.25)
    adapter = adapter_of(heads=8, head_width=64)
    model = model_of(llm, {"image": adapter})
    for name, layer in adapter.layers.items():
        fill(layer, 7.0 + int(name))
    assert adapter.marker is not None
    adapter.marker.data.copy_(llm.embedding()[MEDIUM])
    first: tuple[Item, ...] = (5, Medium(0), 9, 17, Medium(0), 20, 33, Medium(0), 41)
    second: tuple[Item, ...] = (Medium(0), 7, 8, 30, 31, Medium(0), 12, 3, 4)
    batch = batch_of(first, second)
    batch.media["image"].items["rows"] = wave((2, 3, ROWS, WIDTH), 2.0).flatten(0, 1)[:5]
    with torch.no_grad():
        logits = model(batch, everything(batch)).logits.view(2, 9, 64)
        new = generated(model, batch, 6)
    torch.testing.assert_close(logits, torch.tensor(GOLDEN["logits"]), atol=1e-5, rtol=1e-5)
    assert new.tolist() == GOLDEN["tokens"]


# -- what text sees ----------------------------------------------------------------------------------------------------


def influence(only_immediate: bool, *samples: Sequence[Item]) -> tuple[Tensor, Batch]:
    """[B, T, M]: whether a token's output of a gated layer depends on a medium."""
    batch = batch_of(*samples)
    media = batch.media["image"]
    memory = Given()(media.items)
    values = memory.values.requires_grad_(True)
    found = Context.of(batch, {"image": Features(values[:, :1], memory.mask[:, :1], memory=memory)}).media["image"]
    out = gated_layer(only_immediate)(wave((*batch.input_ids.shape, 12), 1.0), found)
    grads = [torch.autograd.grad(token.sum(), values, retain_graph=True)[0] for token in out.flatten(0, 1)]
    return torch.stack(grads).ne(0).any(dim=-1).any(dim=-1).unflatten(0, batch.input_ids.shape), batch


def seen_by(found: Tensor, row: int, length: int) -> list[list[int]]:
    """For each token of a sample, the media (of the whole batch) that it depends on."""
    return [token.nonzero().flatten().tolist() for token in found[row, :length]]


def test_text_sees_the_last_medium_before_it_of_its_own_sample() -> None:
    found, _ = influence(True, TWO, NONE, LATE)
    assert seen_by(found, 0, 6) == [[0], [0], [0], [1], [1], [1]]
    assert seen_by(found, 1, 5) == [[]] * 5
    assert seen_by(found, 2, 6) == [[], [], [], [], [2], [2]]


def test_or_all_media_before_it() -> None:
    found, _ = influence(False, ONE, NONE, TWO)
    assert seen_by(found, 0, 4) == [[], [0], [0], [0]]
    assert seen_by(found, 1, 5) == [[]] * 5
    assert seen_by(found, 2, 6) == [[1], [1], [1], [1, 2], [1, 2], [1, 2]]


def test_attention_is_zero_where_nothing_is_seen() -> None:
    batch = batch_of(LATE, (Medium(0.5, count=0), 3, 4))
    memory = Given()(batch.media["image"].items)
    found = Context.of(batch, {"image": Features(memory.values, memory.mask, memory=memory)}).media["image"]
    attention = MediaAttention(GatedCrossAttentionConfig(heads=2, head_width=8), WIDTH, 12)
    out = attention(wave((*batch.input_ids.shape, 12), 1.0), found)
    assert torch.equal(out[0, :4], torch.zeros(4, 12))
    assert torch.equal(out[1], torch.zeros(6, 12)), "its medium has no rows"
    assert out[0, 4:].abs().min() > 0


def test_what_stands_in_padding_does_not_matter() -> None:
    adapter = adapter_of()
    values, mask = wave((2, ROWS, WIDTH), 0.0), torch.arange(ROWS) < torch.tensor([[4], [2]])
    spoilt = values.masked_fill(~mask[..., None], math.nan)
    kept = [adapter(Features(part, mask)).memory for part in (values, spoilt)]
    assert kept[0] is not None
    assert kept[1] is not None
    assert torch.equal(kept[0].values, kept[1].values)
    model = model_of(llm_of(), {"image": adapter_of()}, trained=True)
    longer, shorter = batch_of(TWO), batch_of(TWO)
    shorter.media["image"].items["rows"][1, 2:] = math.nan
    assert torch.equal(model(longer).logits, model(shorter).logits)


def test_a_sample_gives_the_same_alone_and_among_others() -> None:
    model = model_of(llm_of(), {"image": adapter_of()}, trained=True)
    samples = [TWO, NONE, ONE, LATE]
    together = batch_of(*samples)
    logits = model(together, together.attention_mask).logits.split([len(sample) for sample in samples])
    for sample, found in zip(samples, logits, strict=True):
        alone = batch_of(sample)
        torch.testing.assert_close(model(alone, alone.attention_mask).logits, found, atol=1e-5, rtol=1e-5)


def test_the_media_matter() -> None:
    model = model_of(llm_of(), {"image": adapter_of()}, trained=True)
    batch, other = batch_of(ONE, NONE), batch_of(ONE, NONE)
    other.media["image"].items["rows"] += 1
    changed = (model(batch, everything(batch)).logits != model(other, everything(batch)).logits).any(dim=1).view(2, 5)
    assert changed.tolist() == [[False, True, True, True, True], [False] * 5]


# -- what the adapter returns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", [True, False])
def test_rows_become_memory_and_one_row_or_none_stands_for_the_medium(marker: bool) -> None:
    adapter = adapter_of(marker=marker)
    features = Features(wave((3, ROWS, WIDTH), 0.0), torch.ones(3, ROWS, dtype=torch.bool))
    out = adapter(features)
    assert adapter.width == 16
    assert pickle.loads(pickle.dumps(adapter.length))(Layout(ROWS, (2, 2))) == Layout(int(marker))
    assert out.values.shape == (3, int(marker), 16)
    assert out.lengths().tolist() == [int(marker)] * 3
    assert out.memory is not None
    assert torch.equal(out.memory.values, features.values)
    assert torch.equal(out.memory.mask, features.mask)


def test_without_a_marker_the_token_after_the_medium_is_the_first_to_see_it() -> None:
    model = model_of(llm_of(), {"image": adapter_of(marker=False)}, trained=True)
    batch, other = batch_of(ONE, NONE, marker=0), batch_of(ONE, NONE, marker=0)
    assert batch.input_ids.tolist()[0] == [5, 9, 17, 0, 0]
    other.media["image"].items["rows"] += 1
    changed = (model(batch, everything(batch)).logits != model(other, everything(batch)).logits).any(dim=1).view(2, 5)
    assert changed.tolist() == [[False, True, True, True, True], [False] * 5]


def test_in_a_chain_gradients_reach_the_adapter_before_it() -> None:
    steps: list[dict[str, Any]] = [
        {"name": "omnivit_adapters.mlp:MLPAdapter"},
        {"name": "omnivit_adapters.gated_cross_attention:GatedCrossAttentionAdapter", "layer_interval": 2},
    ]
    model = model_of(llm_of(), {"image": ChainAdapter(ChainConfig(steps), WIDTH, 16)}, trained=True)
    model(batch_of(ONE, TWO, NONE)).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.adapters.parameters())


def test_kept_rows_are_not_lost_in_a_chain() -> None:
    adapter = adapter_of()
    features = Features(wave((1, ROWS, WIDTH), 0.0), torch.ones(1, ROWS, dtype=torch.bool))
    with pytest.raises(RecipeError, match="already keeps tokens for the LLM's layers"):
        adapter(Features(features.values, features.mask, memory=features))


# -- weights of others -------------------------------------------------------------------------------------------------


def checkpoint(style: str) -> dict[str, Tensor]:
    """A checkpoint as OpenFlamingo or Otter saves it, with a trained layer before the LLM's layers 1 and 3."""
    state = {"perceiver.latents": torch.zeros(2, 2), "lang_encoder.transformer.wte.weight": torch.zeros(2, 2)}
    prefixes = {"flamingo": "lang_encoder.transformer.blocks.{}.gated_cross_attn_layer.",
                "duplicates": "lang_encoder.gated_cross_attn_layers.{}.",
                "otter": "lang_encoder.model.layers.{}.gated_cross_attn_layer."}  # fmt: skip
    for number in (1, 3):
        layer = GatedLayer(GatedCrossAttentionConfig(heads=2, head_width=8), WIDTH, 16)
        fill(layer, number)
        for name, value in layer.state_dict().items():
            named = name.replace("ff.", "feed_forward.") if style == "otter" else name
            state[prefixes[style].format(number) + named] = value
    return state


@pytest.mark.parametrize("style", ["flamingo", "duplicates", "otter"])
def test_checkpoints_of_open_flamingo_and_otter(style: str, tmp_path: Path) -> None:
    state = checkpoint(style)
    path = tmp_path / ("weights.safetensors" if style == "otter" else "checkpoint.pt")
    if style == "otter":
        save_file(state, path)
    else:
        torch.save({"model_state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    adapter = adapter_of(path=str(path))
    adapter.load()
    model_of(llm_of(), {"image": adapter})
    for number in (1, 3):
        expected = GatedLayer(GatedCrossAttentionConfig(heads=2, head_width=8), WIDTH, 16)
        fill(expected, number)
        loaded = adapter.layers[str(number)].state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in expected.state_dict().items())


def test_a_checkpoint_with_layers_elsewhere_is_refused(tmp_path: Path) -> None:
    save_file(checkpoint("flamingo"), tmp_path / "weights.safetensors")
    adapter = adapter_of(path=str(tmp_path / "weights.safetensors"), layer_interval=1)
    adapter.load()
    with pytest.raises(
        RecipeError, match=r"gated_cross_attention\.path .*does not fit the model\. Missing: 0\.attn_gate"
    ):
        model_of(llm_of(), {"image": adapter})


def test_a_checkpoint_without_gated_layers_is_refused(tmp_path: Path) -> None:
    save_file({"perceiver.latents": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(RecipeError, match=r"contains no gated layers.*begin with perceiver\.latents"):
        adapter_of(path=str(tmp_path / "weights.safetensors")).load()
    with pytest.raises(RecipeError, match="no such file"):
        adapter_of(path=str(tmp_path / "missing.pt")).load()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["layer_interval", "heads", "head_width", "mlp_ratio"])
def test_impossible_options_name_the_place(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"model\.inputs\.image\.adapter: {name} \(0\) must be at least 1"):
        merge_options(GatedCrossAttentionConfig, {name: 0}, "model.inputs.image.adapter")


def test_an_llm_with_too_few_layers_is_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"`layer_interval: 5` leaves no place .* LLM has only 4 layers\. Set it to at most 4"
    ):
        model_of(llm_of(), {"image": adapter_of(layer_interval=5)})


def test_two_inputs_cannot_share_the_layers() -> None:
    adapter = adapter_of()
    with pytest.raises(RecipeError, match="input 'video' cannot share this adapter"):
        model_of(llm_of(), {"image": adapter, "video": adapter})
