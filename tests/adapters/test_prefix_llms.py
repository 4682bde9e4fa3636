"""`prefix` inside LLMs: every family, training, generation, saving, beside other changes."""

from __future__ import annotations

import pickle
from typing import Any

import matrix_support
import pytest
import torch
from llm_support import (
    FAMILIES,
    NONE,
    ROWS,
    WIDTH,
    Item,
    Medium,
    batch_of,
    fill,
    generated,
    gradients,
    llm_of,
    looped,
    model_of,
    plain_logits,
    wave,
)
from omnivit_adapters.chain import ChainAdapter, ChainConfig
from omnivit_adapters.linear import LinearAdapter, LinearConfig
from omnivit_adapters.prefix.adapter import PrefixAdapter
from prefix_support import FULL, adapter_of, mixed_batch, trained_model
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from omnivit.contracts.encoder import Encoder
from omnivit.contracts.llm import LanguageModel
from omnivit.data.collate import collate
from omnivit.model.build import preparer_of
from omnivit.model.lora import Lora

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
# -- every family of LLMs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_at_first_the_llm_gives_what_it_gave_without(family: str) -> None:
    plain, llm = llm_of(family), llm_of(family)
    keys = list(llm.state_dict())
    model = model_of(llm, {"image": adapter_of(layers=2, bias_scale=True)})
    assert list(llm.state_dict()) == keys
    assert llm.hf.config.to_dict() == plain.hf.config.to_dict()
    for batch in (batch_of(NONE, NONE[:3]), mixed_batch()):
        assert torch.equal(model(batch, batch.attention_mask).logits, plain_logits(plain, model, batch))
    fill(model.adapters, 3.0)
    assert not torch.equal(model(batch, batch.attention_mask).logits, plain_logits(plain, model, batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_find_in_prompts_what_they_would_find_alone(family: str) -> None:
    """A token that sees itself and the prompts: worked out anew from the layer's own maps, without positions."""
    model, plain = trained_model(family, layers=2), llm_of(family)
    batch = batch_of((5,), (Medium(0.4, count=1), 9), places=0)
    adapter = model.adapters["image"]
    assert isinstance(adapter, PrefixAdapter)
    rows = wave((ROWS, WIDTH), 0.4)[:1]
    for layer, part in zip(plain.patching.layers, adapter.layers.values(), strict=True):
        prompts = torch.stack([part.prompts, part.prompts + rows])
        hook = _Expected(layer.attention, prompts, part.gate)
        layer.attention.register_forward_pre_hook(hook.note, with_kwargs=True)
        layer.projections()["dense" if family == "phi" else "o_proj"].register_forward_pre_hook(hook)
    torch.testing.assert_close(
        model(batch, batch.attention_mask).logits, plain_logits(plain, model, batch), rtol=0, atol=2e-5
    )


class _Expected:
    """Adds to what enters an output projection what the tokens, at position 0 and so unturned, find in the prompts."""

    def __init__(self, attention: Any, prompts: Tensor, gate: Tensor) -> None:
        self.attention, self.prompts, self.gate = attention, prompts, gate

    def note(self, _: Any, args: Any, kwargs: Any) -> None:
        self.hidden = args[0] if args else kwargs["hidden_states"]

    def __call__(self, _: Any, args: Any) -> tuple[Tensor]:
        query, key, value = self._maps(self.hidden)[0], *self._maps(self.prompts)[1:]
        found = []
        for head in range(2):  # both heads share one of keys and values
            scores = (query[:, :, head] @ key[:, :, 0].transpose(1, 2) * self.attention.scaling).softmax(-1)
            found.append(torch.tanh(self.gate[head]) * scores @ value[:, :, 0])
        return (args[0] + torch.cat(found, dim=-1),)

    def _maps(self, rows: Tensor) -> list[Tensor]:
        own = self.attention
        if hasattr(own, "qkv_proj"):
            maps = own.qkv_proj(rows).split([16, 8, 8], dim=-1)
        else:
            maps = (own.q_proj(rows), own.k_proj(rows), own.v_proj(rows))
        query, key, value = (part.unflatten(-1, (-1, 8)) for part in maps)
        return [own.q_norm(query), own.k_norm(key), value] if hasattr(own, "q_norm") else [query, key, value]


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_gives_what_a_loop_without_gives(family: str) -> None:
    model, batch = trained_model(family, layers=2, bias_scale=True), mixed_batch(left=True)
    with torch.no_grad():
        assert torch.equal(generated(model, batch), looped(model, batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_activations_changes_no_gradient(family: str) -> None:
    found = []
    for on in (False, True):
        model = trained_model(family, {"gradient_checkpointing": on}, layers=2, bias_scale=True)
        found.append(gradients(model, mixed_batch()))
    assert found[0].keys() == {f"adapters.{name}" for name, _ in model.adapters.named_parameters()}
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert all(value.any() for value in found[0].values())


def test_with_the_eager_attention_of_transformers() -> None:
    batch, logits = mixed_batch(), []
    for name in ("sdpa", "eager"):
        model = trained_model(layers=2)
        model.llm.hf.set_attn_implementation(name)
        assert model.llm.hf.config._attn_implementation == name
        logits.append(model(batch, batch.attention_mask).logits)
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)


def test_an_attention_function_that_reads_its_name_in_the_config() -> None:
    """As transformers' flash attention does, which needs a GPU: it must find the LLM's config, not ours."""
    name, names = "named_for_a_test", []

    def function(module: Any, *args: Any, **kwargs: Any) -> Any:
        names.append(module.config._attn_implementation)
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)
    batch, logits = mixed_batch(), []
    for implementation in ("sdpa", name):
        model = trained_model(layers=2)
        model.llm.hf.set_attn_implementation(implementation)
        logits.append(model(batch, batch.attention_mask).logits)
    assert names == [name] * 2
    assert torch.equal(*logits)


# -- training, saving, together with others ----------------------------------------------------------------------------


def test_gates_learn_first_and_the_rest_after_them() -> None:
    model, batch = model_of(llm_of(), {"image": adapter_of(layers=2)}), mixed_batch()
    first = gradients(model, batch)
    names = {f"adapters.{name}" for name, _ in model.adapters.named_parameters()}
    assert {name for name, value in first.items() if value.any()} == {n for n in names if n.endswith("gate")}
    torch.optim.SGD(model.adapters.parameters(), lr=1.0).step()
    after = gradients(model, batch)
    assert after.keys() == names and all(value.any() for value in after.values())


def test_text_alone_trains_every_parameter() -> None:
    found = gradients(trained_model(bias_scale=True), batch_of(NONE))
    assert all(value.any() for value in found.values())


def test_gradients_reach_what_stands_before_it() -> None:
    prefix = {"name": "omnivit_adapters.prefix.adapter:PrefixAdapter", "prompts": ROWS, "layers": 1}
    steps = [{"name": "linear"}, prefix]
    adapter = ChainAdapter(ChainConfig(steps), 12, WIDTH)
    model = model_of(llm_of(), {"image": adapter}, width=12)
    fill(model.adapters, 3.0)
    batch = batch_of((5, Medium(0.1, count=1, width=12), 9), NONE, places=0)
    found = gradients(model, batch)
    assert found.keys() == {f"adapters.{name}" for name, _ in model.adapters.named_parameters()}
    assert all(value.any() for value in found.values())


def test_offsets_and_factors() -> None:
    model, plain, batch = model_of(llm_of(), {"image": adapter_of(bias_scale=True)}), llm_of(), batch_of(NONE)
    adapter = model.adapters["image"]
    fill(adapter.maps, 1.0)
    for layer in plain.patching.layers:
        for name, child in [*layer.attention.named_children(), *layer.mlp.named_children()]:
            if name in adapter.maps[str(layer.index)]:
                part = adapter.maps[str(layer.index)][name]
                child.weight.copy_(part.scale[:, None] * child.weight)
                child.bias = torch.nn.Parameter(part.scale * part.bias)
    found = model(batch, batch.attention_mask).logits
    torch.testing.assert_close(found, plain_logits(plain, model, batch), rtol=0, atol=1e-5)


class Twins(LinearAdapter):
    """Gives the rows of its media maps of their own in the LLM."""

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        del encoder
        self.maps = nn.ModuleList()
        for layer in llm.patching.layers:
            for name in ("k_proj", "v_proj"):
                self.maps.append(nn.Linear(WIDTH, 8))
                llm.patching.twin(layer.projections()[name], slot, self.maps[-1])


def test_beside_maps_of_another_input() -> None:
    """Prompts go through the layer's own maps, whatever maps rows of media."""
    twins = Twins(LinearConfig(), WIDTH, WIDTH)
    model = model_of(llm_of(), {"image": adapter_of(layers=2), "sound": twins})
    fill(model.adapters, 3.0)
    sample: tuple[Item, ...] = (5, 9, Medium(0.6, count=2, slot="sound"), 17)
    both = batch_of(sample, NONE, slots=("image", "sound"))
    found = model(both, both.attention_mask).logits
    alone = batch_of(sample, slots=("image", "sound")), batch_of(NONE, slots=("image", "sound"))
    expected = torch.cat([model(batch, batch.attention_mask).logits for batch in alone])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    without = model_of(llm_of(), {"image": adapter_of(layers=2)})
    without.adapters["image"].load_state_dict(model.adapters["image"].state_dict())
    batch = batch_of(FULL, NONE, places=0, slots=("image", "sound"))
    assert torch.equal(model(batch).logits, without(batch).logits)


BLOCKS: dict[str, dict[str, Any]] = {
    "of queries": {"name": "resampler", "queries": 4, "heads": 2},
    "of one query": {"name": "resampler", "queries": 1, "heads": 2},
}


@pytest.mark.parametrize("before", BLOCKS)
def test_a_recipe_is_built_trained_and_asked(before: str) -> None:
    steps = [BLOCKS[before], {"name": "omnivit_adapters.prefix.adapter:PrefixAdapter", "prompts": 4}]
    block, llm = {"name": "chain", "steps": steps}, {"model_type": "llama", **SIZES}
    model, recipe = matrix_support.model_of(block, "image", llm), matrix_support.recipe_of(block, "image", llm)
    preparer = preparer_of(model, recipe)
    batch, asked = (
        collate(
            [preparer(sample, generate=generate) for sample in matrix_support.samples()],
            ("media",),
            preparer.chat.pad_id,
            pad_left=generate,
        )
        for generate in (False, True)
    )
    assert not batch.route.any()  # no row of the sequence is a medium's
    fill(model.adapters["media"].steps[1], 3.0)
    model.adapters.requires_grad_(True)
    assert any(value.any() for name, value in gradients(model, batch).items() if "steps.0" in name)
    with torch.no_grad():
        assert torch.equal(generated(model, asked), looped(model, asked))


def test_with_lora() -> None:
    lora = Lora(targets=["k_proj", "down_proj"], r=2)
    model = model_of(llm_of(lora=lora), {"image": adapter_of(layers=2, bias_scale=True)})
    batch = mixed_batch()
    assert torch.equal(model(batch, batch.attention_mask).logits, plain_logits(llm_of(), model, batch))
    fill(model.adapters, 3.0)
    for name, parameter in model.llm.named_parameters():
        if "lora" in name:
            parameter.requires_grad_(True).data.normal_(std=0.1)
    found = gradients(model, batch)
    assert sum("lora" in name for name in found) == 8
    assert all(value.any() for value in found.values())


def test_a_bfloat16_llm_with_float32_prompts() -> None:
    model = model_of(llm_of(dtype="bfloat16"), {"image": adapter_of(bias_scale=True)})
    batch = mixed_batch()
    assert torch.equal(model(batch, batch.attention_mask).logits, plain_logits(llm_of(dtype="bfloat16"), model, batch))
    fill(model.adapters, 3.0)
    found = gradients(model, batch)
    assert all(value.isfinite().all() and value.any() and value.dtype == torch.float32 for value in found.values())


@pytest.mark.parametrize("whole", [False, True], ids=["autocast", "bfloat16 throughout"])
def test_bfloat16(whole: bool) -> None:
    model, batch = trained_model(), mixed_batch()
    full = model(batch).logits
    model = model.to(torch.bfloat16) if whole else model
    with torch.autocast("cpu", torch.bfloat16, enabled=not whole):
        found, half = gradients(model, batch), model(batch).logits.float()
    assert all(value.isfinite().all() and value.any() for value in found.values())
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.99


def test_save_and_load() -> None:
    trained, again, batch = trained_model(), model_of(llm_of(), {"image": adapter_of()}), mixed_batch()
    assert not torch.equal(again(batch).logits, trained(batch).logits)
    again.adapters.load_state_dict(pickle.loads(pickle.dumps(trained.adapters.state_dict())))
    assert torch.equal(again(batch).logits, trained(batch).logits)


def test_builds_on_meta() -> None:
    with torch.device("meta"):
        model = model_of(llm_of(layers=4), {"image": adapter_of(layers=3)})
    assert all(parameter.is_meta for parameter in model.adapters.parameters())
    assert sum(parameter.numel() for parameter in model.adapters.parameters()) == 3 * (ROWS * WIDTH + 2)
    assert pickle.loads(pickle.dumps(model.branches("image")[0].adapter.length)) == adapter_of().length


def test_compiles_whole() -> None:
    model, batch = trained_model(), mixed_batch()
    expected = model(batch).logits
    model.adapters["image"].layers["1"].compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(model(batch).logits, expected, rtol=0, atol=1e-6)
