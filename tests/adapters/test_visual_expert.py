"""`visual_expert`: CogVLM's numbers, who computes which rows, borders, positions, refusals."""

from __future__ import annotations

import pickle

import pytest
import torch
from golden_support import read_golden
from llm_support import (
    FAMILIES,
    LATE,
    NONE,
    ONE,
    PLACE,
    TWO,
    WIDTH,
    Medium,
    batch_of,
    fill,
    generated,
    gradients,
    llm_of,
    looped,
    model_of,
    plain_logits,
    shift,
    wave,
)
from omnivit_adapters.visual_expert import VisualExpertAdapter, VisualExpertConfig
from torch import Tensor, nn

from omnivit.contracts.adapter import same_length
from omnivit.contracts.context import Context
from omnivit.contracts.features import Features
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.errors import RecipeError
from omnivit.model.causal import CausalLM
from omnivit.model.lora import Lora
from omnivit.model.omni import OmniModel


def adapter_of(**options: object) -> VisualExpertAdapter:
    return VisualExpertAdapter(VisualExpertConfig(**options), WIDTH, WIDTH)  # type: ignore[arg-type]


def trained(llm: CausalLM, **options: object) -> OmniModel:
    model = model_of(llm, {"image": adapter_of(**options)})
    shift(model.adapters)
    return model


# -- as CogVLM has it --------------------------------------------------------------------------------------------------


def test_states_are_those_of_cogvlm() -> None:
    golden = read_golden("adapters/visual_expert")
    llm = llm_of()
    fill(llm.hf, 0.0, 0.3)
    adapter = adapter_of(boundary_tokens=True)
    model = model_of(llm, {"image": adapter})
    fill(adapter, 3.0, 0.3)
    samples = []
    for before, rows, after in ((2, 5, 3), (1, 4, 5)):
        picture = adapter.positions(rows) + before  # type: ignore[misc]
        text = torch.arange(int(picture[-1]) + 1, int(picture[-1]) + 1 + after)
        positions = torch.cat([torch.arange(before), picture, text])
        ids = torch.tensor([1] * before + [PLACE] * rows + [1] * after)
        samples.append(EncodedSample("sample", ids, ids, (Span("image", before, rows),), ({},), positions))
    batch = collate(samples, ("image",), pad_id=0)
    assert batch.position_ids.tolist() == golden["positions"]
    features = Features(torch.zeros(2, 5, WIDTH), torch.ones(2, 5, dtype=torch.bool))
    context = Context.of(batch, {"image": features})
    states = model.llm(
        wave((2, 10, WIDTH), 0.7), batch.attention_mask, batch.position_ids, batch.attention_mask, context, states=True
    ).states
    torch.testing.assert_close(states, torch.tensor(golden["states"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("rows", "positions"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (6, [0, 1, 1, 1, 1, 2])])
def test_rows_between_the_ends_share_a_position(rows: int, positions: list[int]) -> None:
    count = pickle.loads(pickle.dumps(adapter_of(boundary_tokens=True).positions))
    assert count(rows).tolist() == positions
    assert adapter_of().positions is None


@pytest.mark.parametrize("ends", [False, True])
def test_each_row_is_computed_once_by_the_weights_of_its_kind(ends: bool) -> None:
    llm = llm_of()
    adapter = adapter_of(boundary_tokens=ends)
    model = model_of(llm, {"image": adapter})
    seen: dict[str, int] = {}

    def note(name: str, module: nn.Module) -> None:
        def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0].shape[:-1].numel()

        module.register_forward_pre_hook(count)

    block = llm.patching.layers[0]
    for name, module in block.mlp.named_children():
        note(f"text {name}", module)
    for name, module in adapter.layers["0"].named_children():  # type: ignore[union-attr]
        note(f"media {name}", module)
    batch = batch_of(TWO, NONE, ONE)
    model(batch)
    media = 6 if ends else 9
    assert all(rows == media for name, rows in seen.items() if name.startswith("media"))
    assert seen["text gate_proj"] == seen["text down_proj"] == batch.input_ids.numel() - media
    assert set(seen) >= {f"media {name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "mlp")}


def test_the_last_row_of_neighbours_is_the_text_experts_too() -> None:
    model = trained(llm_of(), boundary_tokens=True)
    batch = batch_of((5, Medium(0.1), Medium(0.2), 9))
    _, context = model.embed(batch)
    parts = context.parts((("image", True),))
    assert parts.order[parts.sizes[0] :].tolist() == [1, 2, 4, 5]


# -- every family of LLMs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_at_first_the_llm_gives_what_it_gave_without(family: str) -> None:
    plain, llm = llm_of(family), llm_of(family)
    keys = list(llm.state_dict())
    model = model_of(llm, {"image": adapter_of()})
    assert list(llm.state_dict()) == keys
    batch, text = batch_of(ONE, NONE, TWO), batch_of(NONE, NONE[:3])
    torch.testing.assert_close(
        model(batch, batch.attention_mask).logits, plain_logits(plain, model, batch), rtol=0, atol=1e-5
    )
    shift(model.adapters)
    assert torch.equal(model(text, text.attention_mask).logits, plain_logits(plain, model, text))
    assert not torch.allclose(model(batch, batch.attention_mask).logits, plain_logits(plain, model, batch), atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_activations_changes_no_gradient(family: str) -> None:
    batch = batch_of(ONE, NONE, TWO)
    models = [trained(llm_of(family, gradient_checkpointing=on)) for on in (False, True)]
    plain, checkpointed = (gradients(model, batch) for model in models)
    assert plain.keys() == {f"adapters.{name}" for name, _ in models[0].adapters.named_parameters()}
    assert all(torch.equal(value, checkpointed[name]) for name, value in plain.items())
    assert all(value.abs().max() > 0 for value in plain.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_gives_what_a_loop_without_gives(family: str) -> None:
    model = trained(llm_of(family))
    batch = batch_of(LATE, NONE, TWO, ONE, left=True)
    with torch.no_grad():
        assert torch.equal(generated(model, batch), looped(model, batch))


# -- beside other things -----------------------------------------------------------------------------------------------


def test_lora_changes_what_text_goes_through() -> None:
    plain = llm_of()
    llm = llm_of(lora=Lora(targets=["q_proj", "v_proj", "down_proj"], r=2))
    model = trained(llm)
    lora = {name: parameter for name, parameter in llm.named_parameters() if "lora" in name}
    for parameter in lora.values():
        parameter.requires_grad_(True).data.normal_(std=0.1)
    assert not any("lora" in name for name, _ in model.adapters.named_parameters())
    batch = batch_of(ONE, NONE, TWO)
    found = gradients(model, batch)
    assert sum("lora" in name for name in found) == len(lora) == 12
    assert all(value.abs().max() > 0 for value in found.values())
    media = batch_of((Medium(0.1),))
    reference = model_of(plain, {"image": adapter_of()})
    shift(reference.adapters)
    assert torch.equal(model(media, media.attention_mask).logits, reference(media, media.attention_mask).logits)


@pytest.mark.parametrize("own", [torch.bfloat16, torch.float32], ids=str)
def test_a_bfloat16_llm(own: torch.dtype) -> None:
    llm = llm_of(dtype="bfloat16")
    llm.load_state_dict(llm_of().state_dict())  # what is drawn in bfloat16 depends on the version of transformers
    model = trained(llm)
    model.adapters.to(own)
    batch = batch_of(ONE, NONE, TWO)
    found = gradients(model, batch)
    assert all(value.dtype == own and value.isfinite().all() and value.abs().max() > 0 for value in found.values())
    full, half = trained(llm_of())(batch).logits, model(batch).logits.float()
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.99


def test_autocast() -> None:
    model = trained(llm_of())
    batch = batch_of(ONE, NONE, TWO)
    full = model(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(model, batch)
        half = model(batch).logits.float()
    assert all(value.isfinite().all() and value.abs().max() > 0 for value in found.values())
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.99


def test_save_and_load() -> None:
    batch = batch_of(ONE, NONE, TWO)
    first, again = trained(llm_of()), model_of(llm_of(), {"image": adapter_of()})
    assert not torch.equal(again(batch).logits, first(batch).logits)
    again.adapters.load_state_dict(first.adapters.state_dict())
    assert torch.equal(again(batch).logits, first(batch).logits)


def test_two_inputs_may_share_experts() -> None:
    adapter, llm = adapter_of(), llm_of()
    model = model_of(llm, {"image": adapter, "sound": adapter})
    shift(adapter)
    sample = (5, Medium(0.1), 9, Medium(0.6, slot="sound"), 17)
    batch = batch_of(sample, NONE, slots=("image", "sound"))
    alone = batch_of((5, Medium(0.1), 9, Medium(0.6), 17), NONE)
    one = trained(llm_of())
    torch.testing.assert_close(
        model(batch, batch.attention_mask).logits, one(alone, alone.attention_mask).logits, rtol=0, atol=1e-6
    )


def test_two_adapters_of_one_input_cannot_both_have_experts() -> None:
    llm = llm_of()
    adapter_of().install(llm, None, "image")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"slot 'image': two adapters replace .*q_proj"):
        adapter_of().install(llm, None, "image")  # type: ignore[arg-type]


def test_layers_compile_whole() -> None:
    model = trained(llm_of())
    batch = batch_of(ONE, NONE, TWO)
    expected = model(batch).logits
    torch._dynamo.reset()
    for layer in model.llm.patching.layers:
        layer.block.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(model(batch).logits, expected)


def test_builds_and_installs_on_meta() -> None:
    with torch.device("meta"):
        model = model_of(llm_of(), {"image": adapter_of()})
    assert all(parameter.is_meta for parameter in model.adapters.parameters())


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "layers", "parts"),
    [
        ({}, {"0", "1", "2", "3"}, {"q_proj", "k_proj", "v_proj", "o_proj", "mlp"}),
        ({"layer_interval": 2, "parts": "mlp"}, {"1", "3"}, {"mlp"}),
        ({"layers": [0, 3], "parts": "attention"}, {"0", "3"}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
    ],
)
def test_what_gets_experts(options: dict[str, object], layers: set[str], parts: set[str]) -> None:
    adapter = adapter_of(**options)
    adapter.install(llm_of(layers=4), None, "image")  # type: ignore[arg-type]
    assert set(adapter.layers) == layers
    assert {name.split(".")[2] for name, _ in adapter.named_parameters()} == parts
    assert adapter.length is same_length


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_interval": 0}, r"layer_interval \(0\) must be at least 1"),
        ({"layers": []}, "at least one number"),
        ({"layers": [1], "layer_interval": 2}, "set either `layer_interval`, or `layers`"),
    ],
)
def test_impossible_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisualExpertConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [0, 2]}, "`layers` contains 2, but the LLM has the layers 0 to 1"),
        ({"layers": [-1]}, "`layers` contains -1"),
        ({"layer_interval": 3}, "No layer is chosen, but the LLM has the layers 0 to 1"),
    ],
)
def test_layers_that_the_llm_has_not(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        adapter_of(**options).install(llm_of(), None, "image")  # type: ignore[arg-type]


def test_quantized_weights_cannot_be_copied() -> None:
    llm = llm_of()
    llm.patching.layers[0].mlp.gate_proj.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(RecipeError, match="quantized weights cannot be copied"):
        adapter_of().install(llm, None, "image")  # type: ignore[arg-type]


def test_rows_keep_their_width() -> None:
    assert VisualExpertAdapter(VisualExpertConfig(), 10, WIDTH).width == 10
