"""NIfTI: which slices come out, upright in the standard orientation, and every refusal."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from medical_files import nifti
from nibabel.orientations import aff2axcodes, apply_orientation, axcodes2ornt, inv_ornt_aff

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError, RecipeError
from omnivit.media.locate import opened
from omnivit.media.volume import nifti as module
from omnivit.media.volume.read import facts_of, read_volume
from omnivit.media.volume.slices import View, choose, linear

GREY = {"*": (127.5, 255.0)}
"""A window that leaves 0..255 nearly as it is."""
CUBE = np.random.default_rng(0).integers(0, 256, (4, 5, 6)).astype(np.float32)
"""In RAS: x to the right, y to the front, z up."""


def read(path: Path, **view: Any) -> Any:
    return module.read(opened(Media("medical", path)), View(**{"windows": GREY, **view}))


def expected(values: np.ndarray) -> np.ndarray:
    return linear(values, *GREY["*"])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "ASL", "SRA"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_orientation_is_turned_to_ras(tmp_path: Path, codes: str, kind: Any) -> None:
    turn = nibabel.orientations.ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored = apply_orientation(CUBE, turn)
    affine = np.diag([2.0, 3.0, 4.0, 1.0]) @ inv_ornt_aff(turn, CUBE.shape)
    assert "".join(aff2axcodes(affine)) == codes
    path = tmp_path / "x.nii.gz"
    nibabel.save(kind(stored, affine), path)
    volume = read(path, planes=("axial", "coronal", "sagittal"), slices=1)
    spacing = {"axial": (3, 2), "coronal": (4, 2), "sagittal": (4, 3)}
    flat = {"axial": CUBE[:, :, 3].T, "coronal": CUBE[:, 2].T, "sagittal": CUBE[2].T}
    for one, plane in zip(volume.pixels, flat, strict=True):
        rows, columns = flat[plane].shape
        scale = np.array(spacing[plane]) / min(spacing[plane])
        assert one.shape == (round(rows * scale[0]), round(columns * scale[1]))
        corner = expected(flat[plane][::-1])
        assert one[0, 0] == corner[0, 0]
        assert one[-1, -1] == corner[-1, -1]
    assert volume.axes.tolist() == [2, 1, 0]
    assert volume.positions.tolist() == [(3 - 2.5) * 4, 0, (2 - 1.5) * 2]


def test_pixels_of_every_slice(tmp_path: Path) -> None:
    volume = read(nifti(tmp_path / "x.nii", CUBE))
    assert len(volume.pixels) == 6
    for k, one in enumerate(volume.pixels):
        assert np.array_equal(one, expected(CUBE[:, :, k].T[::-1]))
    assert volume.positions.tolist() == [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]


def test_uniform_choice() -> None:
    assert choose(3, 8) == [0, 1, 2]
    assert choose(10, 1) == [5]
    assert choose(9, 3) == [1, 4, 7]
    assert choose(100, 4) == [12, 37, 62, 87]


def test_time_of_a_4d_file(tmp_path: Path) -> None:
    path = nifti(tmp_path / "x.nii.gz", np.stack([CUBE, 255 - CUBE], axis=3))
    assert np.array_equal(read(path, time=1).pixels[2], expected(255 - CUBE[:, :, 2].T[::-1]))
    assert np.array_equal(read(path, time=-2).pixels[2], expected(CUBE[:, :, 2].T[::-1]))
    with pytest.raises(MediaError, match=r"x.nii.gz: has 2 volume\(s\) over time, but no number 2\. Set `time`"):
        read(path, time=2)


def test_one_picture_of_two_dimensions(tmp_path: Path) -> None:
    volume = read(nifti(tmp_path / "x.nii", CUBE[:, :, 0]))
    assert np.array_equal(volume.pixels[0], expected(CUBE[:, :, 0].T[::-1]))


def test_scale_and_shift_of_the_header(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(27, dtype=np.int16).reshape(3, 3, 3), np.eye(4))
    image.header.set_slope_inter(2, 10)
    nibabel.save(image, tmp_path / "x.nii")
    found = nibabel.load(tmp_path / "x.nii").get_fdata(dtype=np.float32)
    assert np.array_equal(read(tmp_path / "x.nii").pixels[1], expected(found[:, :, 1].T[::-1]))


def test_nan_is_black_and_does_not_set_the_window(tmp_path: Path) -> None:
    values = CUBE.copy()
    values[0, 0, 0], values[1, 0, 0] = np.nan, np.inf
    path = nifti(tmp_path / "x.nii", values)
    shown = read(path, windows={"*": "percentile"}, percentiles=(0, 100)).pixels[0]
    assert shown[-1, 0] == 0
    assert shown[-1, 1] == 255
    low, high = values[np.isfinite(values)].min(), values[np.isfinite(values)].max()
    assert shown[0, 0] == round(255 * (values[0, 4, 0] - low) / (high - low))


def test_a_window_over_the_shown_slices_only(tmp_path: Path) -> None:
    values = CUBE.copy()
    values[:, :, 0] = 1e6
    path = nifti(tmp_path / "x.nii", values)
    one = read(path, windows={"*": "percentile"}, slices=1).pixels[0]
    assert (one.min(), one.max()) == (0, 255)


def test_a_volume_of_one_value_is_black(tmp_path: Path) -> None:
    assert read(nifti(tmp_path / "x.nii", np.ones((3, 3, 3))), windows={"*": "percentile"}).pixels[0].max() == 0


def test_named_windows_need_the_modality_and_file_takes_the_headers(tmp_path: Path) -> None:
    path = nifti(tmp_path / "x.nii", CUBE, cal_min=50, cal_max=150)
    ct = read(path, windows={"CT": "bone", "*": "percentile"}, modality="CT").pixels[0]
    assert np.array_equal(ct, linear(CUBE[:, :, 0].T[::-1], 400, 1800))
    own = read(path, windows={"*": "file"}).pixels[0]
    assert np.array_equal(own, linear(CUBE[:, :, 0].T[::-1], 100, 100, "LINEAR_EXACT"))


def test_rgb_volumes(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (4, 5, 3, 3), dtype=np.uint8)
    stored = np.ascontiguousarray(colours).view([("R", "u1"), ("G", "u1"), ("B", "u1")]).reshape(4, 5, 3)
    volume = read(nifti(tmp_path / "x.nii", stored))
    assert np.array_equal(volume.pixels[0], colours[:, :, 0].transpose(1, 0, 2)[::-1])


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    nifti(tmp_path / "x.nii.gz", CUBE).rename(tmp_path / "scan.png")
    found = read_volume(Media("volume", "scan.png", str(tmp_path)), View(windows=GREY))
    content = (tmp_path / "scan.png").read_bytes()
    in_memory = read_volume(Media("volume", content), View(windows=GREY))
    assert len(found.pixels) == 6
    assert all(np.array_equal(one, other) for one, other in zip(found.pixels, in_memory.pixels, strict=True))


def test_look(tmp_path: Path) -> None:
    path = nifti(tmp_path / "x.nii.gz", np.stack([CUBE, CUBE], axis=3), np.diag([2.0, 2.0, 3.0, 1.0]))
    facts = facts_of(Media("volume", str(path)))
    assert dict(facts.shape) == {"x": 4, "y": 5, "z": 6, "times": 2}
    assert facts.details["voxel"] == "2 x 2 x 3 mm"


def damaged(path: Path, offset: int, kind: str, value: Any) -> Path:
    """The file with a number of its header changed."""
    content = bytearray(path.read_bytes())
    number = np.array(value, kind).tobytes()
    content[offset : offset + len(number)] = number
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("offset", "kind", "value", "reason"),
    [
        (
            42,
            "<i2",
            [2000, 2000, 2000],
            r"2000 x 2000 x 2000 voxels, 32.0 GB per volume, but the limit is 0.8 GB",
        ),
        (
            42,
            "<i2",
            [-4, 5, 6],
            r"the sizes \[-4, 5, 6\], but only volumes of 3 or 4 dimensions with 1 to 8192",
        ),
        (40, "<i2", [1], r"declares the sizes"),
        (46, "<i2", [600], r"is cut short or damaged: its header declares 48,\d+ bytes, but the file has"),
        (108, "<f4", [1e12], r"is damaged: its header declares that the values begin at byte 1e\+12"),
        (108, "<f4", [np.nan], r"the values begin at byte nan"),
        (70, "<i2", [32], r"contains values of type complex64, which are neither grey nor RGB"),
        (280, "<f4", [0.0] * 12, r"has no usable orientation|cut short|damaged"),
    ],
)
def test_headers_that_cannot_be(tmp_path: Path, offset: int, kind: str, value: Any, reason: str) -> None:
    path = damaged(nifti(tmp_path / "x.nii", CUBE), offset, kind, value)
    with pytest.raises(MediaError, match=f"x.nii: .*({reason})"):
        read_volume(Media("volume", str(path)), View())


def test_files_cut_short(tmp_path: Path) -> None:
    whole = nifti(tmp_path / "x.nii.gz", CUBE).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[:-30])
    with pytest.raises(MediaError, match=r"cut.nii.gz: is cut short or damaged \(EOFError"):
        read(tmp_path / "cut.nii.gz")
    (tmp_path / "cut.nii").write_bytes(gzip.decompress(whole)[:-8])
    with pytest.raises(MediaError, match=r"cut.nii: is cut short or damaged: its header declares 832 bytes"):
        read(tmp_path / "cut.nii")


def test_nothing_finite(tmp_path: Path) -> None:
    path = nifti(tmp_path / "x.nii", np.full((3, 3, 3), np.nan))
    with pytest.raises(MediaError, match=r"x.nii: the selected slices contain no finite value"):
        read(path, windows={"*": "percentile"})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"slices": 0}, "`slices` is 0"),
        ({"planes": ("axiel",)}, "'axiel' is not a plane; did you mean 'axial'"),
        ({"windows": {"CT": "brian"}}, "window 'brian' is unknown; did you mean 'brain'"),
        ({"windows": {"CT": (40.0, 0.0)}}, r"expected \[centre, width\] with a width above 0"),
        ({"percentiles": (99.0, 1.0)}, "expected 0 <= low < high <= 100"),
    ],
)
def test_what_cannot_be_wanted(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        View(**options)
