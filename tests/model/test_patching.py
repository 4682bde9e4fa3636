"""Changes to the layers of LLMs: when they run, what they see, and what they leave as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from llm_support import (
    FAMILIES,
    LATE,
    NONE,
    ONE,
    TWO,
    WIDTH,
    Around,
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
)
from torch import Tensor, nn

from omnivit.contracts.adapter import Adapter, Instruction, same_length
from omnivit.contracts.batch import Batch
from omnivit.contracts.encoder import Encoder
from omnivit.contracts.features import Features
from omnivit.contracts.llm import LanguageModel
from omnivit.errors import RecipeError
from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.model.lora import Lora
from omnivit.model.omni import OmniModel
from omnivit.model.patching import chosen, copy_of, find_layers, permuted


class Twins(Adapter):
    """Gives every module of every layer that maps rows on their own a twin."""

    length = staticmethod(same_length)

    def __init__(self) -> None:
        super().__init__(None, WIDTH, WIDTH)
        self.twins = nn.ModuleList()

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        del encoder
        for layer in llm.patching.layers:
            for module in (*layer.projections().values(), layer.mlp, *layer.norms.values()):
                self.twins.append(copy_of(module))
                llm.patching.twin(module, slot, self.twins[-1])

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        del instruction
        return features


def changed(adapter: type[Adapter] = Twins, family: str = "llama", **options: object) -> OmniModel:
    model = model_of(llm_of(family, **options), {"image": adapter()})  # type: ignore[call-arg,arg-type]
    shift(model.adapters)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", [Twins, Around])
def test_outside_a_batch_with_media_nothing_is_changed(family: str, adapter: type[Adapter]) -> None:
    plain, model = llm_of(family), changed(adapter, family)
    assert list(model.llm.state_dict()) == list(plain.state_dict())
    assert type(model.llm.hf) is type(plain.hf)
    assert isinstance(find_layers(model.llm.hf)[0].block, type(find_layers(plain.hf)[0].block))
    text = batch_of(NONE, NONE[:3])
    assert torch.equal(model(text, text.attention_mask).logits, plain_logits(plain, model, text))
    media = batch_of(ONE, TWO)
    assert torch.equal(plain_logits(model.llm, model, media), plain_logits(plain, model, media))
    assert not torch.allclose(model(media, media.attention_mask).logits, plain_logits(plain, model, media), atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", [Twins, Around])
def test_generation_with_a_cache_gives_what_a_loop_without_gives(family: str, adapter: type[Adapter]) -> None:
    model = changed(adapter, family)
    batch = batch_of(LATE, NONE, TWO, ONE, left=True)
    with torch.no_grad():
        assert torch.equal(generated(model, batch), looped(model, batch))


@pytest.mark.parametrize("adapter", [Twins, Around])
def test_beams_see_the_media_of_their_sample(adapter: type[Adapter]) -> None:
    model = changed(adapter)
    batches = batch_of(TWO, LATE, left=True), batch_of(TWO), batch_of(LATE)
    with torch.no_grad():
        found = [ids for batch in batches for ids in generated(model, batch, num_beams=3).tolist()]
    assert found[:2] == found[2:]


@pytest.mark.parametrize("adapter", [Twins, Around])
def test_several_forward_passes_before_a_backward_pass(adapter: type[Adapter]) -> None:
    """A recomputed layer sees the batch of its own forward pass, not the latest one."""
    batches = batch_of(ONE, NONE, TWO), batch_of(LATE), batch_of(NONE)
    models = changed(adapter), changed(adapter, gradient_checkpointing=True)
    together = []
    for model in models:
        model.zero_grad()
        model.train()
        losses = [model(batch, batch.attention_mask).logits.square().mean() for batch in batches]
        sum(losses[1:], losses[0]).backward()
        together.append([parameter.grad.clone() for parameter in model.adapters.parameters()])
    single = [list(gradients(models[0], batch).values()) for batch in batches]
    for number, (plain, checkpointed) in enumerate(zip(*together, strict=True)):
        assert torch.equal(plain, checkpointed)
        torch.testing.assert_close(plain, sum(found[number] for found in single), rtol=1e-4, atol=1e-6)


def test_a_copy_of_the_model_stands_for_itself() -> None:
    model = changed()
    batch = batch_of(ONE, NONE, TWO)
    again = copy.deepcopy(model)
    before = model(batch).logits
    assert torch.equal(again(batch).logits, before)
    fill(again.adapters)
    fill(again.llm, 1.0)
    assert not torch.allclose(again(batch).logits, before, atol=1e-3)
    assert torch.equal(model(batch).logits, before)


@pytest.mark.parametrize("dora", [False, True])
def test_lora_and_twins_each_serve_their_own_rows(dora: bool) -> None:
    model = changed(lora=Lora(targets=["q_proj", "o_proj", "gate_proj"], r=2, dora=dora))
    lora = {name: parameter for name, parameter in model.llm.named_parameters() if "lora" in name}
    for parameter in lora.values():
        parameter.requires_grad_(True)
        parameter.data.add_(0.1)
    found = gradients(model, batch_of(ONE, NONE, TWO))
    assert {name.removeprefix("llm.") for name in found if "lora" in name} == set(lora)
    assert all(value.abs().max() > 0 for value in found.values())
    media = gradients(model, batch_of((Medium(0.1),)))
    assert not any("lora" in name for name in media)


def test_a_function_around_a_layer_sees_the_context_in_training_and_recomputation() -> None:
    model = changed(Around, gradient_checkpointing=True)
    adapter = model.adapters["image"]
    assert isinstance(adapter, Around)
    gradients(model, batch_of(ONE))
    assert len(adapter.calls) == 2 * 3 * 2
    assert all(context is not None and context is adapter.calls[0] for context in adapter.calls)


def test_inside_apart_modules_see_no_batch() -> None:
    model = changed()
    llm = model.llm
    layer, seen = llm.patching.layers[0], []

    def ask(module: nn.Module, args: object, kwargs: object) -> None:
        del module, args, kwargs
        rows = torch.ones(1, 2, WIDTH)
        with llm.patching.apart():
            seen.append(layer.norms["input_layernorm"](rows))

    layer.attention.register_forward_pre_hook(ask, with_kwargs=True)
    model(batch_of(ONE))
    assert torch.equal(seen[0], llm_of().patching.layers[0].norms["input_layernorm"](torch.ones(1, 2, WIDTH)))


def test_a_later_function_stands_around_an_earlier() -> None:
    llm, order = llm_of(), []
    for name in ("first", "second"):

        def note(plain: Callable[..., Tensor], context: object, *args: Tensor, _name: str = name) -> Tensor:
            del context
            order.append(_name)
            return plain(*args)

        llm.patching.around(llm.patching.layers[0].mlp, note)
    llm.add_peft()
    llm.patching.layers[0].mlp(torch.ones(1, 1, WIDTH))
    assert order == ["second", "first"]


def test_a_twin_alone_computes_where_there_is_no_text() -> None:
    model = changed()
    found = gradients(model, batch_of((Medium(0.1, count=4),), (Medium(0.2, count=4),)))
    assert all(value.abs().max() > 0 for value in found.values())


def test_one_slot_with_media_and_one_without() -> None:
    model = model_of(llm_of(), {"image": Twins(), "sound": Twins()})
    shift(model.adapters)
    both = batch_of((5, Medium(0.1), Medium(0.2, slot="sound"), 7), slots=("image", "sound"))
    assert all(value.abs().max() > 0 for value in gradients(model, both).values())
    image_alone = batch_of((5, Medium(0.1), 7), slots=("image", "sound"))
    found = gradients(model, image_alone)
    assert all((value.abs().max() > 0) == ("image" in name) for name, value in found.items())
    assert len(found) == len(list(model.adapters.parameters()))
    alone = changed()
    alone.adapters["image"].load_state_dict(model.adapters["image"].state_dict())
    expected = batch_of((5, Medium(0.1), 7))
    logits = model(image_alone, image_alone.attention_mask).logits
    torch.testing.assert_close(logits, alone(expected, expected.attention_mask).logits)


def test_rows_in_another_order_and_their_gradient() -> None:
    order = torch.tensor([2, 0, 3, 1])
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(permuted(rows, order, order.argsort()), rows[order])
    assert torch.autograd.gradcheck(lambda values: permuted(values, order, order.argsort()), rows)


def test_chosen_layers() -> None:
    layers = llm_of(layers=5).patching.layers
    assert [layer.index for layer in chosen(layers, None, 1)] == [0, 1, 2, 3, 4]
    assert [layer.index for layer in chosen(layers, None, 2)] == [1, 3]
    assert [layer.index for layer in chosen(layers, [4, 0], 1)] == [4, 0]


def other_llm(family: str, **more: int) -> CausalLM:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64, **more}
    return CausalLM(CausalConfig(config={"model_type": family, **sizes}, tokenizer="bytes")).eval()


def test_layers_of_another_build_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"OPTDecoderLayer .*does not have exactly one attention, one MLP"):
        _ = other_llm("opt", ffn_dim=32, word_embed_proj_dim=WIDTH).patching


def test_a_module_that_takes_more_than_rows_gets_no_twin() -> None:
    llm = other_llm("bloom")
    with pytest.raises(RecipeError, match=r"h\.0\.mlp: BloomMLP takes hidden_states, residual"):
        llm.patching.twin(llm.patching.layers[0].mlp, "image", nn.Identity())


def test_an_llm_that_keeps_its_arguments_from_its_layers_is_refused() -> None:
    model = changed()
    decoder = model.llm.hf.model
    forward = type(decoder).forward
    decoder.forward = lambda inputs_embeds, **_: forward(decoder, inputs_embeds=inputs_embeds)
    with pytest.raises(RecipeError, match="LlamaForCausalLM does not pass its arguments to its layers"):
        model(batch_of(ONE))


def test_an_llm_that_keeps_its_arguments_from_its_layers_is_refused_before_any_weight_is_read() -> None:
    """As MPT in transformers does: `omnivit check` says so, on the meta device, and not the first step of training."""
    with torch.device("meta"):
        sizes = {"model_type": "mpt", "d_model": WIDTH, "n_heads": 2, "n_layers": 2}
        llm = CausalLM(CausalConfig(config=sizes, tokenizer="bytes"))
        layers = llm.patching
        layers.around(layers.layers[0].mlp, lambda plain, _, *args: plain(*args))
        with pytest.raises(RecipeError, match="MptForCausalLM does not pass its arguments to its layers"):
            layers.apply()


def test_batches_of_any_kind_can_follow_each_other() -> None:
    """Nothing of a batch is left behind, whatever happens in it."""
    model = changed(Around)
    adapter = model.adapters["image"]
    assert isinstance(adapter, Around)
    first: Batch = batch_of(ONE, TWO)
    before = model(first).logits
    model(batch_of(NONE))
    embeds, context = model.embed(first)
    with pytest.raises(RuntimeError):
        model.llm(embeds[..., :-1], first.attention_mask, first.position_ids, first.attention_mask, context)
    adapter.calls.clear()
    plain_logits(model.llm, model, first)
    assert adapter.calls == [None] * len(adapter.calls) != []
    assert torch.equal(model(first).logits, before)
