"""The adapter `conv`: parity with Macaw-LLM's compressors, counts, padding, grids of many sizes, refusals."""

from __future__ import annotations

import math
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_blocks import chain
from golden_support import read_golden
from matrix_support import model_of, recipe_of, samples
from omnivit_adapters.conv import ConvAdapter, ConvConfig
from torch import Tensor
from torch.nn import functional as F

from omnivit.contracts.features import Features, Layout
from omnivit.contracts.options import merge_options
from omnivit.data.collate import collate
from omnivit.errors import RecipeError
from omnivit.model.build import preparer_of
from omnivit.train.freeze import freeze

GOLDEN = read_golden("adapters/conv")
WIDTH = 6
CONV = "omnivit_adapters.conv:ConvAdapter"
LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1,
         "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip


def wave(shape: tuple[int, ...], step: float, start: int = 0, size: float = 1.0) -> Tensor:
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (size * torch.sin(n * step + start)).reshape(shape).float()


def weight(name: str) -> Tensor:
    """What the golden numbers were made with: a sine, whose phase the name decides."""
    return wave(tuple(GOLDEN["keys"][name]), 0.7, zlib.crc32(name.encode()) % 1000, 0.3)


@pytest.fixture(scope="module")
def macaw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Macaw-LLM with the keys of all branches and of another part."""
    path = tmp_path_factory.mktemp("macaw") / "pytorch_model.bin"
    torch.save({name: weight(name) for name in GOLDEN["keys"]}, path)
    return path


def build(rows_width: int = WIDTH, **options: Any) -> ConvAdapter:
    torch.manual_seed(0)
    adapter = ConvAdapter(ConvConfig(**options), rows_width, 32)
    adapter.load()
    return adapter


def batch(*grids: tuple[int, ...], axes: int = 2, padding: float = torch.nan) -> Features:
    """One medium a grid, its rows a wave of its own; `padding` where there is no row."""
    most = max(map(math.prod, grids)) + 2
    values, mask = torch.full((len(grids), most, WIDTH), padding), torch.zeros(len(grids), most, dtype=torch.bool)
    places = torch.full((len(grids), most, axes), 7)
    for number, sizes in enumerate(grids):
        rows = math.prod(sizes)
        values[number, :rows] = wave((rows, WIDTH), 1.3, number)
        places[number, :rows] = torch.stack(torch.meshgrid(*map(torch.arange, sizes), indexing="ij"), -1).flatten(0, -2)
        mask[number, :rows] = True
    return Features(values, mask, places)


def real(features: Features, medium: int) -> Tensor:
    return features.values[medium][features.mask[medium]]


@pytest.mark.parametrize("branch", ["image", "video", "audio"])
def test_numbers_are_those_of_macaw_llm(macaw: Path, branch: Any) -> None:
    golden = GOLDEN["branches"][branch]
    shape = tuple(golden["rows"])
    adapter = build(shape[2], kernel=golden["kernel"], stride=golden["stride"], path=str(macaw), branch=branch)
    rows = wave(shape, 1.3).requires_grad_()
    out = adapter(Features(rows, torch.ones(shape[:2], dtype=torch.bool)))
    assert list(out.values.shape) == golden["shape"] and bool(out.mask.all())
    (out.values * torch.cos(torch.arange(out.values.numel()).float()).reshape(out.values.shape)).sum().backward()
    assert rows.grad is not None and adapter.conv.weight.grad is not None
    found = {"output": out.values, "grad_rows": rows.grad, "grad_weight": adapter.conv.weight.grad}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.flatten(), torch.tensor(golden[name]), rtol=0, atol=1e-6)


def test_weights_that_do_not_fit_are_refused(macaw: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"project_image.*conv\.weight \[10, 10, 4\] for \[10, 10, 3\]"):
        build(10, kernel=3, path=str(macaw))
    torch.save({"llama_proj.weight": torch.zeros(2)}, tmp_path / "other.bin")
    with pytest.raises(RecipeError, match=r"project_audio.*Missing: conv\.weight, conv\.bias"):
        build(10, kernel=3, path=str(tmp_path / "other.bin"), branch="audio")


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, None, 0), (4, 2, 1), (3, 5, 2), (5, 1, 4)])
def test_each_medium_gives_what_it_gives_alone_and_what_the_rule_says(
    kernel: int, stride: int | None, padding: int
) -> None:
    adapter = build(kernel=kernel, stride=stride, padding=padding, width=4)
    media = batch((1, 11), (1, 5), (1, 8))
    out = adapter(media)
    for medium, rows in enumerate((11, 5, 8)):
        assert len(real(out, medium)) == adapter.length(Layout(rows)).tokens
        plain = F.conv1d(real(media, medium).T, adapter.conv.weight, adapter.conv.bias, stride or kernel, padding).T
        torch.testing.assert_close(real(out, medium), plain, rtol=0, atol=1e-6)
    assert out.grid is None and bool(out.values.isfinite().all())


def test_padding_may_stand_between_rows_and_gets_no_gradient() -> None:
    adapter = build(kernel=3)
    mask = torch.tensor([[0, 1, 1, 0, 0, 1, 1, 1, 1, 0]]).bool()
    values = torch.full((1, 10, WIDTH), torch.nan)
    values[mask] = wave((6, WIDTH), 1.3)
    values.requires_grad_()
    out = adapter(Features(values, mask))
    dense = adapter(Features(wave((1, 6, WIDTH), 1.3), torch.ones(1, 6, dtype=torch.bool)))
    torch.testing.assert_close(real(out, 0), dense.values[0], rtol=0, atol=1e-6)
    out.values.sum().backward()
    assert values.grad is not None and bool((values.grad[~mask] == 0).all())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in adapter.parameters())


@pytest.mark.parametrize(
    "grids", [((4, 4), (3, 5), (4, 4), (6, 2)), ((3, 4, 4), (1, 3, 5), (2, 4, 4))], ids=["pictures", "clips"]
)
def test_over_grids_of_many_sizes_each_frame_by_itself(grids: tuple[tuple[int, ...], ...]) -> None:
    adapter = build(kernel=3, stride=2, padding=1, dims=2, width=4)
    media = batch(*grids, axes=len(grids[0]))
    out = adapter(media)
    assert out.grid is not None and bool(out.values.isfinite().all())
    for medium, sizes in enumerate(grids):
        frames = real(media, medium).reshape(-1, *sizes[-2:], WIDTH).permute(0, 3, 1, 2)
        plain = F.conv2d(frames, adapter.conv.weight, adapter.conv.bias, 2, 1).permute(0, 2, 3, 1)
        torch.testing.assert_close(real(out, medium), plain.reshape(-1, 4), rtol=0, atol=1e-6)
        smaller = (*sizes[:-2], *plain.shape[1:3])
        assert adapter.length(Layout(math.prod(sizes), sizes)) == Layout(math.prod(smaller), smaller)
        places = torch.cartesian_prod(*map(torch.arange, smaller))
        assert torch.equal(out.grid[medium][out.mask[medium]], places)
    out.values.square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).all()) for p in adapter.parameters())


def test_rows_that_are_too_few_are_refused_with_the_numbers() -> None:
    rule = pickle.loads(pickle.dumps(build(kernel=48, stride=36, padding=2).length))
    assert rule(Layout(257)) == Layout(6) and rule(Layout(44)) == Layout(1)
    with pytest.raises(RecipeError, match=r"43 tokens.*kernel 48 and padding 2: at least 44 tokens are needed"):
        rule(Layout(43))
    with pytest.raises(RecipeError, match=r"0 tokens.*at least 1 tokens"):
        build(kernel=3, padding=2).length(Layout(0))
    with pytest.raises(RecipeError, match=r"grid \(9, 2, 4\).*kernel 3 .*at least 3 tokens along y and along x"):
        build(kernel=3, dims=2).length(Layout(72, (9, 2, 4)))


def test_two_dimensions_need_a_grid() -> None:
    adapter = build(kernel=2, dims=2)
    with pytest.raises(RecipeError, match=r"these 20 tokens have no grid\. Use `dims: 1`"):
        adapter.length(Layout(20))
    with pytest.raises(RecipeError, match=r"have a grid \(20,\)"):
        adapter.length(Layout(20, (20,)))
    with pytest.raises(RecipeError, match=r"have a grid \(3, 2, 2\) and 3 tokens outside it.*`class_token: drop`"):
        adapter.length(Layout(15, (3, 2, 2)))
    with pytest.raises(ValueError, match="features without a grid"):
        adapter(Features(torch.zeros(1, 4, WIDTH), torch.ones(1, 4, dtype=torch.bool)))
    sparse = batch((2, 2))
    sparse.mask[0, 1] = False
    with pytest.raises(ValueError, match=r"3 tokens of medium 0 do not fill .* \(2, 2\)"):
        adapter(sparse)


def test_dtypes_are_the_parameters_also_under_autocast() -> None:
    for options in ({"kernel": 3}, {"kernel": 2, "dims": 2}):
        adapter, media = build(**options), batch((4, 4), (2, 4))
        exact = adapter(media).values
        half = media.with_values(media.values.bfloat16())
        assert exact.dtype == adapter(half).values.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            out = adapter(half).values
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), exact, rtol=0, atol=0.02)
        assert adapter.to(torch.bfloat16)(media).values.dtype == torch.bfloat16


def test_it_keeps_the_width_builds_on_meta_and_compiles() -> None:
    with torch.device("meta"):
        assert ConvAdapter(ConvConfig(kernel=3), WIDTH, 32).conv.weight.is_meta
    adapter, media = build(kernel=3), batch((1, 11), (1, 5))
    assert (adapter.width, build(kernel=3, width=9).width) == (WIDTH, 9)
    compiled = torch.compile(adapter, backend="eager", fullgraph=True)
    assert torch.equal(compiled(media).values, adapter(media).values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "kernel"),
        ({"kernel": 0}, r"kernel \(0\)"),
        ({"kernel": 2, "stride": 0}, r"stride \(0\)"),
        ({"kernel": 2, "padding": -1}, r"padding \(-1\)"),
        ({"kernel": 2, "padding": 2}, r"less than the kernel \(2\)"),
        ({"kernel": 2, "width": 0}, r"width \(0\)"),
        ({"kernel": 2, "dims": 3}, "dims"),
        ({"kernel": 2, "branch": "smell"}, "branch"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        merge_options(ConvConfig, options, "model.inputs.image.adapter")


@pytest.mark.parametrize(
    ("kind", "options"), [("audio", {"kernel": 5, "stride": 4}), ("video", {"kernel": 2, "dims": 2})]
)
def test_before_vocabulary_in_a_whole_model(kind: str, options: dict[str, Any]) -> None:
    block = chain({"name": CONV, **options}, {"name": "vocabulary", "heads": 4})
    model, recipe = model_of(block, kind, LLAMA), recipe_of(block, kind, LLAMA)
    freeze(model, {"adapters.*": 1e-3})
    preparer = preparer_of(model, recipe)
    encoded = [preparer(sample, generate=False) for sample in samples()]
    model(collate(encoded, ("media",), preparer.chat.pad_id)).logits.square().mean().backward()
    conv = [p for name, p in model.named_parameters() if ".conv." in name]
    assert len(conv) == 2 and all(p.grad is not None and bool((p.grad != 0).any()) for p in conv)


def test_a_width_that_is_not_the_llms_is_refused_alone() -> None:
    with pytest.raises(RecipeError, match="chain"):
        model_of({"name": CONV, "kernel": 3}, "audio", LLAMA)
