"""`gated_cross_attention` inside LLMs: every family, training, generation, saving, beside other changes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from gated_support import (
    LATE,
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
    fill,
    generated,
    gradients,
    llm_of,
    looped,
    model_of,
)
from omnivit_adapters.linear import LinearAdapter, LinearConfig

from omnivit.model.lora import Lora
from omnivit.model.omni import Branch, OmniModel

FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "mistral")


# -- every family of LLMs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_at_first_the_llm_gives_what_it_gave_without(family: str) -> None:
    plain, llm = llm_of(family), llm_of(family)
    keys = list(llm.state_dict())
    model = model_of(llm, {"image": adapter_of()})
    assert list(llm.state_dict()) == keys
    trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trains == ["adapters.image.marker", *(n for n in trains if n.startswith("adapters.image.layers."))]
    assert {name.split(".")[3] for name in trains[1:]} == {"1", "3"}
    for batch in (batch_of(NONE, NONE[:3]), batch_of(ONE, NONE, TWO)):
        embeds, _ = model.embed(batch)
        reference = plain(embeds, batch.attention_mask, batch.position_ids, batch.attention_mask).logits
        assert torch.equal(model(batch, batch.attention_mask).logits, reference)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_gives_what_a_loop_without_gives(family: str) -> None:
    model = model_of(llm_of(family), {"image": adapter_of()}, trained=True)
    batch = batch_of(LATE, NONE, TWO, ONE, left=True)
    with torch.no_grad():
        assert torch.equal(generated(model, batch, 4), looped(model, batch, 4))


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_activations_changes_no_gradient(family: str) -> None:
    batch = batch_of(ONE, NONE, TWO)
    models = [
        model_of(llm_of(family, gradient_checkpointing=on), {"image": adapter_of()}, trained=True)
        for on in (False, True)
    ]
    plain, checkpointed = (gradients(model, batch) for model in models)
    assert plain.keys() == {f"adapters.{name}" for name, _ in models[0].adapters.named_parameters()}
    assert all(torch.equal(value, checkpointed[name]) for name, value in plain.items())
    assert all(value.abs().max() > 0 for value in plain.values())


# -- training, saving, together with others ----------------------------------------------------------------------------


def test_gates_learn_first_and_the_rest_after_them() -> None:
    model = model_of(llm_of(), {"image": adapter_of()})
    batch = batch_of(ONE, NONE, TWO)
    first = gradients(model, batch)
    moved = {name for name, value in first.items() if value.abs().max() > 0}
    names = [name for name, _ in model.adapters.named_parameters()]
    assert moved == {f"adapters.{name}" for name in names if name.endswith(("_gate", "marker"))}
    torch.optim.SGD(model.adapters.parameters(), lr=1.0).step()
    assert all(value.abs().max() > 0 for value in gradients(model, batch).values())


def test_the_mlp_works_on_text_alone_and_every_parameter_gets_a_gradient() -> None:
    """A rank whose samples are all text gives every parameter a gradient, as DDP needs it."""
    model = model_of(llm_of(), {"image": adapter_of()}, trained=True)
    found = gradients(model, batch_of(NONE))
    assert found.keys() == {f"adapters.{name}" for name, _ in model.adapters.named_parameters()}
    assert all((value.abs().max() > 0) == (".ff" in name) for name, value in found.items())


def test_two_inputs_each_have_their_own_layers() -> None:
    adapters = {"image": adapter_of(), "sound": adapter_of(layer_interval=1)}
    model = model_of(llm_of(), adapters, trained=True)
    sample: tuple[Item, ...] = (5, Medium(0.1), 9, Medium(0.6, slot="sound"), 17, 18)
    batch = batch_of(sample, NONE, slots=("image", "sound"), left=True)
    assert all(value.abs().max() > 0 for value in gradients(model, batch).values())
    model.eval()
    base = model(batch, batch.attention_mask).logits
    for slot, first in (("image", 1), ("sound", 3)):
        other = batch_of(sample, NONE, slots=("image", "sound"), left=True)
        other.media[slot].items["rows"] += 1
        changed = (model(other, batch.attention_mask).logits != base).any(dim=1)
        assert changed.tolist() == [column >= first for column in range(6)] + [False] * 5
    with torch.no_grad():
        assert torch.equal(generated(model, batch, 4), looped(model, batch, 4))


def test_beside_a_branch_whose_rows_are_in_the_sequence() -> None:
    llm, encoder, gated = llm_of(), Given(), adapter_of()
    model = OmniModel(
        llm, {"image": [Branch(encoder, LinearAdapter(LinearConfig(), WIDTH, 16)), Branch(encoder, gated)]}
    )
    gated.install(llm, encoder, "image")
    llm.add_peft()
    fill(model.eval().adapters, 3.0)
    batch = batch_of((5, Medium(0.1), 9, 17), NONE, (Medium(0.2), 7, Medium(0.3), 8), marker=ROWS + 1, left=True)
    with torch.no_grad():
        assert torch.equal(generated(model, batch, 4), looped(model, batch, 4))
        embeds, context = model.embed(batch)
        without = model.llm(embeds, batch.attention_mask, batch.position_ids, batch.attention_mask).logits
        changed = (model(batch, batch.attention_mask).logits != without).any(dim=1).split([8, 5, 12])
    assert [part.tolist() for part in changed] == [[False] + [True] * 7, [False] * 5, [True] * 12]
    assert context.media["image"].features.values.shape == (3, ROWS + 1, 16)


def test_beams_see_the_media_of_their_sample() -> None:
    model = model_of(llm_of(), {"image": adapter_of(only_immediate=False)}, trained=True)
    batches = batch_of(TWO, LATE, left=True), batch_of(TWO), batch_of(LATE)
    with torch.no_grad():
        found = [ids for batch in batches for ids in generated(model, batch, 4, num_beams=3).tolist()]
    assert found[:2] == found[2:]


def test_with_lora() -> None:
    plain = llm_of()
    lora = Lora(targets=["q_proj", "v_proj"], r=2)
    llm = llm_of(lora=lora)
    model = model_of(llm, {"image": adapter_of()})
    batch = batch_of(ONE, NONE, TWO)
    embeds, _ = model.embed(batch)
    reference = plain(embeds, batch.attention_mask, batch.position_ids, batch.attention_mask).logits
    assert torch.equal(model(batch, batch.attention_mask).logits, reference)
    fill(model.adapters, 3.0)
    wanted = [parameter for name, parameter in llm.named_parameters() if "lora" in name]
    for parameter in wanted:
        parameter.requires_grad_(True).data.normal_(std=0.1)
    found = gradients(model, batch)
    assert len(wanted) == 16
    assert sum("lora" in name for name in found) == len(wanted)
    assert all(value.abs().max() > 0 for value in found.values())


def test_a_bfloat16_llm_with_float32_adapters() -> None:
    plain, llm = llm_of(dtype="bfloat16"), llm_of(dtype="bfloat16")
    model = model_of(llm, {"image": adapter_of()})
    batch = batch_of(ONE, NONE, TWO)
    embeds, _ = model.embed(batch)
    assert torch.equal(
        model(batch, batch.attention_mask).logits,
        plain(embeds, batch.attention_mask, batch.position_ids, batch.attention_mask).logits,
    )
    fill(model.adapters, 3.0)
    found = gradients(model, batch)
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in found.values())
    full = model_of(llm_of(), {"image": adapter_of()}, trained=True)
    close = torch.nn.functional.cosine_similarity(full(batch).logits, model.eval()(batch).logits.float())
    assert close.min() > 0.99


@pytest.mark.parametrize("whole", [False, True], ids=["autocast", "bfloat16 throughout"])
def test_bfloat16(whole: bool) -> None:
    model = model_of(llm_of(), {"image": adapter_of()}, trained=True)
    batch = batch_of(ONE, NONE, TWO)
    full = model(batch).logits
    model = model.to(torch.bfloat16) if whole else model
    with torch.autocast("cpu", torch.bfloat16, enabled=not whole):
        found = gradients(model, batch)
        half = model(batch).logits.float()
    assert all(value.isfinite().all() and value.abs().max() > 0 for value in found.values())
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.99


def test_save_and_load() -> None:
    batch = batch_of(ONE, NONE, TWO)
    trained = model_of(llm_of(), {"image": adapter_of()}, trained=True)
    again = model_of(llm_of(), {"image": adapter_of()})
    assert not torch.equal(again(batch).logits, trained(batch).logits)
    again.adapters.load_state_dict(pickle.loads(pickle.dumps(trained.adapters.state_dict())))
    assert torch.equal(again(batch).logits, trained(batch).logits)


def test_builds_and_installs_on_meta(tmp_path: Path) -> None:
    (tmp_path / "not_read.pt").touch()
    with torch.device("meta"):
        model = model_of(llm_of(), {"image": adapter_of(path=str(tmp_path / "not_read.pt"))})
    assert all(parameter.is_meta for parameter in model.adapters.parameters())
    count = sum(parameter.numel() for parameter in model.adapters.parameters())
    layer = (2 * 16 + 16 * 16 + WIDTH * 32 + 16 * 16 + 1) + (2 * 16 + 2 * 16 * 64 + 1)
    assert count == 16 + 2 * layer


def test_gated_layers_compile_whole() -> None:
    model = model_of(llm_of(), {"image": adapter_of()}, trained=True)
    batch = batch_of(ONE, NONE, TWO)
    expected = model(batch).logits
    for layer in model.adapters["image"].layers.values():
        layer.compile(backend="eager", fullgraph=True)
    assert torch.equal(model(batch).logits, expected)
