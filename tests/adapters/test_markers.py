"""The adapter `markers`: where the vectors stand, and which rows they need."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from golden_support import read_golden
from omnivit_adapters.markers import MarkersAdapter, MarkersConfig
from omnivit_adapters.pool import PoolAdapter, PoolConfig

from omnivit.contracts.features import Features, Layout
from omnivit.errors import RecipeError

BEGIN, END, ROW, FRAME = 100.0, 200.0, 300.0, 400.0


def waves(*shape: int, speed: float, shift: float = 0.0) -> torch.Tensor:
    steps = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(steps * speed + shift).reshape(shape).float()


def build(**options: Any) -> MarkersAdapter:
    adapter = MarkersAdapter(MarkersConfig(**options), 1, 8)
    for name, value in (("begin", BEGIN), ("end", END), ("row", ROW), ("frame", FRAME)):
        if options.get(name):
            torch.nn.init.constant_(getattr(adapter, name), value)
    return adapter


def clip(*sizes: tuple[int, ...]) -> Features:
    """Media whose rows are numbered, of these grids, padded with -1."""
    counts = [int(torch.tensor(size).prod()) for size in sizes]
    values = torch.full((len(sizes), max(counts), 1), -1.0)
    grid = torch.zeros(len(sizes), max(counts), len(sizes[0]), dtype=torch.long)
    for i, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        values[i, :count, 0] = torch.arange(count)
        grid[i, :count] = torch.cartesian_prod(*(torch.arange(n) for n in size))
    return Features(values, torch.arange(max(counts)) < torch.tensor(counts)[:, None], grid)


def rows_of(adapter: MarkersAdapter, features: Features) -> list[list[float]]:
    out = adapter(features)
    return [values[mask][:, 0].tolist() for values, mask in zip(out.values, out.mask, strict=True)]


def test_vectors_stand_around_each_medium_and_after_each_line() -> None:
    found = rows_of(build(begin=True, end=True, row=True), clip((2, 2), (1, 3)))
    assert found == [[BEGIN, 0, 1, ROW, 2, 3, ROW, END], [BEGIN, 0, 1, 2, ROW, END]]


def test_frames_are_marked_after_their_last_line() -> None:
    found = rows_of(build(row=True, frame=True), clip((2, 2, 1), (1, 1, 2)))
    assert found == [[0, ROW, 1, ROW, FRAME, 2, ROW, 3, ROW, FRAME], [0, 1, ROW, FRAME]]
    assert rows_of(build(frame=True), clip((2, 1, 2))) == [[0, 1, FRAME, 2, 3, FRAME]]


@pytest.mark.parametrize("options", [{"begin": True}, {"row": True, "end": True}, {"row": True, "frame": True}])
def test_the_rule_counts_what_comes_out(options: dict[str, bool]) -> None:
    adapter, sizes = build(**options), ((2, 2, 3), (1, 4, 1))
    rule = pickle.loads(pickle.dumps(adapter.length))
    expected = [rule(Layout(int(torch.tensor(size).prod()), size)).tokens for size in sizes]
    assert [len(rows) for rows in rows_of(adapter, clip(*sizes))] == expected


def test_around_rows_without_a_grid() -> None:
    features = Features(torch.ones(1, 2, 1), torch.ones(1, 2, dtype=torch.bool))
    assert rows_of(build(begin=True), features) == [[BEGIN, 1, 1]]


@pytest.mark.parametrize(
    ("options", "layout", "message"),
    [
        ({"row": True}, Layout(4), r"`row: true` .* a grid \(y, x\) or \(t, y, x\), but these 4 tokens have no grid"),
        ({"frame": True}, Layout(4, (2, 2)), r"`frame: true` .* a grid \(t, y, x\), .* have a grid \(2, 2\)"),
        ({"row": True}, Layout(14, (3, 2, 2)), r"a grid \(3, 2, 2\) and 2 tokens outside it.*`class_token: drop`"),
        ({"row": True}, Layout(1, (0, 0)), r"a grid \(0, 0\) and 1 tokens outside it"),
        ({"frame": True}, Layout(15, (3, 2, 2)), r"a grid \(3, 2, 2\) and 3 tokens outside it"),
    ],
)
def test_lines_and_frames_need_a_grid(options: dict[str, bool], layout: Layout, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(**options).length(layout)


def test_tokens_without_a_place_come_before_the_grid() -> None:
    whole, adapter = clip((2, 2)), build(row=True)
    assert whole.grid is not None
    first, last = whole.grid.clone(), whole.grid.clone()
    first[0, :2], last[0, 2:] = -1, -1
    assert rows_of(adapter, Features(whole.values, whole.mask, first)) == [[0, 1, 2, 3, ROW]]
    with pytest.raises(RecipeError, match="tokens without a place to be before all others"):
        adapter(Features(whole.values, whole.mask, last))


def test_at_least_one_marker() -> None:
    with pytest.raises(ValueError, match="no marker is set"):
        MarkersConfig()


def test_every_vector_learns_and_starts_like_an_image_newline() -> None:
    torch.manual_seed(0)
    adapter = MarkersAdapter(MarkersConfig(begin=True, end=True, row=True), 4096, 4096)
    assert adapter.begin is not None and abs(float(adapter.begin.detach().std()) * 64 - 1) < 0.1
    features = Features(torch.randn(1, 4, 4096), torch.ones(1, 4, dtype=torch.bool), clip((2, 2)).grid)
    adapter(features).values.sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in adapter.parameters())


@pytest.mark.parametrize("case", read_golden("adapters/markers")["valley"]["cases"], ids=["video", "image"])
def test_two_groups_are_those_of_valley(case: dict[str, Any]) -> None:
    frames = case["frames"]
    grid = torch.cat([torch.cat([torch.tensor([[t, -1, -1]]), clip((1, 2, 2)).grid[0] + torch.tensor([t, 0, 0])])
                      for t in range(frames)])  # fmt: skip
    values = waves(1, 5 * frames, 8, speed=1.3)
    tokens = Features(values, torch.ones(1, 5 * frames, dtype=torch.bool), grid[None])
    pooled = PoolAdapter(PoolConfig(kind="temporal"), 8, 8)(tokens)
    adapter = MarkersAdapter(MarkersConfig(begin=True, end=True, split=4), 8, 8)
    table = waves(16, 8, speed=0.7, shift=0.3)  # <im_start>, <im_end>, <vi_start>, <vi_end> are its rows 12 to 15
    adapter.load_state_dict({"begin": table[[12, 14]], "end": table[[13, 15]]})
    out = adapter(pooled)
    torch.testing.assert_close(out.values[0], torch.tensor(case["values"]), rtol=0, atol=1e-6)
    assert adapter.length(Layout(4 + frames)).tokens == out.values.shape[1] == 4 + frames + 4


def test_groups_of_media_of_different_lengths() -> None:
    features = Features(torch.arange(10.0).reshape(2, 5, 1), torch.arange(5) < torch.tensor([[5], [3]]))
    adapter = build(begin=True, split=2)
    assert adapter.begin is not None
    torch.nn.init.constant_(adapter.begin[1], 2 * BEGIN)
    assert rows_of(adapter, features) == [[BEGIN, 0, 1, 2 * BEGIN, 2, 3, 4], [BEGIN, 5, 6, 2 * BEGIN, 7]]


def test_the_second_group_is_not_empty() -> None:
    adapter = build(end=True, split=4)
    with pytest.raises(RecipeError, match=r"`split: 4` .* this medium has 4 tokens"):
        adapter.length(Layout(4))
    with pytest.raises(ValueError, match="Remove `row` and `frame`"):
        MarkersConfig(begin=True, row=True, split=4)
