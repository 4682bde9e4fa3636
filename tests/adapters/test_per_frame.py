"""The adapter `per_frame`: every frame is a medium to the adapter inside, and the rows come back in order."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from matrix_support import RowsConfig, RowsEncoder
from omnivit_adapters.per_frame import PerFrameAdapter, PerFrameConfig
from torch import Tensor, nn

from omnivit.contracts.adapter import Adapter, FixedLength, Instruction
from omnivit.contracts.encoder import Encoder
from omnivit.contracts.features import Features, Layout
from omnivit.contracts.llm import LanguageModel
from omnivit.errors import RecipeError

WIDTH = 3


@dataclass
class MeansConfig:
    """What the adapter inside does."""

    grid: int = 0
    """Axes of the grid that it gives."""
    memory: bool = False
    positions: bool = False


@dataclass(frozen=True)
class MeansLength:
    axes: int

    def __call__(self, layout: Layout) -> Layout:
        assert layout.grid is not None and len(layout.grid) == 2, "each frame is to be a picture"
        return Layout(2, (None, (2,), (2, 1), (1, 2, 1))[self.axes])


class Means(Adapter):
    """Two rows of a medium: the mean of its own, and how many they are; with an instruction, its ids are added."""

    Config = MeansConfig

    def __init__(self, config: MeansConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.config, self.width = config, width
        self.length = MeansLength(config.grid)
        self.scale = nn.Parameter(torch.ones(()))
        self.loaded: list[str] = []
        self.positions = torch.arange if config.positions else None
        self.instruction_tokenizer, self.instruction_limit = "bytes", 7

    def load(self) -> None:
        self.loaded.append("weights")

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        del llm, encoder
        self.loaded.append(slot)
        self.in_encoder = True

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        assert features.grid is not None and features.grid.shape[2] == 2
        assert bool(features.mask.any(dim=1).all()), "a frame without rows"
        counts = features.lengths()[:, None]
        mean = (features.values * features.mask[..., None]).sum(1) / counts * self.scale
        if instruction is not None:
            mean = mean + (instruction.input_ids * instruction.attention_mask).sum(1, keepdim=True)
        values = torch.stack([mean, counts.expand_as(mean)], dim=1)
        mask = values.new_ones(values.shape[:2], dtype=torch.bool)
        grid = torch.tensor([[0, 0], [1, 0]])[:, : self.config.grid].expand(len(values), -1, -1)
        memory = Features(-values, mask) if self.config.memory else None
        return Features(values, mask, grid if self.config.grid else None, memory)


@dataclass
class GoneConfig:
    """Nothing."""


class Gone(Adapter):
    """No rows for the LLM's sequence; one of each medium in memory."""

    Config = GoneConfig
    length = FixedLength(0)

    def __init__(self, config: GoneConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        del instruction
        memory = Features(features.values[:, :1], features.mask[:, :1])
        return Features(features.values[:, :0], features.mask[:, :0], memory=memory)


def build(name: str = "test_per_frame:Means", **options: Any) -> PerFrameAdapter:
    return PerFrameAdapter(PerFrameConfig({"name": name, **options}), WIDTH, 8)


def clips(*sizes: tuple[int, ...], skip: int = 0) -> Features:
    """Media that fill grids of these sizes, with NaN where there is padding; `skip` of it before the real rows."""
    most = max(torch.Size(size).numel() for size in sizes) + skip
    values = torch.full((len(sizes), most, WIDTH), torch.nan)
    mask, grid = torch.zeros(len(sizes), most, dtype=torch.bool), torch.full((len(sizes), most, len(sizes[0])), 99)
    for number, size in enumerate(sizes):
        places = torch.cartesian_prod(*(torch.arange(n) for n in size))
        here = slice(skip, skip + len(places))
        values[number, here] = torch.randn(len(places), WIDTH, generator=torch.Generator().manual_seed(number))
        mask[number, here], grid[number, here] = True, places
    return Features(values, mask, grid)


def frames_of(found: Features, number: int, size: tuple[int, ...]) -> Tensor:
    """[T, P, D] of one medium."""
    return found.values[number, found.mask[number]].reshape(size[0], -1, WIDTH)


@pytest.mark.parametrize("skip", [0, 2])
def test_each_frame_is_adapted_by_itself(skip: int) -> None:
    sizes = ((3, 2, 2), (1, 1, 5), (4, 1, 2))
    found, adapter = clips(*sizes, skip=skip), build()
    out = adapter(found)
    assert out.values.shape == (3, 8, WIDTH)
    for number, size in enumerate(sizes):
        layout = adapter.length(Layout(torch.Size(size).numel(), size))
        assert layout == Layout(2 * size[0], (size[0], 1, 2))
        assert out.mask[number].tolist() == [True] * layout.tokens + [False] * (8 - layout.tokens)
        frames = frames_of(found, number, size)
        torch.testing.assert_close(out.values[number, : layout.tokens : 2], frames.mean(dim=1))
        assert (out.values[number, 1 : layout.tokens : 2] == frames.shape[1]).all()
        assert out.grid is not None
        expected = torch.cartesian_prod(torch.arange(size[0]), torch.zeros(1, dtype=torch.long), torch.arange(2))
        assert torch.equal(out.grid[number, : layout.tokens], expected)
    assert not out.values[~out.mask].any()


def test_gradients_reach_the_rows_and_the_adapter_inside() -> None:
    found, adapter = clips((3, 2, 2), (1, 1, 5)), build()
    found.values.requires_grad_()
    adapter(found).values.sum().backward()
    assert adapter.adapter.scale.grad is not None and bool(adapter.adapter.scale.grad.isfinite())
    assert found.values.grad is not None
    assert bool((found.values.grad[found.mask] != 0).all()) and not found.values.grad[~found.mask].any()


@pytest.mark.parametrize(
    ("axes", "grid", "last"), [(1, (2, 1, 2), [1, 0, 1]), (2, (2, 2, 1), [1, 1, 0])], ids=["row", "picture"]
)
def test_a_grid_from_inside_gets_the_time_before_it(axes: int, grid: tuple[int, ...], last: list[int]) -> None:
    adapter = build(grid=axes)
    out = adapter(clips((2, 2, 2)))
    assert adapter.length(Layout(8, (2, 2, 2))) == Layout(4, grid)
    assert out.grid is not None and out.grid[0, -1].tolist() == last


def test_a_picture_is_a_clip_of_one_frame() -> None:
    adapter, found = build(), clips((2, 3), (1, 2))
    out = adapter(found)
    assert adapter.length(Layout(6, (2, 3))) == Layout(2, (1, 1, 2))
    assert out.values.shape == (2, 2, WIDTH) and out.grid is not None and out.grid[0].tolist() == [[0, 0, 0], [0, 0, 1]]
    torch.testing.assert_close(out.values[1, 0], found.values[1, :2].mean(dim=0))


def test_every_frame_is_told_the_instruction() -> None:
    adapter, found = build(), clips((2, 1, 2), (1, 1, 2))
    told = Instruction(torch.tensor([[5, 6], [7, 100]]), torch.tensor([[True, True], [True, False]]))
    assert (adapter.instruction_tokenizer, adapter.instruction_limit) == ("bytes", 7)
    difference = (adapter(found, told).values - adapter(found).values)[:, ::2]
    torch.testing.assert_close(difference[0], torch.full((2, WIDTH), 11.0))
    torch.testing.assert_close(difference[1, 0], torch.full((WIDTH,), 7.0))


def test_memory_is_joined_over_the_frames_and_kept_from_before() -> None:
    found, adapter = clips((2, 1, 2), (1, 1, 2)), build(memory=True)
    out = adapter(found)
    assert out.memory is not None
    assert torch.equal(out.memory.values, -out.values) and torch.equal(out.memory.mask, out.mask)
    earlier = Features(torch.ones(2, 3, WIDTH), torch.ones(2, 3, dtype=torch.bool))
    both = adapter(Features(found.values, found.mask, found.grid, earlier)).memory
    assert both is not None and both.values.shape == (2, 7, WIDTH) and bool((both.values[:, :3] == 1).all())


def test_an_adapter_inside_may_leave_no_rows() -> None:
    adapter = build("test_per_frame:Gone")
    out = adapter(clips((2, 1, 2), (1, 1, 2)))
    assert adapter.length(Layout(4, (2, 1, 2))) == Layout(0)
    assert out.values.shape == (2, 0, WIDTH) and out.grid is None
    assert out.memory is not None and out.memory.mask.tolist() == [[True, True], [True, False]]


def test_weights_and_surgery_are_those_of_the_adapter_inside() -> None:
    adapter = build()
    assert (adapter.width, adapter.in_encoder) == (WIDTH, False)
    adapter.load()
    adapter.install(None, RowsEncoder(RowsConfig()), "image")  # type: ignore[arg-type]  # the one inside needs none
    assert adapter.adapter.loaded == ["weights", "image"] and adapter.in_encoder
    assert list(adapter.state_dict()) == ["adapter.scale"]


def test_a_linear_map_per_frame_is_the_map() -> None:
    adapter, found = build("linear"), clips((3, 2, 2), (1, 1, 5))
    out = adapter(found)
    size = (3, 2, 2)
    assert pickle.loads(pickle.dumps(adapter.length))(Layout(12, size)) == Layout(12, size)
    assert out.grid is not None and torch.equal(out.grid[0], found.grid[0])
    torch.testing.assert_close(out.values[found.mask], adapter.adapter(found).values[found.mask])
    with torch.device("meta"):
        assert next(build("linear").parameters()).is_meta


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (Layout(12), r"grid \(t, y, x\).* these 12 tokens have no grid"),
        (Layout(12, (12,)), r"have a grid \(12,\)"),
    ],
)
def test_rows_whose_frames_are_not_known_are_refused(layout: Layout, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        build().length(layout)


def test_an_adapter_that_does_not_fit_inside_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"grid \(1, 2, 1\) with a time axis of its own. Put it after"):
        build(grid=3).length(Layout(8, (2, 2, 2)))
    with pytest.raises(RecipeError, match=r"Means' computes positions .* Put it after"):
        build(positions=True)
    with pytest.raises(RecipeError, match=r"adapter\.depht: unknown key; did you mean 'depth'"):
        build("mlp", depht=2)
    with pytest.raises(RecipeError, match="adapter: `name` is missing"):
        PerFrameAdapter(PerFrameConfig({"depth": 2}), WIDTH, 8)


def test_features_that_break_the_promise_of_a_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="without a grid, but"):
        build()(Features(torch.ones(1, 4, WIDTH), torch.ones(1, 4, dtype=torch.bool)))
