"""Media of several pictures: each is encoded as it would be alone, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from omnivit.contracts.nested import build_encoder
from omnivit.contracts.sample import Media
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.errors import RecipeError
from omnivit.model.images import encode_images, layout_of_images, prepare_images

BLOCK = {"name": "timm", "model": "test_vit", "grid": 2, "augment": True}
MEDIA = Media("video", "clip.mp4", "/data")


def pictures(count: int) -> list[Image.Image]:
    noise = np.random.default_rng(count).integers(0, 256, (count, 20, 30, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in noise]


def test_each_picture_is_encoded_as_alone() -> None:
    encoder = build_encoder(BLOCK, "encoder", "image").eval()
    process = encoder.processor()
    clips = [pictures(3), pictures(1), pictures(2)]
    items = [prepare_images(process, clip, MEDIA) for clip in clips]
    layouts = [layout_of_images(process, item) for item in items]
    assert [(encoded.tokens, encoded.grid) for encoded in layouts] == [(12, (3, 2, 2)), (4, (1, 2, 2)), (8, (2, 2, 2))]
    ids = torch.zeros(1, dtype=torch.long)
    samples = [EncodedSample("a", ids, ids, (Span("video", 0, 0),), (item,), ids) for item in items]
    stacked = collate(samples, ("video",), pad_id=0).media["video"].items
    with torch.no_grad():
        encoded = encode_images(encoder, stacked)
        at_once = encode_images(encoder, stacked, at_once=2)
        alone = [[encoder({"pixels": process(Media("image", one))["pixels"][None]}) for one in clip] for clip in clips]
    assert encoded.mask.sum(1).tolist() == [12, 4, 8]
    for row, clip in enumerate(alone):
        expected = torch.cat([one.values[0] for one in clip])
        torch.testing.assert_close(encoded.values[row, encoded.mask[row]], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(at_once.values[row, at_once.mask[row]], expected, rtol=0, atol=1e-5)
    assert encoded.grid is not None
    assert encoded.grid[0, :5].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0]]


def test_all_pictures_of_a_medium_are_augmented_alike() -> None:
    process = build_encoder(BLOCK, "encoder", "image").processor()
    same = pictures(1) * 2
    item = prepare_images(process, same, Media("video", "clip.mp4", "/data", seed=5))
    assert torch.equal(item["pixels"][0], item["pixels"][1])
    assert not torch.equal(item["pixels"], prepare_images(process, same, MEDIA)["pixels"])


def test_an_encoder_of_another_modality_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^encoder: 'timm' reads 'image' media, but an encoder for 'audio'"):
        build_encoder(BLOCK, "encoder", "audio")
