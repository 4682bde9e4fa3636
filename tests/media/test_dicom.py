"""DICOM: which pixels come out, in which order, and what is never let out."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from medical_files import NAME, dataset, pydicom_file, save, series
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian

from omnivit.contracts.sample import Media
from omnivit.data.records import typed_messages
from omnivit.errors import DataError, MediaError
from omnivit.media.locate import opened
from omnivit.media.volume import dicom
from omnivit.media.volume.read import facts_of, read_header, read_volume
from omnivit.media.volume.slices import View

RAMP = (np.arange(64, dtype=np.int16) * 30).reshape(8, 8)


def read(*paths: Path, **view: Any) -> Any:
    return dicom.read([opened(Media("medical", path)) for path in paths], View(**view))


def pixels_of(found: Any, tmp_path: Path, **view: Any) -> np.ndarray:
    return read(save(found, tmp_path / "x.dcm"), **view).pixels[0]


def test_rescale_and_named_window(tmp_path: Path) -> None:
    found = pixels_of(dataset(RAMP, RescaleSlope=2, RescaleIntercept=-1024), tmp_path)
    share = (RAMP * 2.0 - 1024 - 39.5) / 399 + 0.5
    assert np.array_equal(found, np.round(255 * np.clip(share, 0, 1)).astype(np.uint8))


def test_the_files_own_window(tmp_path: Path) -> None:
    found = dataset(RAMP, WindowCenter=[600, 1], WindowWidth=[301, 1])
    shown = pixels_of(found, tmp_path, windows={"CT": "file"})
    assert np.array_equal(shown, np.round(255 * np.clip((RAMP - 599.5) / 300 + 0.5, 0, 1)).astype(np.uint8))


def test_a_sigmoid_window(tmp_path: Path) -> None:
    found = dataset(RAMP, WindowCenter=600, WindowWidth=300, VOILUTFunction="SIGMOID")
    shown = pixels_of(found, tmp_path, windows={"*": "file"})
    assert np.array_equal(shown, np.round(255 / (1 + np.exp(-4 * (RAMP - 600.0) / 300))).astype(np.uint8))


def test_a_voi_table(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 8], bytes([0, 0, 10, 0, 200, 0, 255, 0])
    found = dataset((np.arange(64) % 4).reshape(8, 8).astype(np.uint16), VOILUTSequence=Sequence([table]))
    assert pixels_of(found, tmp_path, windows={"*": "file"})[0, :4].tolist() == [0, 10, 200, 255]


def test_explicit_window_and_windows_by_modality(tmp_path: Path) -> None:
    explicit = pixels_of(dataset(RAMP), tmp_path, windows={"CT": (945.0, 1.0)})
    assert np.array_equal(explicit, np.where(RAMP > 945, 255, np.where(RAMP == 945, 128, 0)))
    magnetic = pixels_of(dataset(RAMP, Modality="MR"), tmp_path, percentiles=(0, 100))
    assert (magnetic.min(), magnetic.max()) == (0, 255)
    ct = pixels_of(dataset(RAMP), tmp_path, percentiles=(0, 100))
    assert not np.array_equal(ct, magnetic)


def test_padding_does_not_set_the_window(tmp_path: Path) -> None:
    padded = RAMP.copy()
    padded[0, 0] = -2000
    found = pixels_of(dataset(padded, Modality="MR", PixelPaddingValue=-2000), tmp_path, percentiles=(0, 100))
    assert found[0, 0] == 0
    assert found[0, 1] == 0  # the smallest real value
    assert found[7, 7] == 255


def test_padding_is_black_where_small_values_are_bright(tmp_path: Path) -> None:
    padded = RAMP.copy()
    padded[0, 0] = -2000
    for view in ({"percentiles": (0, 100)}, {"windows": {"*": (945.0, 1890.0)}}):
        fields = {"Modality": "MR", "PixelPaddingValue": -2000, "PhotometricInterpretation": "MONOCHROME1"}
        found = pixels_of(dataset(padded, **fields), tmp_path, **view)
        assert (found[0, 0], found[7, 7]) == (0, 0) and found[0, 1] > 240


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    for view in ({"windows": {"*": "bone"}}, {"windows": {"*": "percentile"}}):
        plain = pixels_of(dataset(RAMP), tmp_path, **view)
        turned = pixels_of(dataset(RAMP, PhotometricInterpretation="MONOCHROME1"), tmp_path, **view)
        assert np.array_equal(turned, 255 - plain)


def test_colours_stay_as_they_are(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    assert np.array_equal(pixels_of(dataset(colours, Modality="US"), tmp_path), colours)


def test_palette(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for k, name in enumerate(("Red", "Green", "Blue")):
        fields[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        table = np.array([0, 65535, 257 * 100, 257 * (k + 1)], np.uint16)
        fields[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    found = pixels_of(dataset((np.arange(16) % 4).reshape(4, 4).astype(np.uint8), **fields), tmp_path)
    assert found[0].tolist() == [[0, 0, 0], [255, 255, 255], [100, 100, 100], [1, 2, 3]]


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm"),
    ],
)
def test_lossless_compressions_give_the_same(name: str, same_as: str) -> None:
    found, expected = (read(pydicom_file(one), allow_burned_in=True).pixels[0] for one in (name, same_as))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "name", ["SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "SC_ybr_full_422_uncompressed.dcm"]
)
def test_lossy_colours_are_rgb(name: str) -> None:
    found, expected = (read(pydicom_file(one)).pixels[0].astype(int) for one in (name, "SC_rgb_rle.dcm"))
    assert np.abs(found - expected).mean() < 4


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "JPGExtended.dcm", "JPEGLSNearLossless_16.dcm", "image_dfl.dcm"])
def test_other_compressions_are_read(name: str) -> None:
    found = read(pydicom_file(name)).pixels[0]
    assert found.dtype == np.uint8
    assert found.std() > 1


def test_missing_preamble_and_transfer_syntax(tmp_path: Path) -> None:
    found = dataset(RAMP)
    path = save(found, tmp_path / "a.dcm")
    (tmp_path / "b.dcm").write_bytes(path.read_bytes()[132:])
    bare = Dataset()
    bare.update({element.tag: element for element in found})
    pydicom.dcmwrite(tmp_path / "c.dcm", bare, implicit_vr=True, little_endian=True)
    expected = read(path).pixels[0]
    for name in ("b.dcm", "c.dcm"):
        assert np.array_equal(read_volume(Media("volume", name, str(tmp_path)), View()).pixels[0], expected)


def test_big_endian_without_meta(tmp_path: Path) -> None:
    found = dataset(RAMP.astype(">i2"))
    found.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    path = tmp_path / "x.dcm"
    pydicom.dcmwrite(path, found, little_endian=False, implicit_vr=False)
    assert np.array_equal(read(path).pixels[0], pixels_of(dataset(RAMP), tmp_path))


def test_a_series_is_sorted_by_place_not_by_name_or_number(tmp_path: Path) -> None:
    series(tmp_path / "s", 5)
    volume = read_volume(Media("volume", "s", str(tmp_path)), View(windows={"*": (200.0, 401.0)}))
    greys = [int(one[0, 0]) for one in volume.pixels]
    assert greys == sorted(greys)
    assert len(set(greys)) == 5
    assert volume.positions.tolist() == [-6, -3, 0, 3, 6]
    assert volume.axes.tolist() == [2] * 5


def test_a_series_given_as_a_list_and_fewer_slices(tmp_path: Path) -> None:
    paths = series(tmp_path / "s", 5)
    whole = read_volume(Media("volume", "s", str(tmp_path)), View())
    media = Media("volume", tuple(f"s/{path.name}" for path in paths), str(tmp_path))
    few = read_volume(media, View(slices=2))
    assert few.positions.tolist() == [-3, 3]
    assert np.array_equal(few.pixels[0], whole.pixels[1])


def test_slices_across_other_axes_rise_to_right_and_front(tmp_path: Path) -> None:
    for name, directions, step, axis in [
        ("sagittal", [0, 1, 0, 0, 0, -1], [-2, 0, 0], 0),  # towards the patient's right is -x; ours starts at the left
        ("coronal", [1, 0, 0, 0, 0, -1], [0, -2, 0], 1),
    ]:
        paths = []
        for k in range(3):
            place = {"ImagePositionPatient": [k * side for side in step], "ImageOrientationPatient": directions}
            found = dataset(np.full((4, 4), 100 * k, np.int16), SeriesInstanceUID="1.2", **place)
            paths.append(save(found, tmp_path / f"{name}{k}.dcm"))
        volume = read(*reversed(paths))
        assert volume.positions.tolist() == [-2, 0, 2]
        assert volume.axes.tolist() == [axis] * 3
        assert [int(one[0, 0]) for one in volume.pixels] == sorted(int(one[0, 0]) for one in volume.pixels)


def test_a_series_without_places_follows_its_numbers(tmp_path: Path) -> None:
    paths = series(tmp_path / "s", 3, ImagePositionPatient=None)
    greys = [int(one[0, 0]) for one in read(*paths, windows={"*": (100.0, 201.0)}).pixels]
    assert greys == sorted(greys, reverse=True)


def test_frames_of_one_file(tmp_path: Path) -> None:
    frames = np.stack([np.full((4, 4), 50 * k, np.int16) for k in range(4)])
    found = dataset(frames, NumberOfFrames=4, SpacingBetweenSlices=2.5)
    volume = read(save(found, tmp_path / "x.dcm"), windows={"*": (75.5, 151.0)})
    assert [int(one[0, 0]) for one in volume.pixels] == [0, 85, 170, 255]
    assert volume.positions.tolist() == [-3.75, -1.25, 1.25, 3.75]


def test_enhanced_frames_have_their_own_rescale_and_places(tmp_path: Path) -> None:
    def item(**fields: Any) -> Dataset:
        found = Dataset()
        for key, value in fields.items():
            setattr(found, key, value)
        return found

    shared = item(PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])])
    frames = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])],
            PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=0)],
            FrameVOILUTSequence=[item(WindowCenter=50.5, WindowWidth=101)],
        )
        for z, slope in ((5, 1), (-5, 2))
    ]
    found = dataset(
        np.full((2, 4, 4), 40, np.int16),
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )
    volume = read(save(found, tmp_path / "x.dcm"), windows={"*": "file"})
    assert volume.positions.tolist() == [-5, 5]
    assert [int(one[0, 0]) for one in volume.pixels] == [204, 102]


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    found = dataset(RAMP, PixelSpacing=[2.0, 1.0])
    assert pixels_of(found, tmp_path).shape == (16, 8)
    assert pixels_of(found, tmp_path, side=4).shape == (4, 2)


def series_of(tmp_path: Path, **fields: Any) -> tuple[str, ...]:
    """Five slices and one file that differs."""
    paths = series(tmp_path, 5)
    odd = pydicom.dcmread(paths[0])
    odd.SOPInstanceUID = "1.2.3"
    for key, value in fields.items():
        setattr(odd, key, value)
    save(odd, tmp_path / "odd.dcm")
    return tuple(path.name for path in [*paths, tmp_path / "odd.dcm"])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"SeriesInstanceUID": "1.2.9"}, r"6 files belong to 2 series: 0.dcm, 1.dcm, 2.dcm and 2 more; odd.dcm\. List"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, r"odd.dcm: has another orientation than 0.dcm"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, r"0.dcm: is damaged, or not a DICOM image \(ValueError\)"),
        ({"Rows": 4, "Columns": 16}, r"the slices have 2 sizes: 0.dcm, .*; odd.dcm"),
        ({"NumberOfFrames": 3}, r"odd.dcm: has several frames, and is one of several"),
    ],
)
def test_what_is_no_single_series_is_refused(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    names = series_of(tmp_path, **fields)
    with pytest.raises(MediaError, match=reason):
        read_volume(Media("volume", names, str(tmp_path)), View())


def test_copies_of_a_slice_are_refused(tmp_path: Path) -> None:
    paths = series(tmp_path, 3)
    (tmp_path / "copy.dcm").write_bytes(paths[0].read_bytes())
    with pytest.raises(MediaError, match=r"the same slice exists more than once: 0.dcm, copy.dcm\. Remove the copies"):
        read(*paths, tmp_path / "copy.dcm")


def test_a_folder_stays_inside_the_root(tmp_path: Path) -> None:
    series(tmp_path / "out", 2)
    root = tmp_path / "root"
    series(root / "in", 2)
    (root / "in" / "2.dcm").symlink_to(tmp_path / "out" / "0.dcm")
    (root / "linked").symlink_to(tmp_path / "out")
    (root / "empty").mkdir()
    for source, reason in [
        ("in", "is a link to .*, outside the data root"),
        ("linked", "is a link to .*, outside the data root"),
        ("../out", "contains `..`"),
        (str(tmp_path / "out"), "is absolute"),
        (("in/0.dcm", "../out/0.dcm"), "contains `..`"),
        ("empty", "the folder is empty"),
        ((), "the list contains no files"),
    ]:
        with pytest.raises(MediaError, match=reason):
            read_volume(Media("volume", source, str(root)), View())


def test_a_stranger_in_a_folder_is_named(tmp_path: Path) -> None:
    series(tmp_path / "s", 2)
    (tmp_path / "s" / "readme.txt").write_text("hello")
    (tmp_path / "s" / ".DS_Store").write_text("hidden")
    with pytest.raises(MediaError, match=r"readme.txt: is not a DICOM file, but all slices of a series must be"):
        read_volume(Media("volume", "s", str(tmp_path)), View())


def test_burned_in_annotation_is_refused_unless_allowed(tmp_path: Path) -> None:
    path = save(dataset(RAMP, BurnedInAnnotation="YES"), tmp_path / "x.dcm")
    with pytest.raises(MediaError, match=r"x.dcm: has annotations burned into the image .*allow_burned_in: true"):
        read(path)
    assert read(path, allow_burned_in=True).pixels[0].shape == (8, 8)
    assert facts_of(Media("volume", str(path))).details["burned-in annotation"].startswith("yes")


@pytest.mark.parametrize(
    "field", ["PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyDescription"]
)
def test_identity_is_not_given_out(tmp_path: Path, field: str) -> None:
    path = save(dataset(RAMP), tmp_path / "x.dcm")
    with pytest.raises(MediaError, match=f"header field '{field}' cannot be read: it may identify a person"):
        read_header(Media("volume", str(path)), [field])
    assert read_header(Media("volume", str(path)), ["Modality", "KVP"]) == {"Modality": "CT"}


def test_the_patient_appears_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    good = save(dataset(RAMP), tmp_path / "good.dcm")
    whole = good.read_bytes()
    damaged = {
        "modality": whole.replace(b"CS\x02\x00CT", b"CS\x02\x00\xffT"),
        "in_modality": save(dataset(RAMP, Modality=NAME), tmp_path / "m.dcm").read_bytes(),
        "like_a_code": save(dataset(RAMP, Modality="SECRET"), tmp_path / "m.dcm").read_bytes(),
        "in_rows": whole.replace(b"US\x02\x00\x08\x00", b"DS\x02\x00Se", 1),
        "in_number": save(dataset(RAMP, NumberOfFrames="1"), tmp_path / "n.dcm")
        .read_bytes()
        .replace(b"IS\x02\x001 ", b"IS\x02\x00Se"),
        "cut": whole[:-40],
    }
    caplog.clear()  # pydicom quotes values already while these are written
    seen = [repr(found(Media("volume", str(good)))) for found in (facts_of, lambda media: read_volume(media, View()))]
    for name, content in damaged.items():
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(content)
        for function in (facts_of, lambda media: read_volume(media, View())):
            try:
                seen.append(repr(function(Media("volume", str(path)))))
            except MediaError as error:
                seen.append(str(error) + repr(error.__cause__))
    seen += [caplog.text, *capfd.readouterr()]
    assert len(seen) > 10
    assert not any("secret" in text.lower() or "Person" in text for text in seen)


def test_look(tmp_path: Path) -> None:
    series(tmp_path / "s", 3)
    facts = facts_of(Media("volume", str(tmp_path / "s")))
    assert (facts.kind, dict(facts.shape)) == ("volume", {"slices": 3, "height": 8, "width": 8})
    assert facts.details["modality"] == "CT"
    assert facts.details["compression"] == "Explicit VR Little Endian"
    with pytest.raises(MediaError, match="is neither DICOM nor NIfTI"):
        facts_of(Media("volume", b"\x89PNG\r\n" + b"0" * 300))


@pytest.mark.parametrize("name", ["rtplan.dcm", "waveform_ecg.dcm", "rtstruct.dcm"])
def test_files_without_a_picture(name: str) -> None:
    with pytest.raises(MediaError, match=f"{name}: is a DICOM file without an image"):
        read(pydicom_file(name))


def test_volumes_pickle(tmp_path: Path) -> None:
    volume = read(save(dataset(RAMP), tmp_path / "x.dcm"))
    assert np.array_equal(pickle.loads(pickle.dumps(volume)).pixels[0], volume.pixels[0])


def test_windows_are_those_of_pydicom(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-1000, 2000, (16, 16), dtype=np.int16)
    for function, centre, width in (("LINEAR", 50, 400), ("LINEAR_EXACT", 300, 900), ("SIGMOID", 100, 500)):
        found = dataset(values, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
        theirs = apply_windowing(values, found)  # over the whole range of 16 bits
        shown = pixels_of(found, tmp_path, windows={"*": "file"})
        assert np.abs(shown - (theirs + 32768.0) / 65535 * 255).max() <= 0.51


def test_a_record_lists_the_files_of_a_series(tmp_path: Path) -> None:
    names = [path.name for path in series(tmp_path, 3)]
    part = {"type": "volume", "paths": names}
    (message,) = typed_messages({"messages": [{"role": "user", "content": [part]}]}, str(tmp_path))
    (media,) = message.parts
    assert isinstance(media, Media)
    assert len(read_volume(media, View()).pixels) == 3
    for paths, reason in ((names[0], "paths is '0.dcm'"), ([], "paths is empty"), ([1], r"paths\[0\] is a number")):
        with pytest.raises(DataError, match=reason):
            typed_messages({"messages": [{"role": "user", "content": [{**part, "paths": paths}]}]}, str(tmp_path))
