"""The adapter `markers`: where the vectors stand, and which rows they need."""

from __future__ import annotations

import pickle

import pytest
import torch
from omnivit_adapters.markers import MarkersAdapter, MarkersConfig

from omnivit.contracts.features import Features, Layout
from omnivit.errors import RecipeError

BEGIN, END, ROW, FRAME = 100.0, 200.0, 300.0, 400.0


def build(**options: bool) -> MarkersAdapter:
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
        ({"row": True}, Layout(5, (2, 2)), r"a grid \(2, 2\) and 1 tokens outside it.*`class_token: drop`"),
        ({"frame": True}, Layout(15, (3, 2, 2)), r"a grid \(3, 2, 2\) and 3 tokens outside it"),
    ],
)
def test_lines_and_frames_need_a_grid(options: dict[str, bool], layout: Layout, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(**options).length(layout)


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
