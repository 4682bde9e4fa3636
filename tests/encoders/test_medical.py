"""The encoder `medical`: any image encoder, slice by slice, with the slices' places."""

from __future__ import annotations

import pickle
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_medical import files
from medical_files import dataset, nifti, save, series
from omnivit_encoders.medical import LearnedPlaces, MedicalConfig, MedicalEncoder, SinusoidalPlaces
from PIL import Image

from omnivit.contracts.encoder import GridProcessor, PrefacingProcessor, layout_of
from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Media
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.errors import MediaError, PluginError, RecipeError
from omnivit.media.volume.read import read_volume
from omnivit.media.volume.slices import View

TIMM = {"name": "timm", "model": "test_vit", "grid": 2}
CLIP = {
    "name": "clip",
    "config": {
        "model_type": "clip_vision_model",
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    },
}
CUBE = np.random.default_rng(0).integers(0, 256, (12, 10, 8)).astype(np.float32)


def build(inner: dict[str, Any] = TIMM, **options: Any) -> MedicalEncoder:
    torch.manual_seed(0)
    config = merge_options(MedicalConfig, {"encoder": inner, **options}, "model.inputs.volume.encoder")
    return MedicalEncoder(config).eval()


def stacked(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids = torch.zeros(1, dtype=torch.long)
    samples = [EncodedSample("a", ids, ids, (Span("volume", 0, 0),), (item,), ids) for item in items]
    return collate(samples, ("volume",), pad_id=0).media["volume"].items


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    nifti(tmp_path / "a.nii.gz", CUBE)
    series(tmp_path / "series", 3)
    save(dataset(CUBE[:, :, 0].astype(np.int16)), tmp_path / "one.dcm")
    Image.fromarray(CUBE[:, :, 0].astype(np.uint8)).save(tmp_path / "picture.png")
    return tmp_path


@pytest.mark.parametrize("inner", [TIMM, CLIP], ids=["timm", "clip"])
@pytest.mark.parametrize("positions", ["none", "learned", "sinusoidal"])
def test_a_volume_in_a_batch_is_as_alone_and_has_its_length(
    folder: Path, inner: dict[str, Any], positions: str
) -> None:
    encoder = build(inner, slices=4, positions=positions, windows={"CT": "bone"})
    if isinstance(encoder.places, LearnedPlaces):
        torch.nn.init.normal_(encoder.places.table.weight)
    process = encoder.processor()
    assert isinstance(process, GridProcessor)
    sources = ("a.nii.gz", "series", "one.dcm", "picture.png")
    items = [process(Media("volume", source, str(folder))) for source in sources]
    layouts = [layout_of(process, item) for item in items]
    assert [(found.tokens, found.grid) for found in layouts] == [(4 * n, (n, 2, 2)) for n in (4, 3, 1, 1)]
    with torch.no_grad():
        together = encoder(stacked(items))
        alone = [encoder({key: value[None] for key, value in item.items()}) for item in items]
    assert together.mask.sum(1).tolist() == [found.tokens for found in layouts]
    for row, one in enumerate(alone):
        torch.testing.assert_close(together.values[row, together.mask[row]], one.values[0], rtol=0, atol=1e-5)
    assert together.grid is not None
    assert together.grid[0, -1].tolist() == [3, 1, 1]


def test_rows_are_those_of_the_image_encoder_for_each_slice(folder: Path) -> None:
    encoder = build(slices=2, planes=("axial", "sagittal"), positions="learned")
    media = Media("volume", "a.nii.gz", str(folder))
    item = encoder.processor()(media)
    assert item["axes"].tolist() == [2, 2, 0, 0]
    volume = read_volume(media, View(slices=2, planes=("axial", "sagittal")))
    inner = encoder.encoder
    with torch.no_grad():
        found = encoder({key: value[None] for key, value in item.items()}).values[0]
        for k, image in enumerate(volume.images()):
            pixels = inner.processor()(Media("image", image))["pixels"]
            expected = inner({"pixels": pixels[None]}).values[0]
            torch.testing.assert_close(
                found[4 * k : 4 * k + 4], expected, rtol=0, atol=1e-5
            )  # the table starts at zero


def test_learned_places_tell_axis_and_stretch() -> None:
    places = LearnedPlaces(6, bins=4, max_distance=10.0)
    with torch.no_grad():
        places.table.weight.copy_(torch.arange(12.0)[:, None].expand(12, 6))
    found = places(torch.tensor([[-99.0, -10.0, -0.1, 0.0, 9.9, 99.0]]), torch.tensor([[0, 1, 2, 2, 0, 1]]))
    assert found[0, :, 0].tolist() == [0, 4, 9, 10, 3, 7]


def test_sinusoidal_places() -> None:
    places = SinusoidalPlaces(14)
    found = places(torch.tensor([[0.5, 3.0]]), torch.tensor([[0, 2]]))
    lengths = torch.tensor([2.0, 2000.0])
    angles = 2 * torch.pi * 0.5 / lengths
    torch.testing.assert_close(found[0, 0, :4], torch.cat([angles.sin(), angles.cos()]))
    assert found[0, 0, 4:].abs().sum() == 0
    assert found[0, 1, :8].abs().sum() == 0
    assert found[0, 1, 8:12].abs().sum() > 0


def test_places_train(folder: Path) -> None:
    encoder = build(slices=3, positions="learned").train()
    item = encoder.processor()(Media("volume", "a.nii.gz", str(folder)))
    encoder({key: value[None] for key, value in item.items()}).values.sum().backward()
    assert isinstance(encoder.places, LearnedPlaces)
    gradient = encoder.places.table.weight.grad
    assert gradient is not None
    assert int((gradient.abs().sum(1) > 0).sum()) == len(set((item["positions"] / 8).floor().tolist()))


def test_processor_pickles_small_and_tells_settings_apart() -> None:
    process = build().processor()
    assert len(pickle.dumps(process)) < 2000
    assert pickle.loads(pickle.dumps(process)) == process
    different: list[dict[str, Any]] = [
        {"slices": 3}, {"windows": {"CT": "lung"}}, {"planes": ["coronal"]}, {"time": 1}, {"allow_burned_in": True},
        {"header": ["Modality"]},
    ]  # fmt: skip
    prints = {build(**options).processor().fingerprint() for options in ({}, *different)}
    assert len(prints) == 7


def test_the_seed_reaches_the_image_encoder(folder: Path) -> None:
    process = build({**TIMM, "augment": True}).processor()

    def pixels(seed: int | None) -> torch.Tensor:
        return process(Media("volume", "a.nii.gz", str(folder), seed))["pixels"]

    assert torch.equal(pixels(1), pixels(1))
    assert not torch.equal(pixels(1), pixels(2))
    assert torch.equal(pixels(None), pixels(None))


def test_windows_follow_the_modality(folder: Path) -> None:
    values = np.linspace(-1000, 1000, 64).reshape(8, 8).astype(np.int16)
    save(dataset(values), folder / "ct.dcm")
    save(dataset(values, Modality="MR"), folder / "mr.dcm")
    process = build(windows={"MR": [0, 500]}).processor()
    ct, mr = (process(Media("volume", name, str(folder)))["pixels"] for name in ("ct.dcm", "mr.dcm"))
    assert not torch.equal(ct, mr)
    assert process.view.windows == {"CT": "soft_tissue", "*": "percentile", "MR": (0, 500)}


def test_the_llm_reads_the_header_fields_that_the_recipe_lists(tmp_path: Path) -> None:
    path = save(dataset(CUBE[0], Modality="MR", KVP=None), tmp_path / "x.dcm")
    nifti(tmp_path / "x.nii", CUBE)
    process = build(header=["Modality", "KVP", "Rows"]).processor()
    assert isinstance(process, PrefacingProcessor)
    assert process.preface(Media("volume", str(path))) == "Modality: MR; Rows: 10\n"
    assert process.preface(Media("volume", str(tmp_path / "x.nii"))) == ""
    assert process.preface(Media("volume", CUBE.astype(np.uint8))) == ""
    silent = build().processor()
    assert isinstance(silent, PrefacingProcessor) and silent.preface(Media("volume", str(path))) == ""
    with pytest.raises(MediaError, match=r"gone\.dcm"):
        process.preface(Media("volume", str(tmp_path / "gone.dcm")))


def test_arrays_of_python_callers() -> None:
    stack = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)
    item = build(slices=2).processor()(Media("volume", stack))
    assert int(item["pictures"]) == 2
    assert item["positions"].tolist() == [-1.0, 1.0]


def test_construction_on_meta_reads_no_weights() -> None:
    inner = {"name": "timm", "model": "test_vit", "path": str(Path(__file__))}
    with torch.device("meta"):
        encoder = build(inner, positions="learned")
    assert all(parameter.is_meta for parameter in encoder.parameters())
    with pytest.raises(RecipeError, match=r"is not a file of weights"):
        encoder.load()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"inner": {"model": "test_vit"}}, r"encoder: `name` is missing"),
        (
            {"inner": {"name": "medical", "encoder": TIMM}},
            r"'medical' reads 'volume' media, but an encoder for 'image'",
        ),
        ({"windows": {"CT": "brian"}}, r"window 'brian' is unknown; did you mean 'brain'"),
        ({"planes": ["axiel"]}, r"axiel"),
        ({"bins": 0}, r"`bins` \(0\)"),
        ({"batch_size": 0}, r"`batch_size` is 0"),
        ({"slices": 0}, r"`slices` is 0"),
        ({"header": ["PatientName"]}, r"`header`: the field PatientName is unknown, or may identify a person"),
        ({"header": ["Modalty"]}, r"`header`: the field Modalty .*did you mean 'Modality'"),
    ],
)
def test_what_a_recipe_must_not_say(options: dict[str, Any], reason: str) -> None:
    with pytest.raises((RecipeError, PluginError), match=reason):
        build(**options)


def test_inspect(folder: Path) -> None:
    assert dict(MedicalEncoder.inspect(Media("volume", str(folder / "a.nii.gz"))).shape) == {"x": 12, "y": 10, "z": 8}
    with pytest.raises(MediaError, match="is neither DICOM nor NIfTI"):
        MedicalEncoder.inspect(Media("volume", str(folder / "picture.png")))


def test_hostile_files_end_in_an_item_or_an_error_that_names_them(tmp_path: Path) -> None:
    expected = files(tmp_path / "root")
    assert len(expected) >= 40
    process = build({**TIMM, "image_size": 32}).processor()
    for name, reason in expected.items():
        began = time.monotonic()
        found = "good"
        try:
            item = process(Media("volume", name, str(tmp_path / "root")))
            assert process.length(item) == 4 * int(item["pictures"]), name
            assert torch.isfinite(item["pixels"]).all(), name
        except MediaError as error:
            found = str(error)
            assert name in found, (name, found)
            assert "Secret" not in found
        assert re.search(reason, found), (name, found)
        assert time.monotonic() - began < 10, name
