"""The encoder `imagebind`: its numbers are those of Meta's own model; slots share it, each with its medium."""

from __future__ import annotations

import logging
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omnivit_encoders.imagebind import encoder as imagebind
from omnivit_encoders.imagebind import model as imagebind_model
from omnivit_encoders.imagebind.encoder import ImageBindConfig, ImageBindEncoder
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError, RecipeError

SIZES = {"out_embed_dim": 12} | {
    f"{tower}_{name}": value
    for tower in imagebind_model.TOWERS
    for name, value in {"embed_dim": 8, "num_blocks": 2, "num_heads": 2}.items()
}
EVERY = ["image", "video", "audio", "depth", "thermal", "imu"]


@pytest.fixture(scope="module")
def original() -> Any:
    """Meta's model whole, text tower and all, with weights that are not the start's."""
    torch.manual_seed(0)
    with imagebind_model._NumbersOnCpu():
        model = imagebind_model._model_class()(text_embed_dim=4, text_num_blocks=1, text_num_heads=1, **SIZES).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def checkpoint(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(original.state_dict(), path)
    return path


def build(path: Path | None = None, **options: Any) -> ImageBindEncoder:
    torch.manual_seed(0)
    encoder = ImageBindEncoder(ImageBindConfig(path=None if path is None else str(path), sizes=SIZES, **options))
    encoder.load()
    return encoder.eval()


def views(medium: str, count: int = 2) -> Tensor:
    """Inputs of the model, as the processor shapes them."""
    shapes = {
        "image": (3, 224, 224), "video": (6, 3, 2, 224, 224), "audio": (3, 1, 128, 204),
        "depth": (1, 224, 224), "thermal": (1, 224, 224), "imu": (6, 2000),
    }  # fmt: skip
    return torch.randn(count, *shapes[medium], generator=torch.Generator().manual_seed(len(medium)))


@pytest.mark.parametrize("medium", EVERY)
def test_embeddings_are_those_of_the_model(original: Any, checkpoint: Path, medium: str) -> None:
    encoder, value = build(checkpoint), views(medium)
    with torch.no_grad():
        theirs = original({imagebind.TOWER_OF[medium]: value})[imagebind.TOWER_OF[medium]]
        ours = encoder({medium: value})
        alone = encoder({medium: value[1:]})
    assert ours.values.shape == (2, 1, encoder.width)
    assert ours.mask.all()
    torch.testing.assert_close(ours.values[:, 0], theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone.values, ours.values[1:], rtol=0, atol=1e-5)


def test_without_scale_embeddings_have_length_1(checkpoint: Path) -> None:
    with torch.no_grad():
        plain, scaled = (build(checkpoint, scaled=on)({"depth": views("depth")}).values for on in (False, True))
    torch.testing.assert_close(plain.norm(dim=2), torch.ones(2, 1))
    torch.testing.assert_close(scaled, 5 * plain)


def test_rows_by_clip_average_to_the_embedding(checkpoint: Path) -> None:
    encoder = build(checkpoint, rows="clips")
    with torch.no_grad():
        whole = build(checkpoint)({"video": views("video")}).values
        clips = encoder({"video": views("video")}).values
        sounds = encoder({"audio": views("audio")}).values
    assert clips.shape == (2, 2, 12)
    assert sounds.shape == (2, 3, 12)
    torch.testing.assert_close(clips.mean(1, keepdim=True), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("medium", "rows"), [("image", 257), ("video", 6 * 257), ("audio", 3 * 229), ("imu", 251)])
def test_tokens_are_those_of_the_trunk(original: Any, checkpoint: Path, medium: str, rows: int) -> None:
    tower, value = imagebind.TOWER_OF[medium], views(medium, count=1)
    encoder = build(checkpoint, rows="tokens", towers=[medium])
    flat = value.flatten(0, 1) if medium in ("audio", "video") else value
    with torch.no_grad():
        prepared = original.modality_preprocessors[tower](**{tower: flat})
        theirs = original.modality_trunks[tower](**prepared["trunk"])
        ours = encoder({medium: value}).values
    assert ours.shape == (1, rows, encoder.width) == (1, rows, 8)
    torch.testing.assert_close(ours[0], theirs.flatten(0, 1), rtol=0, atol=1e-5)
    assert not [name for name, _ in encoder.named_parameters() if "head" in name]


def test_only_the_wanted_towers_are_built_and_loaded(original: Any, checkpoint: Path, tmp_path: Path) -> None:
    encoder = build(checkpoint, towers=["image", "audio"])
    assert {name.split(".")[2] for name in encoder.state_dict()} == {"vision", "audio"}
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, original.state_dict()[name]), name
    save_file({name: value.clone() for name, value in original.state_dict().items()}, tmp_path / "tiny.safetensors")
    same = build(tmp_path / "tiny.safetensors", towers=["image", "audio"])
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), encoder.parameters(), strict=True))


def test_weights_that_do_not_fit(original: Any, tmp_path: Path) -> None:
    state = dict(original.state_dict())
    del state["modality_trunks.audio.blocks.1.attn.bias_k"]
    state["modality_trunks.audio.blocks.9.norm_1.weight"] = torch.ones(8)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(
        RecipeError, match=r"odd\.pth.*Missing: modality_trunks\.audio\.blocks\.1\.attn\.bias_k.*blocks\.9"
    ):
        build(tmp_path / "odd.pth")
    build(tmp_path / "odd.pth", towers=["image"])
    with pytest.raises(RecipeError, match="no such file"):
        build(tmp_path / "absent.pth")


def test_the_published_model_costs_nothing_on_meta(tmp_path: Path) -> None:
    weights = tmp_path / "imagebind_huge.pth"
    with pytest.raises(RecipeError, match=r"imagebind_huge\.pth': there is no such file"):
        ImageBindEncoder(ImageBindConfig(path=str(weights)))
    weights.touch()
    with torch.device("meta"):
        encoder = ImageBindEncoder(ImageBindConfig(path=str(weights)))
    assert encoder.width == 1024
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 846_748_416
    vision = ImageBindEncoder(ImageBindConfig(path=str(weights), towers=["video"], rows="tokens"))
    assert vision.width == 1280
    assert next(vision.parameters()).is_meta


def test_one_processor_reads_every_slot() -> None:
    encoder = build(media={"picture": "image"})
    process = pickle.loads(pickle.dumps(encoder.processor()))
    assert len(pickle.dumps(process)) < 5000
    assert process.fingerprint() == encoder.processor().fingerprint()
    assert process.fingerprint() != build(audio_clips=1).processor().fingerprint()
    picture = Image.fromarray(np.arange(48 * 64, dtype=np.uint32).reshape(48, 64).astype(np.uint8)).convert("RGB")
    motion = np.zeros((6, 2000), dtype=np.float32)
    sources = {"image": picture, "picture": picture, "thermal": picture, "depth": np.ones((9, 9)), "imu": motion}
    sources |= {"video": np.zeros((3, 20, 30, 3), dtype=np.uint8), "audio": (np.ones(9000, dtype=np.float32), 16_000)}
    for slot, source in sources.items():
        item = process(Media(slot, source))
        assert list(item) == ["image" if slot == "picture" else slot]
        batch = {key: value[None] for key, value in item.items()}
        with torch.no_grad():
            assert encoder(batch).lengths().tolist() == [process.length(item)] == [1], slot


@pytest.mark.parametrize(("rows", "lengths"), [("clips", [1, 2, 4]), ("tokens", [257, 2 * 3 * 257, 4 * 229])])
def test_length_is_known_before_the_model_runs(rows: str, lengths: list[int]) -> None:
    encoder = build(rows=rows, video_clips=2, audio_clips=4)
    process = encoder.processor()
    sources = {"image": Image.new("RGB", (9, 9)), "video": np.zeros((3, 20, 30, 3), dtype=np.uint8),
               "audio": (np.ones(9000, dtype=np.float32), 16_000)}  # fmt: skip
    for (slot, source), length in zip(sources.items(), lengths, strict=True):
        item = process(Media(slot, source))
        assert process.length(item) == length
        with torch.no_grad():
            assert encoder({key: value[None] for key, value in item.items()}).lengths().tolist() == [length]


def test_a_frame_of_a_video_is_a_picture() -> None:
    item = build().processor()(Media("video", Image.new("RGB", (9, 9))))
    assert list(item) == ["image"]


def test_slots_that_stand_for_no_medium() -> None:
    process = build(towers=["image"]).processor()
    with pytest.raises(
        RecipeError, match=r"slot 'imge' is not the name of a medium; did you mean 'image'\?.*media: \{imge: image\}"
    ):
        process(Media("imge", "a.png"))
    with pytest.raises(RecipeError, match=r"the slot 'audio' is 'audio', which is not among `towers` \(\['image'\]\)"):
        process(Media("audio", "a.wav"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "set either `path`"),
        ({"path": "a.pth", "towers": []}, "`towers` is empty"),
        ({"path": "a.pth", "audio_clips": 0}, r"`audio_clips` \(0\) must be above 0"),
        ({"path": "a.pth", "towers": ["image"], "media": {"sound": "audio"}}, "assigns 'audio' to the slot 'sound'"),
        ({"path": "a.pth", "towers": ["smell"]}, "smell"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        merge_options(ImageBindConfig, options, "model.inputs.image.encoder")


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(RecipeError, match=r"`sizes` has no 'vision_embed_dims'; did you mean 'vision_embed_dim'"):
        ImageBindEncoder(ImageBindConfig(sizes={"vision_embed_dims": 8}))
    with pytest.raises(RecipeError, match=r"the model cannot be built(.|\n)*divisible"):
        ImageBindEncoder(ImageBindConfig(sizes=SIZES | {"vision_num_heads": 3}))
    with pytest.raises(RecipeError, match=r"tokens of different widths \(\{'vision': 8, 'audio': 16\}\)"):
        sizes = SIZES | {"audio_embed_dim": 16}
        ImageBindEncoder(ImageBindConfig(sizes=sizes, rows="tokens", towers=["image", "audio"]))


def test_half_precision_keeps_the_scale() -> None:
    encoder = build(dtype="bfloat16")
    with torch.no_grad():
        found = encoder({"audio": views("audio")[:, :1]}).values
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float().norm(dim=2), torch.full((2, 1), 20.0), rtol=0.01, atol=0)


def test_the_licence_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagebind, "_noticed", set())
    with caplog.at_level(logging.WARNING):
        build()
        build()
    assert [record.message for record in caplog.records] == [imagebind.NOTICE]
    assert "CC-BY-NC-SA 4.0" in imagebind.NOTICE


def test_metas_package_is_not_run() -> None:
    build(towers=["imu"])
    assert "imagebind.models.imagebind_model" in sys.modules
    assert "imagebind" not in sys.modules
    assert "pytorchvideo" not in sys.modules


def test_inspect(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    np.save(tmp_path / "map.npy", np.ones((5, 4)))
    np.save(tmp_path / "motion.npy", np.zeros((6, 2000)))
    np.save(tmp_path / "cube.npy", np.zeros((2, 3, 4)))
    (tmp_path / "nothing.bin").write_bytes(b"nothing")
    kinds = {
        name: ImageBindEncoder.inspect(Media("", str(tmp_path / name))).kind
        for name in ("a.png", "map.npy", "motion.npy")
    }
    assert kinds == {"a.png": "image", "map.npy": "map", "motion.npy": "motion"}
    for name in ("cube.npy", "nothing.bin"):
        with pytest.raises(MediaError, match=name):
            ImageBindEncoder.inspect(Media("", str(tmp_path / name)))
