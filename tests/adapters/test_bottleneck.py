"""`bottleneck` in LLMs: the numbers of the original, the place, the routing, and training."""

from __future__ import annotations

import pickle
from typing import Any

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
from omnivit_adapters.bottleneck import Bottleneck, BottleneckAdapter, BottleneckConfig, RoutedBottleneck
from torch import Tensor, nn
from torch.nn.functional import conv1d

from omnivit.contracts.features import Features
from omnivit.contracts.options import merge_options
from omnivit.errors import RecipeError
from omnivit.model.causal import CausalLM
from omnivit.model.lora import Lora
from omnivit.model.omni import OmniModel

GOLDEN = read_golden("adapters/bottleneck")


def adapter_of(**options: Any) -> BottleneckAdapter:
    options = {"encoder": False, "dropout": 0.0, "temperature": 0.5} | options
    return BottleneckAdapter(BottleneckConfig(**options), WIDTH, WIDTH)


def trained_model(family: str = "llama", llm: dict[str, Any] | None = None, **options: Any) -> OmniModel:
    """A model whose bottlenecks change what the LLM gives, by a pattern."""
    model = model_of(llm_of(family, **(llm or {})), {"image": adapter_of(**options)})
    fill(model.adapters, 3.0)
    return model


def original_llm() -> CausalLM:
    """The LLM of the golden numbers: every parameter is a pattern, norms are close to 1."""
    llm = llm_of(shared=1)
    for number, (name, parameter) in enumerate(sorted(llm.named_parameters())):
        pattern = wave(parameter.shape, float(number), 0.3)
        parameter.data.copy_(1 + pattern if "norm" in name else pattern)
    return llm


# -- the original's numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=["two groups", "four groups"])
def test_numbers_of_the_original(case: dict[str, Any]) -> None:
    shape = tuple(GOLDEN["shape"])
    config = BottleneckConfig(dim=4, groups=case["groups"], scale=case["scale"], temperature=case["temperature"])
    routed, unrouted = (cls(config, shape[2]).eval().requires_grad_(False) for cls in (RoutedBottleneck, Bottleneck))
    assert isinstance(routed, RoutedBottleneck)
    maps = (routed.down, routed.up, routed.other_up, routed.router)
    for number, parameter in enumerate(p for part in maps for p in (part.weight, part.bias)):
        parameter.copy_(wave(parameter.shape, float(number)))
    unrouted.load_state_dict({name: routed.state_dict()[name] for name in unrouted.state_dict()})
    modality, kinds = wave((2, shape[2]), 7.0), torch.tensor([0, 1, 1])
    rows = torch.cat([modality[kinds].unsqueeze(1), wave((shape[0], shape[1] - 1, shape[2]), 9.0)], dim=1)
    found = {
        "routes": routed.weights(modality),
        "routed": routed(rows, modality, kinds),
        "unrouted": unrouted(rows),
    }
    for name, value in found.items():
        torch.testing.assert_close(value.flatten(), torch.tensor(case[name]), rtol=0, atol=1e-5, msg=name)


def test_routed_by_states_the_layers_give_the_numbers_of_the_original() -> None:
    model = model_of(original_llm(), {"image": adapter_of(dim=4, router="state")})
    fill(model.adapters, 3.0)
    batch = batch_of(ONE, NONE)
    expected = torch.tensor(GOLDEN["layers"]["logits"])
    torch.testing.assert_close(model(batch, batch.attention_mask).logits, expected, rtol=0, atol=1e-5)


def test_in_an_encoder_each_token_is_routed_as_in_the_original() -> None:
    part = RoutedBottleneck(BottleneckConfig(dim=4, scale=1.5), 16).eval().requires_grad_(False)
    maps = (part.down, part.up, part.other_up, part.router)
    for number, parameter in enumerate(p for each in maps for p in (each.weight, each.bias)):
        parameter.copy_(wave(parameter.shape, float(number)))
    image = wave((1, 7, 16), 9.0)
    expected = torch.tensor(GOLDEN["encoder"]["values"]).view(1, 7, 16)
    torch.testing.assert_close(part(image), expected, rtol=0, atol=1e-5)
    neighbours = torch.cat([wave((1, 7, 16), 2.0), image])  # in the original, the first image routes all others
    torch.testing.assert_close(part(neighbours)[1:], expected, rtol=0, atol=1e-5)


def test_starts_as_the_original_starts() -> None:
    torch.manual_seed(0)
    part = RoutedBottleneck(BottleneckConfig(), 512)
    zeros = (part.down.bias, part.up.weight, part.up.bias, part.other_up.weight, part.other_up.bias)
    assert not any(value.any() for value in zeros)
    bound = (6 / (512 + 8)) ** 0.5  # Xavier's
    assert 0.98 * bound < part.down.weight.abs().max() <= bound
    assert part.router.weight.abs().max() <= 512**-0.5  # torch's own
    modality = BottleneckAdapter(BottleneckConfig(), 8, 512).modality.weight
    assert 0.9 < modality.std() < 1.1 and modality.mean().abs() < 0.1
    assert part.dropout.p == 0.1


def original_mixture(part: RoutedBottleneck, modality: Tensor, rows: Tensor) -> Tensor:
    """Rows [B, T, D] of samples of one kind, through the convolutions that the paper's authors use."""
    first, second = (torch.softmax(part.router(modality) / part.temperature, -1)).tolist()
    narrow = conv1d(rows.transpose(1, 2), part.down.weight.unsqueeze(-1), part.down.bias)
    ups = [conv1d(narrow, m.weight.unsqueeze(-1), m.bias, groups=m.groups) for m in (part.up, part.other_up)]
    return rows + part.scale * (first * ups[0] + second * ups[1]).transpose(1, 2)


@pytest.mark.parametrize("position", ["attention", "block"])
@pytest.mark.parametrize(("sample", "kind"), [(ONE, 1), (NONE, 0)], ids=["media", "text"])
def test_stands_between_norm_and_attention_and_between_norm_and_mlp(
    position: str, sample: tuple[Item, ...], kind: int
) -> None:
    model, plain = trained_model(position=position), llm_of()
    adapter = model.adapters["image"]
    assert isinstance(adapter, BottleneckAdapter)
    for layer, parts in zip(plain.patching.layers, adapter.layers, strict=True):
        assert isinstance(parts, nn.ModuleDict)
        for name, part in parts.items():
            module = {"attention": layer.attention, "mlp": layer.mlp}[name]

            def hook(_: Any, args: Any, kwargs: Any, part: Any = part) -> tuple[tuple[Any, ...], dict[str, Any]]:
                if args:
                    return (original_mixture(part, adapter.modality.weight[kind], args[0]), *args[1:]), kwargs
                mixed = original_mixture(part, adapter.modality.weight[kind], kwargs["hidden_states"])
                return args, {**kwargs, "hidden_states": mixed}

            module.register_forward_pre_hook(hook, with_kwargs=True)
    assert {name for parts in adapter.layers for name in parts} == {"attention", *{"block": ["mlp"]}.get(position, [])}
    batch = batch_of(sample)
    torch.testing.assert_close(
        model(batch, batch.attention_mask).logits, plain_logits(plain, model, batch), rtol=0, atol=1e-5
    )


# -- every family of LLMs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_at_first_the_llm_gives_what_it_gave_without(family: str) -> None:
    plain, llm = llm_of(family), llm_of(family)
    keys = list(llm.state_dict())
    model = model_of(llm, {"image": adapter_of(position="block")})
    assert list(llm.state_dict()) == keys
    for batch in (batch_of(NONE, NONE[:3]), batch_of(ONE, NONE, TWO)):
        assert torch.equal(model(batch, batch.attention_mask).logits, plain_logits(plain, model, batch))
    fill(model.adapters, 3.0)
    assert not torch.equal(model(batch, batch.attention_mask).logits, plain_logits(plain, model, batch))


@pytest.mark.parametrize("router", ["vector", "state"])
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_gives_what_a_loop_without_gives(family: str, router: str) -> None:
    model = trained_model(family, position="block", router=router)
    batch = batch_of(LATE, NONE, TWO, ONE, left=True)
    with torch.no_grad():
        assert torch.equal(generated(model, batch), looped(model, batch))


@pytest.mark.parametrize("router", ["vector", "state"])
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_activations_changes_no_gradient(family: str, router: str) -> None:
    found = []
    for on in (False, True):
        model = trained_model(family, {"gradient_checkpointing": on}, position="block", dropout=0.1, router=router)
        torch.manual_seed(5)  # of dropout
        found.append(gradients(model, batch_of(ONE, NONE, TWO)))
    assert found[0].keys() == {f"adapters.{name}" for name, _ in model.adapters.named_parameters()}
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert all(value.abs().max() > 0 for value in found[0].values())


# -- routing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "moved"), [(0, [False, True, False]), (1, [True, False, True])])
def test_each_sample_is_routed_by_whether_it_shows_a_medium(kind: int, moved: list[bool]) -> None:
    model, batch = trained_model(), batch_of(ONE, NONE, TWO)
    before = model(batch, batch.attention_mask).logits
    model.adapters["image"].modality.weight.data[kind] += 1.0
    changed = torch.zeros_like(batch.attention_mask).masked_scatter(
        batch.attention_mask, (model(batch, batch.attention_mask).logits != before).any(1)
    )
    assert changed.any(dim=1).tolist() == moved
    assert torch.equal(changed[moved], batch.attention_mask[moved])  # text before the medium as well


def test_the_kind_of_a_sample_holds_while_text_is_generated() -> None:
    model, batch = trained_model(), batch_of(LATE, NONE, left=True)
    logits: list[Tensor] = []
    model.llm.hf.register_forward_hook(lambda *found: logits.append(found[2].logits[:, -1]))
    with torch.no_grad():
        ids = generated(model, batch, 3)
        steps = torch.stack(logits, dim=1)
        embeds, context = model.embed(batch)
        embeds = torch.cat([embeds, model.llm.embed(ids[:, :2])], dim=1)
        mask = torch.cat([batch.attention_mask, torch.ones(2, 2, dtype=torch.bool)], dim=1)
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        whole = [
            model.llm(embeds, mask, positions, mask, seen).logits
            for seen in (context.window(0, embeds.shape[1], 2), None)
        ]
    right, wrong = (torch.zeros(*mask.shape, 64).masked_scatter(mask[..., None], found)[:, -3:] for found in whole)
    torch.testing.assert_close(steps, right, rtol=0, atol=1e-5)
    assert (steps - wrong).abs().amax(dim=(1, 2)).gt(1e-3).tolist() == [True, False]


def test_beams_are_routed_as_their_sample() -> None:
    model = trained_model()
    batches = batch_of(TWO, NONE, left=True), batch_of(TWO), batch_of(NONE)
    with torch.no_grad():
        found = [ids for batch in batches for ids in generated(model, batch, num_beams=3).tolist()]
    assert found[:2] == found[2:]


def test_inputs_that_share_it_count_as_one() -> None:
    adapter = adapter_of()
    model = model_of(llm_of(), {"image": adapter, "sound": adapter})
    assert len(adapter.layers) == 2
    names = [name for name, _ in model.named_parameters() if name.startswith("adapters.")]
    assert {name.split(".")[1] for name in names} == {"image"}
    fill(model.adapters, 3.0)
    sound: tuple[Item, ...] = (5, Medium(0.1, slot="sound"), 9)
    batch = batch_of(ONE, sound, NONE, slots=("image", "sound"))
    before = model(batch, batch.attention_mask).logits
    adapter.modality.weight.data[1] += 1.0
    changed = (model(batch, batch.attention_mask).logits != before).any(dim=1)
    assert changed.tolist() == [True] * 11 + [False] * 5
    assert all(value.abs().max() > 0 for value in gradients(model, batch).values())


def test_states_are_read_once_for_an_answer_and_for_each_sample_in_training() -> None:
    model = trained_model(router="state", dropout=0.5)
    states: list[Tensor] = []
    model.adapters["image"].layers[1]["attention"].register_forward_pre_hook(
        lambda _, args: states.append(args[1]) if args[0].shape[1] == 1 and args[1] is not None else None
    )
    with torch.no_grad():
        generated(model, batch_of(LATE, NONE, left=True), 3)
    own, *steps = states
    assert own.shape == (2, WIDTH) and len(steps) == 2  # of two kinds, and then in each step after the prompt
    assert all(torch.equal(own, seen) for seen in steps)
    states.clear()
    batch = batch_of(ONE, TWO, NONE)
    model.train()(batch)
    (own,) = states
    assert own.shape == (3, WIDTH) and not torch.equal(own[0], own[1])  # of the same kind, but dropout differs


def test_a_later_state_depends_on_the_layers_before() -> None:
    model, batch = trained_model(router="state"), batch_of(ONE, NONE)
    found = gradients(model, batch)
    assert found.keys() == {f"adapters.{name}" for name, _ in model.adapters.named_parameters()}
    assert all(value.any() for value in found.values())
    assert found["adapters.image.modality.weight"].any(dim=1).all()
    other = trained_model(router="vector")
    assert (model(batch).logits - other(batch).logits).abs().max() > 1e-3


# -- training, saving, together with others ----------------------------------------------------------------------------


def test_ways_up_learn_first_and_the_rest_after_them() -> None:
    model, batch = model_of(llm_of(), {"image": adapter_of(position="block")}), batch_of(ONE, NONE, TWO)
    first = gradients(model, batch)
    names = {f"adapters.{name}" for name, _ in model.adapters.named_parameters()}
    assert {name for name, value in first.items() if value.any()} == {name for name in names if "up." in name}
    torch.optim.SGD(model.adapters.parameters(), lr=1.0).step()
    after = gradients(model, batch)
    assert after.keys() == names
    assert all(value.any() for value in after.values())


def test_text_alone_trains_every_parameter() -> None:
    found = gradients(trained_model(), batch_of(NONE))
    assert all(value.any() for value in found.values())
    assert found["adapters.image.modality.weight"].any(dim=1).tolist() == [True, False]


def test_dropout_is_for_training() -> None:
    model, batch = trained_model(dropout=0.5), batch_of(ONE)
    assert torch.equal(model(batch).logits, trained_model(dropout=0.0)(batch).logits)
    assert not torch.equal(model.train()(batch).logits, model(batch).logits)


def test_with_lora() -> None:
    model = model_of(llm_of(lora=Lora(targets=["q_proj", "down_proj"], r=2)), {"image": adapter_of(position="block")})
    batch = batch_of(ONE, NONE, TWO)
    assert torch.equal(model(batch, batch.attention_mask).logits, plain_logits(llm_of(), model, batch))
    fill(model.adapters, 3.0)
    for name, parameter in model.llm.named_parameters():
        if "lora" in name:
            parameter.requires_grad_(True).data.normal_(std=0.1)
    found = gradients(model, batch)
    assert sum("lora" in name for name in found) == 8
    assert all(value.any() for value in found.values())


def test_a_bfloat16_llm_with_float32_bottlenecks() -> None:
    model = model_of(llm_of(dtype="bfloat16"), {"image": adapter_of()})
    batch = batch_of(ONE, NONE, TWO)
    assert torch.equal(model(batch, batch.attention_mask).logits, plain_logits(llm_of(dtype="bfloat16"), model, batch))
    fill(model.adapters, 3.0)
    found = gradients(model, batch)
    assert all(value.isfinite().all() and value.any() and value.dtype == torch.float32 for value in found.values())


@pytest.mark.parametrize("whole", [False, True], ids=["autocast", "bfloat16 throughout"])
def test_bfloat16(whole: bool) -> None:
    model, batch = trained_model(), batch_of(ONE, NONE, TWO)
    full = model(batch).logits
    model = model.to(torch.bfloat16) if whole else model
    with torch.autocast("cpu", torch.bfloat16, enabled=not whole):
        found, half = gradients(model, batch), model(batch).logits.float()
    assert all(value.isfinite().all() and value.any() for value in found.values())
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.99


def test_save_and_load() -> None:
    trained, again, batch = trained_model(), model_of(llm_of(), {"image": adapter_of()}), batch_of(ONE, NONE)
    assert not torch.equal(again(batch).logits, trained(batch).logits)
    again.adapters.load_state_dict(pickle.loads(pickle.dumps(trained.adapters.state_dict())))
    assert torch.equal(again(batch).logits, trained(batch).logits)


def test_rows_pass_unchanged_and_builds_on_meta() -> None:
    with torch.device("meta"):
        model = model_of(llm_of(), {"image": adapter_of(dim=8)})
    assert all(parameter.is_meta for parameter in model.adapters.parameters())
    layer = (WIDTH * 8 + 8) + 2 * (WIDTH * 4 + WIDTH) + (2 * WIDTH + 2)
    assert sum(parameter.numel() for parameter in model.adapters.parameters()) == 2 * WIDTH + 2 * layer
    features = Features(torch.ones(1, 3, WIDTH), torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3, 2))
    assert adapter_of()(features) is features


def test_compiles_whole() -> None:
    model, batch = trained_model(position="block"), batch_of(ONE, NONE, TWO)
    expected = model(batch).logits
    for part in model.adapters.modules():
        if isinstance(part, RoutedBottleneck):
            part.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(model(batch).logits, expected, rtol=0, atol=1e-6)


# -- what cannot be ----------------------------------------------------------------------------------------------------


def test_a_width_that_the_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(
        RecipeError,
        match=r"width of the layers \(16\) is not a multiple of `groups` \(3\).*divisor of both 16 and `dim` \(9\)",
    ):
        model_of(llm_of(), {"image": adapter_of(dim=9, groups=3)})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"encoder": False, "encoder_router": True}, r"`encoder_router: true` needs `encoder: true`"),
        ({"dim": 0}, r"dim \(0\) must be at least 1"),
        ({"groups": 0}, r"groups \(0\) must be at least 1"),
        ({"dim": 8, "groups": 3}, r"dim \(8\) must be a multiple of groups \(3\)"),
        ({"temperature": 0}, r"temperature \(0.*\) must be above 0"),
        ({"dropout": 1}, r"dropout \(1.*\) must be at least 0 and below 1"),
        ({"position": "norm"}, r"position.*attention.*block"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        merge_options(BottleneckConfig, options, "adapter")
