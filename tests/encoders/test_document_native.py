"""`document_native`: the models of transformers, page by page, without the filling."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_document import pages, painted
from omnivit_encoders.document.native import DocumentNativeConfig, DocumentNativeEncoder
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    Pix2StructConfig,
    Pix2StructForConditionalGeneration,
    Pix2StructImageProcessor,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
)

from omnivit.contracts.features import Features
from omnivit.contracts.sample import Media
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.errors import MediaError, RecipeError

PIX2STRUCT = {"model_type": "pix2struct_vision_model", "hidden_size": 32, "d_ff": 64, "d_kv": 8}
PIX2STRUCT |= {"num_attention_heads": 4, "num_hidden_layers": 2, "patch_embed_hidden_size": 192, "seq_len": 128}
PIX2STRUCT |= {"initializer_range": 0.1}
NAFLEX = {"model_type": "siglip2_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
NAFLEX |= {"num_hidden_layers": 2, "num_patches": 16, "patch_size": 8}
SIZES = [(90, 60), (40, 130), (64, 64), (20, 300), (7, 5)]


def encoder(config: dict[str, Any], **options: Any) -> DocumentNativeEncoder:
    torch.manual_seed(0)
    return DocumentNativeEncoder(DocumentNativeConfig(config=config, **{"max_patches": 40} | options)).eval()


def noise(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encode(model: DocumentNativeEncoder, *items: dict[str, Tensor]) -> Features:
    ids = torch.zeros(1, dtype=torch.long)
    samples = [EncodedSample("a", ids, ids, (Span("page", 0, 0),), (item,), ids) for item in items]
    with torch.no_grad():
        return model(collate(samples, ("page",), pad_id=0).media["page"].items)  # type: ignore[no-any-return]


def rows(found: Features, number: int = 0) -> Tensor:
    return found.values[number, found.mask[number]]


def prepared(model: DocumentNativeEncoder, sources: Sequence[Any]) -> list[dict[str, Tensor]]:
    process = model.processor()
    return [process(Media("page", source)) for source in sources]


@pytest.mark.parametrize("size", SIZES)
def test_pix2struct_is_that_of_transformers(size: tuple[int, int]) -> None:
    model, page = encoder(PIX2STRUCT), noise(*size)
    process = Pix2StructImageProcessor(patch_size={"height": 8, "width": 8}, max_patches=40)
    made = process(images=page, return_tensors="pt")
    with torch.no_grad():
        expected = model.tower(**made).last_hidden_state[0, made["attention_mask"][0].bool()]
    found = encode(model, *prepared(model, [page, noise(300, 90)]))
    torch.testing.assert_close(rows(found), expected, rtol=0, atol=1e-5)
    assert found.grid is not None
    places = made["flattened_patches"][0, : len(expected), :2].long() - 1
    assert torch.equal(found.grid[0, : len(expected), 1:], places)


@pytest.mark.parametrize("size", SIZES)
def test_naflex_is_that_of_transformers(size: tuple[int, int]) -> None:
    model, page = encoder(NAFLEX), noise(*size)
    process = Siglip2ImageProcessor(patch_size=8, max_num_patches=40)
    made = process(images=page, return_tensors="pt")
    with torch.no_grad():
        expected = model.tower(**made).last_hidden_state[0, made["pixel_attention_mask"][0].bool()]
    found = encode(model, *prepared(model, [page, noise(300, 90)]))
    torch.testing.assert_close(rows(found), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [PIX2STRUCT, NAFLEX])
def test_a_document_gives_in_a_batch_what_it_gives_alone(config: dict[str, Any]) -> None:
    model = encoder(config, pages=3, batch_size=2)
    items = prepared(model, [noise(90, 60), [noise(40, 130), noise(64, 64), noise(7, 5)], noise(20, 300)])
    together = encode(model, *items)
    assert together.mask.sum(1).tolist() == [model.processor().length(item) for item in items]
    for number, item in enumerate(items):
        alone = encode(model, item)
        torch.testing.assert_close(rows(together, number), rows(alone), rtol=0, atol=1e-5)
        assert together.grid is not None and alone.grid is not None
        assert torch.equal(together.grid[number, together.mask[number]], alone.grid[0])
    assert not together.values[~together.mask].any()


def test_the_grid_is_told_where_all_pages_have_one_shape() -> None:
    process = encoder(PIX2STRUCT, pages=2).processor()
    one, two, mixed = (
        process(Media("page", source))
        for source in (noise(90, 60), [noise(90, 60), noise(180, 120)], [noise(90, 60), noise(60, 90)])
    )
    assert process.grid(one) == (1, 7, 5) and process.length(one) == 35
    assert process.grid(two) == (2, 7, 5)
    assert process.grid(mixed) is None and process.length(mixed) == 70


def test_a_whole_pix2struct_is_loaded(tmp_path: Path) -> None:
    vision = {key: value for key, value in PIX2STRUCT.items() if key != "model_type"}
    text = {"vocab_size": 16, "hidden_size": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    whole = Pix2StructForConditionalGeneration(Pix2StructConfig(text_config=text, vision_config=vision))
    whole.save_pretrained(tmp_path)
    Pix2StructImageProcessor(patch_size={"height": 8, "width": 8}, max_patches=30, is_vqa=True).save_pretrained(
        tmp_path
    )
    model = DocumentNativeEncoder(DocumentNativeConfig(path=str(tmp_path))).eval()
    model.load()
    loaded, original = model.tower.state_dict(), whole.encoder.state_dict()
    assert loaded.keys() == original.keys() and all(torch.equal(loaded[key], original[key]) for key in loaded)
    (item,) = prepared(model, [noise(90, 60)])  # a model that wants questions drawn: ours are asked in text
    assert model.processor().length(item) <= 30 and rows(encode(model, item)).isfinite().all()


def test_a_whole_siglip2_is_loaded(tmp_path: Path) -> None:
    vision = {key: value for key, value in NAFLEX.items() if key != "model_type"}
    text = {"vocab_size": 16, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    whole = Siglip2Model(Siglip2Config(text_config=text | {"num_attention_heads": 4}, vision_config=vision))
    whole.save_pretrained(tmp_path)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=30).save_pretrained(tmp_path)
    with torch.device("meta"):
        assert next(DocumentNativeEncoder(DocumentNativeConfig(path=str(tmp_path))).parameters()).is_meta
    model = DocumentNativeEncoder(DocumentNativeConfig(path=str(tmp_path)))
    model.load()
    loaded, original = model.tower.state_dict(), whole.vision_model.state_dict()
    assert loaded.keys() == {key for key in original if not key.startswith("head.")}
    assert all(torch.equal(loaded[key], original[key]) for key in loaded)


def test_a_model_of_one_picture_size_is_refused(tmp_path: Path) -> None:
    CLIPVisionConfig(hidden_size=24).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"processes images of one size only\. Available: pix2struct"):
        DocumentNativeEncoder(DocumentNativeConfig(path=str(tmp_path)))
    with pytest.raises(RecipeError, match=r"did you mean .siglip2_vision_model"):
        encoder(NAFLEX | {"model_type": "siglip_vision_model"})


def test_more_patches_than_positions_are_refused() -> None:
    with pytest.raises(
        RecipeError,
        match=r"`max_patches` \(128\) must be less.* for 127 rows and columns",
    ):
        encoder(PIX2STRUCT, max_patches=128)


@pytest.mark.parametrize("options", [{}, {"path": "a", "config": PIX2STRUCT}, {"path": "a", "pages": 0}])
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"either `path`|`pages` is 0"):
        DocumentNativeConfig(**options)


@pytest.mark.parametrize("config", [PIX2STRUCT, NAFLEX])
def test_the_processor_pickles_small_and_has_a_fingerprint(config: dict[str, Any]) -> None:
    process = encoder(config).processor()
    raw = pickle.dumps(process)
    assert len(raw) < 10_000
    media = Media("page", noise(50, 50))
    assert torch.equal(pickle.loads(raw)(media)["patches"], process(media)["patches"])
    assert process.fingerprint() != encoder(config, max_patches=39).processor().fingerprint()


def test_files_are_read_and_inspected(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pages([painted((1, 0, 0))] * 4))
    process = encoder(PIX2STRUCT, max_side=64).processor()
    assert int(process(Media("page", "a.pdf#page=2-4", str(tmp_path)))["count"]) == 3
    assert DocumentNativeEncoder.inspect(Media("page", "a.pdf", str(tmp_path))).shape["pages"] == 4
    with pytest.raises(MediaError, match="no such file"):
        process(Media("page", "b.pdf", str(tmp_path)))


def test_in_bfloat16_places_beyond_256_are_still_told_apart() -> None:
    model = encoder(PIX2STRUCT | {"seq_len": 2048}, max_patches=1000)
    (item,) = prepared(model, [noise(16, 1600)])
    assert int(item["shapes"][0, 1]) > 300
    expected = rows(encode(model, item))
    found = rows(encode(model.to(torch.bfloat16), item))
    assert found.dtype == torch.bfloat16
    assert (found[-40:].float() - expected[-40:]).abs().max() < 0.05 * expected.abs().max()
