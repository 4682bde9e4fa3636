"""The adapter `pool`: numbers of the originals, media of mixed sizes, class tokens, length rules, refusals."""

from __future__ import annotations

import math
import pickle
from dataclasses import fields
from typing import Any, get_args

import pytest
import torch
from golden_support import read_golden
from matrix_support import model_of, recipe_of, samples
from omnivit_adapters.pool.adapter import PoolAdapter, PoolConfig
from omnivit_adapters.pool.kinds import KINDS, KindName
from torch import Tensor, nn

from omnivit.contracts.features import Features, Layout
from omnivit.contracts.options import merge_options
from omnivit.data.collate import collate
from omnivit.errors import RecipeError
from omnivit.model.build import preparer_of

GOLDEN = read_golden("adapters/pool")
WIDTH = 4
LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "spatio_temporal": {"kind": "spatio_temporal"},
    "spatio_temporal padded": {"kind": "spatio_temporal", "frames": 3},
    "temporal": {"kind": "temporal"},
    "temporal transformer": {"kind": "temporal", "weights": "transformer", "heads": 2},
    "merge": {"kind": "merge", "n": 2},
    "consecutive": {"kind": "consecutive", "n": 4},
    "grid": {"kind": "grid", "size": [3, 2]},
    "mean": {"kind": "mean"},
}
"""Options -> what any clip of even height and width can be given to."""


def build(width: int = WIDTH, **options: Any) -> PoolAdapter:
    torch.manual_seed(0)
    return PoolAdapter(PoolConfig(**options), width, 32).eval()


def waves(*shape: int, speed: float) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * speed).reshape(shape).float()


def fill(module: nn.Module, speed: float) -> None:
    """The weights of the golden numbers."""
    with torch.no_grad():
        for number, (name, parameter) in enumerate(sorted(module.named_parameters())):
            wave = waves(*parameter.shape, speed=speed + 0.1 * number)
            parameter.copy_(1 + 0.1 * wave if name.startswith("norm") and name.endswith("weight") else 0.3 * wave)


def places_of(size: tuple[int, ...], token: bool = False) -> Tensor:
    """[R, k] of a grid; with a class token before each frame."""
    places = torch.cartesian_prod(*(torch.arange(n) for n in size)).reshape(-1, len(size))
    if not token:
        return places
    frames = places.reshape(-1, size[-2] * size[-1], len(size))
    tokens = torch.full_like(frames[:, :1], -1)
    tokens[..., :-2] = frames[:, :1, :-2]
    return torch.cat([tokens, frames], dim=1).flatten(0, 1)


def media(*sizes: tuple[int, ...], token: bool = False, skip: int = 0, width: int = WIDTH) -> Features:
    """Media that fill grids of these sizes, NaN and nonsense where there is padding; `skip` of it before the rows."""
    grids = [places_of(size, token) for size in sizes]
    most = max(map(len, grids)) + skip
    values = torch.full((len(sizes), most, width), torch.nan)
    mask, grid = torch.zeros(len(sizes), most, dtype=torch.bool), torch.full((len(sizes), most, len(sizes[0])), 99)
    for number, places in enumerate(grids):
        here = slice(skip, skip + len(places))
        values[number, here] = torch.randn(len(places), width, generator=torch.Generator().manual_seed(number))
        mask[number, here], grid[number, here] = True, places
    return Features(values, mask, grid)


def rows_of(found: Features, number: int) -> Tensor:
    return found.values[number, found.mask[number]]


def golden(name: str) -> Tensor:
    return torch.tensor(GOLDEN[name]["values"])


def test_numbers_are_those_of_video_chatgpt() -> None:
    rows = Features(waves(1, 12, 5, speed=1.3), torch.ones(1, 12, dtype=torch.bool), places_of((3, 2, 2))[None])
    out = build(5, kind="spatio_temporal", frames=7)(rows)
    torch.testing.assert_close(out.values[0], golden("spatio_temporal"), rtol=0, atol=1e-6)
    assert bool(out.mask.all()) and out.grid is None
    plain = build(5, kind="spatio_temporal")(rows).values[0]
    assert torch.equal(plain, torch.cat([out.values[0, :3], out.values[0, 7:]]))
    assert torch.equal(build(5, kind="spatio_temporal", frames=2)(rows).values[0], plain)


@pytest.mark.parametrize("weights", ["mean", "learned", "transformer"])
def test_numbers_are_those_of_valley(weights: str) -> None:
    rows = Features(
        waves(1, 15, 8, speed=1.3), torch.ones(1, 15, dtype=torch.bool), places_of((3, 2, 2), token=True)[None]
    )
    adapter = build(8, kind="temporal", weights=weights, patches=4 if weights == "learned" else None)
    for part, speed in ((adapter.frame_weights, 1.2), (adapter.transformer, 0.7)):
        if part is not None:
            fill(part, speed)
    expected = golden(f"temporal {weights}")
    for _ in range(2):  # with and without grad, torch has two ways through its transformer
        torch.testing.assert_close(adapter(rows).values[0], expected, rtol=0, atol=1e-6)
        adapter.requires_grad_(False)
    assert not torch.allclose(expected[:4], golden("temporal mean")[:4], atol=1e-2) or weights == "mean"


@pytest.mark.parametrize("original", ["idefics3", "internvl"])
def test_numbers_are_those_of_pixel_shuffle(original: str) -> None:
    rows = Features(waves(1, 16, 3, speed=0.9), torch.ones(1, 16, dtype=torch.bool), places_of((4, 4))[None])
    assert torch.equal(build(3, kind="merge", n=2)(rows).values[0], golden(f"merge {original}"))


def test_numbers_are_those_of_minigpt_v2() -> None:
    rows = Features(waves(1, 17, 3, speed=0.9)[:, 1:], torch.ones(1, 16, dtype=torch.bool), places_of((4, 4))[None])
    assert torch.equal(build(3, kind="consecutive", n=4)(rows).values[0], golden("consecutive"))


def test_a_block_is_read_row_by_row() -> None:
    rows = media((2, 4, 6))
    out = build(kind="merge", n=2)(rows)
    frame = rows.values[0].reshape(2, 4, 6, WIDTH)[1]
    block = torch.cat([frame[2, 4], frame[2, 5], frame[3, 4], frame[3, 5]])
    assert torch.equal(out.values[0, -1], block) and out.grid is not None and out.grid[0, -1].tolist() == [1, 1, 2]


@pytest.mark.parametrize("size", [[2, 3], [5, 4], [4, 4], [7, 9], [2, 3, 2], [3, 5, 1]])
def test_means_on_a_grid_are_those_of_torch(size: list[int]) -> None:
    rows = media((4, 5, 4), (3, 4, 4), skip=1)
    out = build(kind="grid", size=size)(rows)
    for number, grid in enumerate(((4, 5, 4), (3, 4, 4))):
        clip = rows_of(rows, number).reshape(*grid, WIDTH).movedim(-1, 0)
        target = (grid[0], *size) if len(size) == 2 else tuple(size)
        expected = nn.functional.adaptive_avg_pool3d(clip, target).flatten(1).T
        torch.testing.assert_close(rows_of(out, number), expected, rtol=0, atol=1e-6)


def test_rows_in_reading_order_need_no_grid() -> None:
    rows = Features(torch.randn(1, 6, WIDTH), torch.ones(1, 6, dtype=torch.bool))
    out = build(kind="consecutive", n=3)(rows)
    assert torch.equal(out.values[0, 1], torch.cat([rows.values[0, 3], rows.values[0, 4], rows.values[0, 5]]))
    assert out.grid is None and build(kind="consecutive", n=3).width == 3 * WIDTH
    torch.testing.assert_close(build(kind="mean")(rows).values[0, 0], rows.values[0].mean(dim=0))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("skip", [0, 2])
def test_media_of_mixed_sizes_are_what_each_is_alone(name: str, skip: int) -> None:
    sizes = ((2, 4, 4), (1, 2, 2), (3, 2, 6), (2, 4, 4), (1, 2, 2))
    rows, adapter = media(*sizes, skip=skip), build(**SMALL[name])
    rows.values.requires_grad_()
    out = adapter(rows)
    for number, size in enumerate(sizes):
        alone = adapter(
            Features(
                rows_of(rows, number)[None], torch.ones(1, math.prod(size), dtype=torch.bool), places_of(size)[None]
            )
        )
        layout = adapter.length(Layout(math.prod(size), size))
        assert out.mask[number].tolist() == [True] * layout.tokens + [False] * (out.mask.shape[1] - layout.tokens)
        torch.testing.assert_close(rows_of(out, number), alone.values[0], rtol=0, atol=1e-6)
        if layout.grid is not None:
            assert out.grid is not None and torch.equal(out.grid[number, : layout.tokens], places_of(layout.grid))
    assert out.values.shape[2] == adapter.width and not out.values[~out.mask].any()
    out.values.square().sum().backward()
    assert rows.values.grad is not None and bool((rows.values.grad[rows.mask].abs().sum(dim=1) > 0).all())
    assert not rows.values.grad[~rows.mask].any()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in adapter.parameters())


def test_groups_keep_a_grid_where_its_rows_divide_and_others_have_no_place() -> None:
    adapter, rows = build(kind="consecutive", n=2), media((2, 4), (4, 3))
    out = adapter(rows)
    assert [adapter.length(Layout(8, (2, 4))), adapter.length(Layout(12, (4, 3)))] == [Layout(4, (2, 2)), Layout(6)]
    assert out.grid is not None and torch.equal(out.grid[0, :4], places_of((2, 2))) and bool((out.grid[1] == -1).all())


def test_class_tokens_stand_for_their_frames() -> None:
    sizes = ((3, 2, 2), (2, 1, 3))
    rows = media(*sizes, token=True, skip=1)
    out = build(kind="temporal")(rows)
    one = build(kind="class_token")
    for number, (t, y, x) in enumerate(sizes):
        frames = rows_of(rows, number).reshape(t, 1 + y * x, WIDTH)
        found = rows_of(out, number)
        assert torch.equal(found[y * x :], frames[:, 0])
        torch.testing.assert_close(found[: y * x], frames[:, 1:].mean(dim=0))
        assert torch.equal(rows_of(one(rows), number), frames[:, 0])
        layout = Layout(t * (1 + y * x), (t, y, x))
        assert build(kind="temporal").length(layout).tokens == len(found) and one.length(layout).tokens == t
    picture = media((2, 2), token=True)
    assert one.length(Layout(5)) == Layout(1) and torch.equal(one(picture).values, picture.values[:, :1])
    only = Features(picture.values[:, :1], picture.mask[:, :1], torch.full((1, 1, 2), -1))
    assert torch.equal(one(only).values, only.values)


def test_without_class_tokens_frames_are_their_means_and_a_picture_is_one_frame() -> None:
    rows = media((2, 3))
    out = build(kind="temporal")(rows)
    assert build(kind="temporal").length(Layout(6, (2, 3))) == Layout(7)
    torch.testing.assert_close(out.values[0], torch.cat([rows.values[0], rows.values[0].mean(dim=0, keepdim=True)]))


def test_memory_is_kept_and_no_media_give_none() -> None:
    rows = media((2, 2))
    kept = Features(rows.values, rows.mask, rows.grid, memory=rows)
    assert all(build(kind=kind)(kept).memory is rows for kind in ("mean", "temporal"))
    assert build(kind="merge", n=2)(Features(rows.values[:0], rows.mask[:0], None)).values.shape == (0, 0, 16)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_and_meta_and_pickle(name: str) -> None:
    adapter, rows = build(**SMALL[name]), media((2, 4, 4), (2, 2, 2))
    exact = adapter(rows).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = adapter(Features(rows.values.bfloat16(), rows.mask, rows.grid)).values
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.1)
    with torch.device("meta"):
        assert all(p.is_meta for p in build(**SMALL[name]).parameters())
    assert pickle.loads(pickle.dumps(adapter.length))(Layout(16, (1, 4, 4))) == adapter.length(Layout(16, (1, 4, 4)))
    assert bool(list(adapter.parameters())) == (name == "temporal transformer")


@pytest.mark.parametrize(
    ("options", "layout", "reason"),
    [
        (
            {"kind": "spatio_temporal"},
            Layout(12),
            r"kind spatio_temporal: the tokens must fill a grid .* these 12 tokens have no grid",
        ),
        ({"kind": "spatio_temporal"}, Layout(14, (2, 2, 3)), r"a grid \(2, 2, 3\) and 2 tokens outside it"),
        (
            {"kind": "temporal"},
            Layout(15, (2, 2, 3)),
            r"these 15 tokens have a grid \(2, 2, 3\) and 3 tokens outside it",
        ),
        (
            {"kind": "temporal"},
            Layout(12),
            "kind temporal: the tokens must fill a grid .* these 12 tokens have no grid",
        ),
        ({"kind": "merge", "n": 2}, Layout(12, (12,)), r"have a grid \(12,\)"),
        (
            {"kind": "merge", "n": 2},
            Layout(15, (3, 5)),
            r"3 x 5 tokens cannot be divided into blocks of 2 x 2.*\[4, 6\]",
        ),
        ({"kind": "consecutive", "n": 4}, Layout(257), "257 tokens cannot be divided into groups of 4"),
        ({"kind": "grid", "size": [2, 3, 3]}, Layout(16, (4, 4)), r"has a time axis.*Set `size: \[3, 3\]`"),
        ({"kind": "temporal", "weights": "learned"}, Layout(12, (2, 2, 3)), r"256 tokens.*2 x 3 = 6.*`patches: 6`"),
        (
            {"kind": "class_token"},
            Layout(12, (3, 4)),
            r"there is no class token, .* fill a grid \(3, 4\)\. .*`class_token: keep`",
        ),
        ({"kind": "mean"}, Layout(0), "kind mean: the medium has no tokens"),
    ],
)
def test_rows_that_do_not_fit_are_refused(options: dict[str, Any], layout: Layout, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        build(**options).length(layout)


def test_what_only_the_rows_show_is_refused_when_they_come() -> None:
    rows = media((2, 2))
    with pytest.raises(RecipeError, match="no token is marked"):
        build(kind="class_token")(Features(rows.values, rows.mask))
    with pytest.raises(RecipeError, match="returned 2 class tokens, but 1 was expected"):
        lone = torch.tensor([[[-1, -1], [-1, -1], [0, 1]]])  # a patch at a place without the ones before it
        build(kind="class_token")(Features(rows.values[:, :3], rows.mask[:, :3], lone))
    assert rows.grid is not None
    with pytest.raises(RecipeError, match="kind merge: the tokens must fill a grid"):
        build(kind="merge", n=2)(Features(rows.values, rows.mask, rows.grid.flip(1)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": "mean", "n": 2}, "kind mean has no option `n`, .* of merge, consecutive. .*: none"),
        ({"kind": "merge", "n": 2, "frames": 3}, "kind merge has no option `frames`.* for merge: n"),
        ({"kind": "merge"}, "kind merge needs `n`"),
        ({"kind": "grid"}, "kind grid needs `size`"),
        ({"kind": "grid", "size": [4]}, r"size \(\[4\]\) must be \[y, x\] or \[t, y, x\]"),
        ({"kind": "grid", "size": [0, 2]}, "must be at least 1"),
        ({"kind": "consecutive", "n": 0}, r"n \(0\) must be at least 1"),
        ({"kind": "temporal", "heads": 2}, "`heads` is only for `weights: transformer`"),
        ({"kind": "temporal", "weights": "mean", "patches": 4}, "`patches` is only for `weights: learned`"),
        ({"kind": "median"}, "median.*spatio_temporal"),
        ({"kind": "mean", "sise": 2}, "sise"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        merge_options(PoolConfig, options, "model.inputs.video.adapter")


def test_the_table_and_the_option_name_the_same_kinds() -> None:
    assert tuple(KINDS) == get_args(KindName) and all(KINDS[name].name == name for name in KINDS)
    names = {field.name for field in fields(PoolConfig)} - {"kind"}
    assert {option for kind in KINDS.values() for option in kind.options} == names
    assert all(set(kind.required) <= set(kind.options) and kind.__doc__ for kind in KINDS.values())


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(RecipeError, match="token width \\(4\\) cannot be divided by `heads` \\(3\\)"):
        build(kind="temporal", weights="transformer", heads=3)


def test_in_a_chain_it_feeds_an_llm_and_alone_it_is_refused() -> None:
    pool = {"name": "omnivit_adapters.pool.adapter:PoolAdapter", "kind": "merge", "n": 2}
    block = {"name": "chain", "steps": [pool, {"name": "linear"}]}
    model, recipe = model_of(block, "video", LLAMA), recipe_of(block, "video", LLAMA)
    preparer = preparer_of(model, recipe)
    batch = collate([preparer(sample) for sample in samples()], ("media",), preparer.chat.pad_id)
    assert bool(model(batch).logits.isfinite().all())
    with pytest.raises(RecipeError, match="chain"):
        model_of(pool, "video", LLAMA)
