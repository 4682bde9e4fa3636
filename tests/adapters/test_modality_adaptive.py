"""`modality_adaptive`: mPLUG-Owl2's numbers, what is shared and what not, refusals."""

from __future__ import annotations

import pytest
import torch
from golden_support import read_golden
from llm_support import (
    FAMILIES,
    LATE,
    NONE,
    ONE,
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
from omnivit_adapters.modality_adaptive import ModalityAdaptiveAdapter, ModalityAdaptiveConfig
from torch import nn

from omnivit.errors import RecipeError
from omnivit.model.causal import CausalLM
from omnivit.model.lora import Lora
from omnivit.model.omni import OmniModel

NORMS = {
    "phi": {"input_layernorm"},
    "gemma2": {
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    },
}
NORMS["gemma3_text"] = NORMS["gemma2"]


def adapter_of(**options: object) -> ModalityAdaptiveAdapter:
    return ModalityAdaptiveAdapter(ModalityAdaptiveConfig(**options), WIDTH, WIDTH)  # type: ignore[arg-type]


def trained(llm: CausalLM) -> OmniModel:
    model = model_of(llm, {"image": adapter_of()})
    shift(model.adapters)
    return model


def test_logits_are_those_of_mplug_owl2() -> None:
    golden = read_golden("adapters/modality_adaptive")
    llm = llm_of(shared=1)
    fill(llm.hf, 0.0, 0.3)
    model = model_of(llm, {"image": adapter_of()})
    fill(model.adapters, 3.0, 0.3)
    parts = ((5,) * 2, (Medium(0.1, count=4), Medium(0.2, count=1)), (5,) * 3)
    batch = batch_of(sum(parts, ()), (5, Medium(0.1, count=4), *(5,) * 5))
    _, context = model.embed(batch)
    everything = torch.ones_like(batch.attention_mask)
    logits = model.llm(wave((2, 10, WIDTH), 0.7), batch.attention_mask, batch.position_ids, everything, context).logits
    torch.testing.assert_close(logits.view(2, 10, -1), torch.tensor(golden["logits"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_first_the_llm_gives_what_it_gave_without(family: str) -> None:
    plain, llm = llm_of(family), llm_of(family)
    keys = list(llm.state_dict())
    adapter = adapter_of()
    model = model_of(llm, {"image": adapter})
    assert list(llm.state_dict()) == keys
    maps = {"kv_proj"} if family == "phi3" else {"k_proj", "v_proj"}
    norms = NORMS.get(family, {"input_layernorm", "post_attention_layernorm"})
    assert {name.split(".")[2] for name, _ in adapter.named_parameters()} == maps | norms
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


def test_queries_stay_shared_where_all_three_are_one_matrix() -> None:
    llm = llm_of("phi3")
    adapter = adapter_of()
    model = model_of(llm, {"image": adapter})
    fused = llm.patching.layers[0].attention.qkv_proj
    own = adapter.layers["0"]["kv_proj"]  # type: ignore[index]
    assert torch.equal(own.weight, fused.weight[WIDTH:])
    shift(model.adapters)
    batch = batch_of(ONE, NONE)
    found: list[torch.Tensor] = []
    fused.register_forward_hook(lambda _, inputs, output: found.extend((inputs[0], output)))
    model(batch)
    hidden, made = found
    plain = hidden @ fused.weight.T
    media = batch.route == 1
    torch.testing.assert_close(made[..., :WIDTH], plain[..., :WIDTH])
    torch.testing.assert_close(made[~media], plain[~media])
    torch.testing.assert_close(made[media][:, WIDTH:], hidden[media] @ own.weight.T)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_lora_on_the_shared_query_serves_media_too(family: str) -> None:
    target = "qkv_proj" if family == "phi3" else "q_proj"
    llm = llm_of(family, lora=Lora(targets=[target], r=2))
    model = trained(llm)
    for name, parameter in llm.named_parameters():
        if "lora" in name:
            parameter.requires_grad_(True).data.normal_(std=0.1)
    found = gradients(model, batch_of((Medium(0.1), Medium(0.2))))
    lora = [value for name, value in found.items() if "lora" in name]
    assert len(lora) == 4
    assert all(value.abs().max() > 0 for value in found.values())


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_a_bfloat16_llm_with_float32_weights_for_media(family: str) -> None:
    model = trained(llm_of(family, dtype="bfloat16"))
    model.adapters.float()
    batch = batch_of(ONE, NONE, TWO)
    found = gradients(model, batch)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in found.values())
    full, half = trained(llm_of(family))(batch).logits, model(batch).logits.float()
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.98


def test_autocast() -> None:
    model = trained(llm_of("phi3"))
    batch = batch_of(ONE, NONE, TWO)
    full = model(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(model, batch)
        half = model(batch).logits.float()
    assert all(value.isfinite().all() and value.abs().max() > 0 for value in found.values())
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.98


def test_save_and_load() -> None:
    batch = batch_of(ONE, NONE, TWO)
    first, again = trained(llm_of()), model_of(llm_of(), {"image": adapter_of()})
    assert not torch.equal(again(batch).logits, first(batch).logits)
    again.adapters.load_state_dict(first.adapters.state_dict())
    assert torch.equal(again(batch).logits, first(batch).logits)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_two_inputs_may_share_them(family: str) -> None:
    adapter, llm = adapter_of(), llm_of(family)
    model = model_of(llm, {"image": adapter, "sound": adapter})
    shift(adapter)
    sample = (5, Medium(0.1), 9, Medium(0.6, slot="sound"), 17)
    batch = batch_of(sample, NONE, slots=("image", "sound"))
    alone = batch_of((5, Medium(0.1), 9, Medium(0.6), 17), NONE)
    one = trained(llm_of(family))
    found, expected = (
        model.double()(batch, batch.attention_mask).logits,
        one.double()(alone, alone.attention_mask).logits,
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)  # in float32, CPUs differ in the sixth decimal


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_two_adapters_cannot_both_serve_one_input(family: str) -> None:
    llm = llm_of(family)
    adapter_of().install(llm, None, "image")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="slot 'image': two adapters replace"):
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
        model = model_of(llm_of("phi3"), {"image": adapter_of()})
    assert all(parameter.is_meta for parameter in model.adapters.parameters())


@pytest.mark.parametrize(("options", "layers"), [({"layer_interval": 2}, {"1", "3"}), ({"layers": [0, 3]}, {"0", "3"})])
def test_chosen_layers(options: dict[str, object], layers: set[str]) -> None:
    adapter = adapter_of(**options)
    adapter.install(llm_of(layers=4), None, "image")  # type: ignore[arg-type]
    assert set(adapter.layers) == layers


def test_impossible_options() -> None:
    with pytest.raises(ValueError, match=r"layer_interval \(-1\) must be at least 1"):
        ModalityAdaptiveConfig(layer_interval=-1)
    with pytest.raises(ValueError, match="set either `layer_interval`, or `layers`"):
        ModalityAdaptiveConfig(layers=[])
    with pytest.raises(RecipeError, match="`layers` contains 7, but the LLM has the layers 0 to 1"):
        adapter_of(layers=[7]).install(llm_of(), None, "image")  # type: ignore[arg-type]


def test_other_fused_projections_are_refused() -> None:
    llm = llm_of()
    attention = llm.patching.layers[0].attention
    attention.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
    del attention.k_proj, attention.v_proj
    with pytest.raises(RecipeError, match=r"LlamaAttention are q_proj, o_proj, query_key_value.*Use `visual_expert`"):
        adapter_of().install(llm, None, "image")  # type: ignore[arg-type]
