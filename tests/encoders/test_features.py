"""The encoder `features`: stored rows come out as they are, and whatever else a file holds is refused with a reason."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_features import files
from omnivit_encoders.features import FeaturesConfig, FeaturesEncoder
from safetensors.torch import save_file

from omnivit.contracts.encoder import layout_of
from omnivit.contracts.features import Features, Layout
from omnivit.contracts.sample import Media
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.errors import MediaError
from omnivit.media.arrays import read_array, read_table


def encode(encoder: FeaturesEncoder, *sources: object) -> Features:
    """The sources as one batch."""
    items = [encoder.processor()(Media("features", source)) for source in sources]
    ids = torch.zeros(1, dtype=torch.long)
    samples = [EncodedSample("a", ids, ids, (Span("features", 0, 0),), (item,), ids) for item in items]
    batch = collate(samples, ("features",), pad_id=0).media["features"].items
    features = encoder(batch)
    lengths = [encoder.processor().length(item) for item in items]
    assert features.lengths().tolist() == lengths
    return features


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def test_rows_come_out_as_stored_and_the_filling_is_masked(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows(3, 8))
    save_file({"x": torch.tensor(rows(5, 8))}, tmp_path / "b.safetensors")
    features = encode(
        FeaturesEncoder(FeaturesConfig(width=8)), str(tmp_path / "a.npy"), str(tmp_path / "b.safetensors")
    )
    assert features.mask.sum(1).tolist() == [3, 5]
    assert torch.equal(features.values[0, :3], torch.tensor(rows(3, 8)))
    assert torch.equal(features.values[1], torch.tensor(rows(5, 8)))
    assert features.grid is None


def test_a_grid_is_flattened_in_order_and_named() -> None:
    encoder = FeaturesEncoder(FeaturesConfig(width=4, layout="THWD"))
    small, large = rows(1, 2, 3, 4), rows(2, 2, 2, 4)
    features = encode(encoder, small, large)
    item = encoder.processor()(Media("features", large))
    assert layout_of(encoder.processor(), item) == Layout(8, (2, 2, 2))
    assert features.grid is not None
    for medium, array in enumerate((small, large)):
        for row in range(int(features.mask[medium].sum())):
            place = tuple(features.grid[medium, row].tolist())
            assert torch.equal(features.values[medium, row], torch.tensor(array[place]))
    assert (features.grid[0, 6:] == -1).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype(dtype: str) -> None:
    found = encode(FeaturesEncoder(FeaturesConfig(width=8, dtype=dtype)), rows(2, 8))
    assert torch.equal(found.values[0], torch.tensor(rows(2, 8)).to(getattr(torch, dtype)))


def test_what_16_bits_cannot_hold_is_refused() -> None:
    with pytest.raises(MediaError, match=r"1 of 2 tokens contain .* that float16 cannot represent"):
        encode(FeaturesEncoder(FeaturesConfig(width=1, dtype="float16")), np.array([[1.0], [70000.0]]))


def test_a_tensor_in_memory_is_copied() -> None:
    source = torch.ones(2, 8, dtype=torch.bfloat16, requires_grad=True)
    found = encode(FeaturesEncoder(FeaturesConfig(width=8)), source)
    assert torch.equal(found.values[0], torch.ones(2, 8))
    array = rows(2, 8)
    item = FeaturesEncoder(FeaturesConfig(width=8)).processor()(Media("features", array))
    item["values"].zero_()
    assert array.any()


def test_one_of_several_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", first=rows(2, 8), last=rows(3, 8))
    media = Media("features", "two.npz", str(tmp_path))
    assert FeaturesEncoder(FeaturesConfig(width=8, key="last")).processor()(media)["count"] == 3
    with pytest.raises(MediaError, match=r"no array 'lost'; did you mean 'last'\? Available: first, last"):
        FeaturesEncoder(FeaturesConfig(width=8, key="lost")).processor()(media)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "u1", "?", "<i8"])
def test_npy_is_read_as_numpy_reads_it(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.array(rows(3, 4, 2) * 9, dtype=dtype, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", a=array)
    for name in ("a.npy", "a.npz"):
        assert np.array_equal(read_array(Media("features", name, str(tmp_path))), array)


def test_every_number_format_of_safetensors(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64, torch.bool)
    stored = {str(kind): (torch.tensor(rows(3, 2)) * 9).to(kind) for kind in kinds}
    save_file(stored, tmp_path / "a.safetensors", metadata={"format": "pt"})
    for key, tensor in stored.items():
        found = read_array(Media("features", "a.safetensors", str(tmp_path)), key)
        assert np.array_equal(found, (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


def test_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x;y\n1;2.5\n\n-3;4e2\n")
    assert read_table(Media("imu", "a.csv", str(tmp_path))).tolist() == [[1, 2.5], [-3, 400]]
    (tmp_path / "b.csv").write_text("1,2\n3\n")
    with pytest.raises(MediaError, match=r"b\.csv, line 2: the line has 1 fields, but the lines before have 2"):
        read_table(Media("imu", "b.csv", str(tmp_path)))
    (tmp_path / "c.csv").write_text("1,2\n3,x\n")
    with pytest.raises(MediaError, match=r"c\.csv, line 2: could not convert string to float: 'x'"):
        read_table(Media("imu", "c.csv", str(tmp_path)))


def test_inspect_reads_headers_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows(3, 8))
    found = FeaturesEncoder.inspect(Media("features", str(tmp_path / "a.npy")))
    assert (found.kind, dict(found.shape), dict(found.details)) == (
        "features", {"rows": 3, "width": 8}, {"numbers": "float32"},
    )  # fmt: skip
    np.savez(tmp_path / "b.npz", x=rows(2, 2, 8), y=rows(1, 8))
    found = FeaturesEncoder.inspect(Media("features", str(tmp_path / "b.npz")))
    assert (dict(found.shape), dict(found.details)) == (
        {"arrays": 2},
        {"x": "float32 [2, 2, 8]", "y": "float32 [1, 8]"},
    )


def test_a_batch_of_meta_and_a_small_pickle() -> None:
    with torch.device("meta"):
        encoder = FeaturesEncoder(FeaturesConfig(width=8, layout="HWD"))
    process = pickle.loads(pickle.dumps(encoder.processor()))
    assert process.fingerprint() == encoder.processor().fingerprint()
    assert process.fingerprint() != FeaturesEncoder(FeaturesConfig(width=9)).processor().fingerprint()
    assert len(pickle.dumps(process)) < 1000


@pytest.mark.parametrize("options", [{"width": 0}, {"width": 8, "max_rows": 0}])
def test_options_that_make_no_sense(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        FeaturesConfig(**options)


def test_hostile_files(tmp_path: Path) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    expected = files(folder)
    assert len(expected) >= 20
    process = FeaturesEncoder(FeaturesConfig(width=8, max_rows=100)).processor()
    for name, outcome in expected.items():
        began = time.monotonic()
        if outcome == "good":
            item = process(Media("features", name, str(folder)))
            assert item["values"].shape == (int(item["count"]), 8), name
        else:
            with pytest.raises(MediaError, match=outcome) as caught:
                process(Media("features", name, str(folder)))
            assert name in str(caught.value)
        assert time.monotonic() - began < 10, name
    assert not (folder / "exploded").exists()


def test_looking_refuses_what_training_would(tmp_path: Path) -> None:
    rows = np.ones((3, 4), np.float32)
    np.save(tmp_path / "good.npy", rows)
    rows[1, 2] = np.nan
    np.save(tmp_path / "nan.npy", rows)
    process = FeaturesEncoder(FeaturesConfig(width=4)).processor()
    for use in (FeaturesEncoder.inspect, process):
        assert use(Media("features", "good.npy", str(tmp_path)))
        with pytest.raises(MediaError, match=r"nan.npy: 1 of 3 tokens contain NaN"):
            use(Media("features", "nan.npy", str(tmp_path)))
