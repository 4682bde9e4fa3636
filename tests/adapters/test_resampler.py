"""The adapter `resampler`: masks, grids, refusals, initialisation."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from omnivit_adapters.resampler.adapter import ResamplerAdapter, ResamplerConfig
from resampler_support import KINDS, build, filled, numbers, padded, places, whole
from torch import Tensor, nn

from omnivit.contracts.features import Layout
from omnivit.contracts.options import merge_options
from omnivit.errors import RecipeError


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_influence(kind: str) -> None:
    adapter = build(kind, frames=3) if kind == "perceiver" else build(kind)
    adapter.load_state_dict(filled(adapter.state_dict()))
    media = [whole(numbers(1, 12, 16, seed=98), 3, 2, 2), whole(numbers(1, 6, 16, seed=97), 1, 2, 3)]
    batch = padded(*media)
    batch.values.requires_grad_()
    out = adapter(batch)
    out.values[out.mask].square().sum().backward()
    for number, medium in enumerate(media):
        alone = adapter(medium)
        assert torch.equal(out.mask[number].sum(), alone.mask.sum())
        torch.testing.assert_close(out.values[number][out.mask[number]], alone.values[0], rtol=1e-4, atol=1e-5)
    assert batch.values.grad is not None
    assert torch.equal(batch.values.grad != 0, batch.mask[..., None].expand_as(batch.values))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(3, 3), (2, 4), (3, 2, 2), (1, 1), (6,), ()])
def test_rows_are_those_of_the_rule(kind: str, sizes: tuple[int, ...]) -> None:
    adapter = build(kind)
    rule = pickle.loads(pickle.dumps(adapter.length))
    rows = math.prod(sizes) if sizes else 7
    layout = Layout(rows, sizes or None)
    features = whole(numbers(2, rows, 16, seed=99), *(sizes if len(sizes) > 1 else ()))
    if kind == "query" and len(sizes) < 2:
        with pytest.raises(RecipeError, match=r"the tokens must fill a grid, \(y, x\).*kind: perceiver"):
            rule(layout)
        with pytest.raises(RecipeError, match="returned tokens without places"):
            adapter(features)
        return
    expected, out = rule(layout), adapter(features)
    assert out.values.shape == (2, expected.tokens, 20)
    assert out.mask.shape == (2, expected.tokens)
    assert out.mask.all()
    if expected.grid is None:
        assert out.grid is None
    else:
        assert torch.equal(out.grid, places(*expected.grid).expand(2, -1, -1))


def test_how_many_rows() -> None:
    video = Layout(12, (3, 2, 2))
    assert build("perceiver").length(video) == Layout(3)
    assert build("abstractor").length(video) == Layout(4)
    assert build("abstractor", end=False).length(video) == Layout(3)
    assert build("query").length(Layout(9, (3, 3))) == Layout(4, (2, 2))
    assert build("query").length(video) == Layout(12, (3, 2, 2))


def test_frames_are_resampled_one_by_one() -> None:
    adapter = build("query")
    adapter.load_state_dict(filled(adapter.state_dict()))
    rows = numbers(1, 12, 16, seed=98)
    video = adapter(whole(rows, 3, 2, 2)).values
    pictures = adapter(whole(rows.reshape(3, 4, 16), 2, 2)).values
    torch.testing.assert_close(video.reshape(3, 4, 20), pictures, rtol=1e-4, atol=1e-5)


def test_positions_of_any_grid_are_interpolated_in_each_direction() -> None:
    adapter = build("query", 16, 16, projection=False)
    adapter.load_state_dict(filled(adapter.state_dict()))
    net, rows = adapter.network, numbers(1, 10, 16, seed=98)
    angles = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.1, 0.01, 0.001]])[:, :4]
    line = torch.cat([angles.sin(), angles.cos()], dim=1).T[None]
    y, x = (nn.functional.interpolate(line[..., None], (n, 1), mode="bicubic")[0, ..., 0].T for n in (2, 5))
    table = torch.cat([x.repeat(2, 1), y.repeat_interleave(5, 0)], dim=1)
    own = line[0].T
    places_of_queries = torch.cat([own.repeat(2, 1), own.repeat_interleave(2, 0)], dim=1)
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    attention.load_state_dict(
        {
            "in_proj_weight": net.in_proj.weight,
            "in_proj_bias": net.in_proj.bias,
            "out_proj.weight": net.out_proj.weight,
            "out_proj.bias": net.out_proj.bias,
        }
    )
    keys = net.ln_kv(rows)
    expected = attention((net.ln_q(net.query) + places_of_queries)[None], keys + table, keys)[0]
    torch.testing.assert_close(adapter(whole(rows, 2, 5)).values, expected, rtol=1e-4, atol=1e-5)


def test_frame_embeddings_tell_frames_apart() -> None:
    rows = numbers(1, 4, 16, seed=98).repeat(1, 3, 1)
    plain, framed = build("perceiver"), build("perceiver", frames=3)
    picture, video = whole(rows[:, :4], 2, 2), whole(rows, 3, 2, 2)
    only_last = replace(video, grid=places(3, 2, 2).expand(1, -1, -1) * 0 + torch.tensor([2, 0, 0]))
    torch.testing.assert_close(plain(video).values, plain(whole(rows)).values)
    assert not torch.allclose(framed(video).values, framed(only_last).values)
    first = framed.network.frame_embeddings[0]
    unframed = build("perceiver")
    unframed.load_state_dict({k: v for k, v in framed.state_dict().items() if "frame" not in k})
    torch.testing.assert_close(framed(picture).values, unframed(whole(picture.values + first)).values)


def test_too_many_frames_are_refused() -> None:
    adapter = build("perceiver", frames=2)
    with pytest.raises(RecipeError, match=r"3 frames, but there are only 2 .*Set `frames`"):
        adapter.length(Layout(12, (3, 2, 2)))
    with pytest.raises(RecipeError, match="3 frames"):
        adapter(whole(numbers(1, 12, 16, seed=98), 3, 2, 2))
    assert adapter.length(Layout(8, (2, 2, 2))) == Layout(3)


def test_positions_need_places() -> None:
    rule = build("abstractor", positions=True).length
    for layout in (Layout(9, (3, 3)), Layout(18, (2, 3, 3)), Layout(10, (3, 3))):  # the last: class token, then 3 x 3
        assert rule(layout) == Layout(4)
    for layout in (Layout(9), Layout(10), Layout(10, (10,)), Layout(1)):
        with pytest.raises(RecipeError, match=r"`positions: true` the tokens must fill a grid.*Remove `positions`"):
            rule(layout)
    with pytest.raises(RecipeError, match="`positions` is true, but the encoder returned"):
        build("abstractor", positions=True)(whole(numbers(1, 5, 16, seed=98)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "query", "depth": 2}, r"image\.adapter: kind query has no option depth\. Available: .*queries"),
        ({"kind": "abstractor", "qk_norm": False, "frames": 3}, "has no option qk_norm, frames"),
        ({"end": True}, "kind perceiver has no option end"),
        ({"kind": "query", "queries": 200}, r"queries \(200\) must be a square number"),
        ({"queries": 0}, r"queries \(0\) must be at least 1"),
        ({"frames": -1}, r"frames \(-1\)"),
        ({"kind": "abstractor", "dropout": 1.0}, r"dropout \(1\.0\)"),
        ({"kind": "percever"}, r"adapter\.kind: 'percever' is not allowed; did you mean 'perceiver'"),
    ],
)
def test_impossible_options_name_the_place(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        merge_options(ResamplerConfig, options, "model.inputs.image.adapter")


@pytest.mark.parametrize(
    ("kind", "width", "llm_width", "options", "message"),
    [
        ("query", 16, 20, {"heads": 3}, r"the LLM's width \(20\) is not a multiple of 3 \(heads\)\. Set `heads`"),
        ("query", 16, 18, {}, r"the LLM's width \(18\) is not a multiple of 4 \(sines"),
        ("abstractor", 16, 20, {"heads": 3}, r"the encoder's width \(16\) is not a multiple of 3 \(heads\)"),
        ("abstractor", 18, 20, {"positions": True}, r"the encoder's width \(18\) .* 4 \(sines"),
    ],
)
def test_widths_that_do_not_fit_are_refused(
    kind: str, width: int, llm_width: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        build(kind, width, llm_width, **options)


def test_without_projection_rows_keep_their_width() -> None:
    for kind in ("perceiver", "abstractor"):
        adapter = build(kind, projection=False)
        assert adapter.width == 16
        assert adapter(whole(numbers(1, 5, 16, seed=98))).values.shape[2] == 16
    assert build("query", projection=False).width == 20


def test_the_end_vector_follows_every_medium() -> None:
    adapter = build("abstractor")
    out = adapter(whole(numbers(3, 5, 16, seed=98))).values
    assert torch.equal(out[:, -1], adapter.network.end.expand(3, -1))
    assert not torch.allclose(out[0, 0], out[1, 0])


def test_dropout_is_for_training() -> None:
    adapter, features = build("abstractor", dropout=0.5), whole(numbers(1, 5, 16, seed=98))
    adapter.load_state_dict(filled(adapter.state_dict()))
    assert not torch.allclose(adapter(features).values, adapter(features).values)
    adapter.eval()
    assert torch.equal(adapter(features).values, adapter(features).values)


def test_initialised_as_the_originals() -> None:
    def deviation(weight: Tensor) -> float:
        found = float(weight.detach().std())
        return round(found, 2 if found < 0.1 else 1)

    perceiver = ResamplerAdapter(ResamplerConfig(frames=32), 128, 128).network
    query = ResamplerAdapter(ResamplerConfig("query"), 64, 256).network
    abstractor = ResamplerAdapter(ResamplerConfig("abstractor"), 128, 128).network
    assert perceiver.latents.shape == abstractor.queries.shape == (64, 128)
    assert (len(perceiver.layers), len(abstractor.layers)) == (6, 6)
    assert query.query.shape == (256, 256)
    assert [deviation(w) for w in (perceiver.latents, perceiver.frame_embeddings, abstractor.queries)] == [1, 1, 1]
    small = [query.query, query.kv_proj.weight, query.out_proj.weight]
    small += [abstractor.visual_fc.weight, abstractor.layers[5].w1.weight, abstractor.end]
    assert [deviation(w) for w in small] == [0.02] * 6
    assert float(query.in_proj.weight.detach().abs().max()) == pytest.approx(math.sqrt(6 / (4 * 256)), rel=1e-3)
    assert deviation(query.post[1].weight) == deviation(torch.tensor([-1.0, 1.0]) / 16 / math.sqrt(2))
    assert not query.in_proj.bias.any()
    assert not abstractor.layers[0].key.bias.any()


def test_default_sizes_are_the_papers() -> None:
    with torch.device("meta"):
        flamingo = ResamplerAdapter(ResamplerConfig(), 1024, 4096)
        qwen = ResamplerAdapter(ResamplerConfig("query"), 1664, 4096)
        owl = ResamplerAdapter(ResamplerConfig("abstractor"), 1024, 4096)
    assert flamingo.network.layers[0].to_q.weight.shape == (512, 1024)
    assert flamingo.network.layers[0].feed_forward[1].weight.shape == (4096, 1024)
    assert qwen.network.heads == 32
    assert qwen.length(Layout(1024, (32, 32))) == Layout(256, (16, 16))
    assert owl.network.layers[0].w1.weight.shape == (2816, 1024)
    assert owl.length(Layout(257, (16, 16))) == Layout(65)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_and_rows_differ(kind: str) -> None:
    adapter = build(kind, frames=2) if kind == "perceiver" else build(kind)
    features, optimizer = whole(numbers(2, 8, 16, seed=99), 2, 2, 2), torch.optim.Adam(adapter.parameters(), 1e-3)
    before = {name: value.clone() for name, value in adapter.named_parameters()}
    target = numbers(*adapter(features).values.shape, seed=96)
    losses = []
    for _ in range(10):
        loss = (adapter(features).values - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[9] < 0.9 * losses[0]
    still = {name for name, value in adapter.named_parameters() if torch.equal(value, before[name])}
    assert {name for name in still if not name.endswith("key.bias")} == set()  # softmax does not see a key's offset
    first, second = adapter(features).values[0, :2]
    assert not torch.allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_other_precisions(kind: str) -> None:
    features = whole(numbers(2, 4, 16, seed=99), 2, 2)
    half = features.with_values(features.values.bfloat16())
    adapter = build(kind)
    expected = adapter(features).values
    assert adapter(half).values.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(adapter(half).values.float(), expected, rtol=0.05, atol=0.05)
    out = adapter.bfloat16()(features).values
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_make_the_round_trip(kind: str) -> None:
    features, adapter = whole(numbers(1, 4, 16, seed=99), 2, 2), build(kind)
    adapter.load_state_dict(filled(adapter.state_dict()))
    other = build(kind)
    assert not torch.allclose(other(features).values, adapter(features).values)
    other.load_state_dict(adapter.state_dict())
    assert torch.equal(other(features).values, adapter(features).values)


@pytest.mark.parametrize("kind", ["perceiver", "abstractor"])
def test_is_one_graph_for_the_compiler(kind: str) -> None:
    adapter, features = build(kind), whole(numbers(2, 4, 16, seed=99), 2, 2)
    compiled = torch.compile(adapter, backend="eager", fullgraph=True)
    assert torch.equal(compiled(features).values, adapter(features).values)
