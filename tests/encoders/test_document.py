"""`document`: crops and rows as the originals have them, in any batch, from any file."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from golden_support import read_golden
from hostile_document import files, pages, painted
from omnivit_adapters.markers import MarkersAdapter, MarkersConfig
from omnivit_encoders.document.encoder import DocumentConfig, DocumentEncoder
from PIL import Image
from torch import Tensor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

from omnivit.contracts.features import Features, Layout
from omnivit.contracts.sample import Media
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.errors import MediaError, RecipeError

CLIP = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
CLIP |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
INSIDE = {"name": "clip", "config": CLIP}
"""Pictures of 32 x 32 pixels, 4 x 4 rows."""
PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
SIZES = [(90, 60), (40, 130), (64, 64), (20, 20), (31, 97)]


def encoder(**options: Any) -> DocumentEncoder:
    torch.manual_seed(0)
    return DocumentEncoder(DocumentConfig(**{"encoder": INSIDE} | options)).eval()


def noise(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def stacked(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    ids = torch.zeros(1, dtype=torch.long)
    samples = [EncodedSample("a", ids, ids, (Span("page", 0, 0),), (item,), ids) for item in items]
    return dict(collate(samples, ("page",), pad_id=0).media["page"].items)


def encode(model: DocumentEncoder, *items: dict[str, Tensor]) -> Features:
    with torch.no_grad():
        return model(stacked(items))  # type: ignore[no-any-return]


def rows(found: Features, number: int = 0) -> Tensor:
    return found.values[number, found.mask[number]]


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_those_of_llava_next(size: tuple[int, int]) -> None:
    page = noise(*size)
    original = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS
    )
    expected = torch.as_tensor(original(page, return_tensors="pt")["pixel_values"][0])
    item = encoder(cropping="any_resolution").processor()(Media("page", page))
    torch.testing.assert_close(item["pixels"], expected, rtol=0, atol=1e-6)


def packed(crops: Tensor, size: tuple[int, int], newline: Tensor | None) -> Tensor:
    """Rows in LLaVA-NeXT's order, by its own function."""
    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=32, patch_size=8), image_grid_pinpoints=PINPOINTS)
    pack: Any = LlavaNextModel.pack_image_features
    found: Tensor = pack(SimpleNamespace(config=config), [crops], [list(size)], "default", newline)[0][0]
    return found


@pytest.mark.parametrize("size", SIZES)
def test_joined_rows_are_those_of_llava_next(size: tuple[int, int]) -> None:
    media = Media("page", noise(*size))
    apart, joined = encoder(cropping="any_resolution"), encoder(cropping="any_resolution", joined=True)
    plain, item = apart.processor()(media), joined.processor()(media)
    expected = packed(encode(apart, plain).values[0].unflatten(0, (-1, 16)), size, None)
    found = encode(joined, item)
    assert torch.equal(rows(found), expected)
    assert joined.processor().length(item) == len(expected)


def test_a_newline_ends_every_line_of_the_page_where_the_global_view_is_another_branch() -> None:
    size = (90, 60)
    media = Media("page", noise(*size))
    apart = encoder(cropping="any_resolution")
    newline = MarkersAdapter(MarkersConfig(row=True), 16, 16)
    assert newline.row is not None
    expected = packed(encode(apart, apart.processor()(media)).values[0].unflatten(0, (-1, 16)), size, newline.row)
    joined = encoder(cropping="any_resolution", joined=True, global_view=False)
    found = newline(encode(joined, joined.processor()(media)))
    torch.testing.assert_close(found.values[0], expected[16:], rtol=0, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_one_branch_is_llava_next_where_the_global_view_is_beside_the_grid(size: tuple[int, int]) -> None:
    media = Media("page", noise(*size))
    apart = encoder(cropping="any_resolution")
    newline = MarkersAdapter(MarkersConfig(row=True), 16, 16)
    expected = packed(encode(apart, apart.processor()(media)).values[0].unflatten(0, (-1, 16)), size, newline.row)
    model = encoder(cropping="any_resolution", joined=True, global_beside=True)
    item = model.processor()(media)
    torch.testing.assert_close(newline(encode(model, item)).values[0], expected, rtol=0, atol=0)
    process = model.processor()
    layout = newline.length(Layout(process.length(item), process.grid(item)))
    assert layout.tokens == len(expected)
    with pytest.raises(ValueError, match="`global_beside` needs `joined: true`"):
        DocumentConfig(encoder=INSIDE, global_beside=True)


def test_places_are_those_of_docowl() -> None:
    golden = read_golden("encoders/tiling")["crops"]
    process = encoder().processor()
    for case, crops in golden.items():
        height, width = map(int, case.split())
        places = process(Media("page", noise(height, width)))["places"]
        expected = [[-1 if index == 9 else index for index in place] for place in crops["positions"]]  # 9: global view
        assert places[:, 1:].tolist() == expected
        assert set(places[:, 0].tolist()) == {0}


def test_learned_positions_are_the_mean_of_row_and_column() -> None:
    with_positions, without = encoder(positions=True), encoder()
    without.encoder.load_state_dict(with_positions.encoder.state_dict())
    item = without.processor()(Media("page", noise(90, 60)))  # a global view, then 3 x 2 crops
    assert with_positions.positions is not None
    row, column = with_positions.positions.row.weight, with_positions.positions.column.weight
    assert len(row) == 10  # up to 9 crops in a line, and the global view
    added = (encode(with_positions, item).values - encode(without, item).values)[0].unflatten(0, (7, 16))
    for crop, (y, x) in {0: (9, 9), 1: (0, 0), 2: (0, 1), 5: (2, 0)}.items():
        torch.testing.assert_close(added[crop], ((row[y] + column[x]) / 2).expand(16, -1), rtol=0, atol=1e-5)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"positions": True, "crops": 4, "batch_size": 3},
    {"cropping": "any_resolution", "joined": True, "positions": True},
    {"joined": True, "global_view": False, "grids": [[1, 2], [2, 1]]},
    {"cropping": "none"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_document_gives_in_a_batch_what_it_gives_alone(options: dict[str, Any]) -> None:
    model = encoder(**options, pages=3)
    process = model.processor()
    sources: list[Any] = [noise(90, 60), [noise(40, 130), noise(64, 64), noise(90, 61)], noise(20, 300)]
    items = [process(Media("page", source)) for source in sources]
    together = encode(model, *items)
    for number, item in enumerate(items):
        alone = encode(model, item)
        assert len(rows(alone)) == process.length(item) == len(rows(together, number))
        torch.testing.assert_close(rows(together, number), rows(alone), rtol=0, atol=1e-5)
        assert together.grid is not None and alone.grid is not None
        assert torch.equal(together.grid[number, together.mask[number]], alone.grid[0, alone.mask[0]])
    assert not together.values[~together.mask].any()


def test_the_grid_is_told_where_rows_fill_one() -> None:
    page, two = Media("page", noise(90, 60)), Media("page", [noise(90, 60), noise(90, 60)])
    for options, media, grid in (
        ({}, page, (7, 4, 4)),
        ({"pages": 2}, two, (14, 4, 4)),
        ({"joined": True}, page, None),  # a global view of 4 x 4 and a map of 12 x 8
        ({"joined": True, "global_view": False}, page, (1, 12, 8)),
        ({"joined": True, "global_view": False, "pages": 2}, two, (2, 12, 8)),
    ):
        process = encoder(**options).processor()
        assert process.grid(process(media)) == grid


def test_pages_of_a_pdf_are_cut_one_after_the_other() -> None:
    process = encoder(max_side=90, pages=2).processor()
    item = process(Media("page", pages([painted((1, 0, 0)), painted((0, 0, 1))])))
    assert item["places"][:, 0].tolist() == [0] * 7 + [1] * 7
    assert item["pixels"].shape == (14, 3, 32, 32)


def test_the_processor_pickles_small_and_has_a_fingerprint() -> None:
    process = encoder().processor()
    raw = pickle.dumps(process)
    assert len(raw) < 10_000
    media = Media("page", noise(50, 50))
    assert torch.equal(pickle.loads(raw)(media)["pixels"], process(media)["pixels"])
    others = [{"crops": 4}, {"joined": True}, {"pages": 2}, {"max_side": 99}, {"cropping": "any_resolution"}]
    prints = {encoder(**options).processor().fingerprint() for options in others}
    assert len(prints | {process.fingerprint()}) == 6


def test_only_the_seed_makes_a_difference() -> None:
    inside = {"name": "timm", "model": "test_vit", "crop_pct": 1.0, "augment": True}
    process, page = encoder(encoder=inside).processor(), noise(90, 60)
    plain, again, drawn, same, other = (process(Media("page", page, seed=seed)) for seed in (None, None, 1, 1, 2))
    assert torch.equal(plain["pixels"], again["pixels"])
    assert torch.equal(drawn["pixels"], same["pixels"])
    assert not torch.equal(drawn["pixels"], other["pixels"])


def test_weights_of_the_image_encoder_are_loaded(tmp_path: Path) -> None:
    inside = {"name": "timm", "model": "test_vit", "crop_pct": 1.0}
    source = encoder(encoder=inside)
    path = tmp_path / "weights.pth"
    state: dict[str, Tensor] = source.encoder.backbone.state_dict()  # type: ignore[union-attr,assignment,operator]
    torch.save({key: value + 0.5 for key, value in state.items()}, path)
    with torch.device("meta"):
        skeleton = encoder(encoder=inside | {"path": str(path)})
    assert next(skeleton.parameters()).is_meta
    loaded = encoder(encoder=inside | {"path": str(path)})
    loaded.load()
    name, weight = next(iter(loaded.encoder.backbone.state_dict().items()))  # type: ignore[union-attr,operator]
    assert torch.equal(weight, state[name] + 0.5)


def test_an_encoder_that_cuts_off_edges_or_gives_no_grid_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"crops the edges of its images \(\d+ x \d+ pixels\).*set `crop_pct: 1`"):
        encoder(encoder={"name": "timm", "model": "tf_efficientnet_lite0", "image_size": 64})
    with pytest.raises(RecipeError, match=r"must fill a grid \(y, x\), but they do not\. Set `class_token: drop`"):
        encoder(encoder=INSIDE | {"class_token": "keep"}, joined=True)
    with pytest.raises(RecipeError, match="an encoder for 'image' is expected"):
        encoder(encoder={"name": "omnivit_encoders.document.encoder:DocumentEncoder", "encoder": INSIDE})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": 0}, "`crops` is 0; it must be between 1 and 100"),
        ({"pages": 65}, "`pages` is 65"),
        ({"max_side": 100_000}, "`max_side` is 100000"),
        ({"crops": 4, "grids": [[1, 1]]}, "cannot both be set"),
        ({"grids": [[1, 2, 3]]}, r"`grids` contains \[1, 2, 3\]"),
        ({"grids": []}, "`grids` contains nothing"),
        ({"cropping": "none", "joined": True}, "with `cropping: none` only the global view is used"),
        ({"cropping": "none", "global_view": False}, "with `cropping: none` only the global view is used"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DocumentConfig(INSIDE, **options)


def test_inspect_needs_no_model(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pages([painted((1, 0, 0))] * 4))
    assert DocumentEncoder.inspect(Media("page", "a.pdf", str(tmp_path))).shape["pages"] == 4


def test_hostile_files_end_in_a_good_item_or_an_error_that_names_file_and_reason(tmp_path: Path) -> None:
    process = encoder(max_side=64, pages=2).processor()
    fates = files(tmp_path)
    assert len(fates) >= 40
    for name, fate in fates.items():
        began = time.monotonic()
        if fate == "good":
            item = process(Media("page", name, str(tmp_path)))
            assert process.length(item) > 0 and item["pixels"].isfinite().all(), name
        else:
            with pytest.raises(MediaError, match=fate) as caught:
                process(Media("page", name, str(tmp_path)))
            assert re.search(re.escape(name.split("#")[0]), str(caught.value)), name
        assert time.monotonic() - began < 10, name
