"""Odd and hostile files of numbers, for the encoder `features` with `width: 8`, `max_rows: 100`."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file


class Bomb:
    """Unpickling it would be seen: it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (self.folder / "exploded",)  # type: ignore[return-value]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def header(text: str, numbers: bytes = b"") -> bytes:
    """An .npy file with a header of one's own."""
    line = text.encode()
    line += b" " * (64 - (len(line) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + numbers


def tensors(entries: object, numbers: bytes = b"") -> bytes:
    """A .safetensors file with a header of one's own."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def good_files(folder: Path) -> None:
    rows = np.arange(40, dtype=np.float32).reshape(5, 8)
    np.save(folder / "good.npy", rows)
    np.save(folder / "half.npy", rows.astype(np.float16))
    np.save(folder / "fortran.npy", np.asfortranarray(rows))
    np.save(folder / "big_endian.npy", rows.astype(">f8"))
    np.save(folder / "one_row.npy", rows[0])
    np.save(folder / "batch_of_one.npy", rows[None])
    np.savez_compressed(folder / "packed.npz", features=rows)
    save_file({"features": torch.tensor(rows).bfloat16()}, folder / "good.safetensors")
    (folder / "mislabelled.safetensors").write_bytes(npy(rows))
    (folder / "späße ünd spaces.npy").write_bytes(npy(rows))
    (folder / "$(touch x);.npy").write_bytes(npy(rows))


def bad_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    rows = np.arange(40, dtype=np.float32).reshape(5, 8)
    whole, good = npy(rows), {"dtype": "F32", "shape": [1, 8], "data_offsets": [0, 32]}
    shape = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"
    nan = rows.copy()
    nan[2, 3] = np.nan
    return {
        "zero_bytes.npy": (b"", "is empty"),
        "cut_in_magic.npy": (whole[:4], "not a file of arrays"),
        "cut_in_header.npy": (whole[:40], "damaged or cut short"),
        "cut_in_numbers.npy": (whole[:-5], "is cut short"),
        "two_arrays.npy": (whole + whole, "more than one array"),
        "nan.npy": (npy(nan), "1 of 5 tokens contain NaN"),
        "infinite.npy": (npy(np.full((2, 8), np.inf)), "2 of 2 tokens contain NaN, infinite"),
        "too_large_for_float32.npy": (npy(np.full((2, 8), 1e300)), "2 of 2 tokens"),
        "other_width.npy": (npy(rows.T), "have width 5"),
        "too_many_rows.npy": (npy(np.zeros((101, 8))), "101 tokens, but `max_rows` is 100"),
        "no_rows.npy": (npy(np.zeros((0, 8))), "contains no token"),
        "scalar.npy": (npy(np.float32(1)), r"has shape \[\]"),
        "grid.npy": (npy(np.zeros((2, 3, 8))), "`layout: SD`"),
        "complex.npy": (npy(rows.astype(np.complex64)), "not a type of real numbers"),
        "text.npy": (npy(np.array(["a", "b"])), "not a type of real numbers"),
        "records.npy": (npy(np.zeros(3, dtype=[("x", "f4")])), "not a type of real numbers"),
        "pickled.npy": (npy(np.array([Bomb(folder)], dtype=object)), "pickled Python objects"),
        "plain_pickle.npy": (pickle.dumps(Bomb(folder)), "not a file of arrays"),
        "huge_shape.npy": (header(shape % "(99999999999, 8)"), "more than the limit"),
        "overflowing_shape.npy": (header(shape % "(4611686018427387904, 4)"), "more than the limit"),
        "negative_shape.npy": (header(shape % "(-5, -8)", bytes(160)), "declares the shape"),
        "code_in_header.npy": (header("__import__('os').abort()"), "damaged or cut short"),
        "nested_header.npy": (header("(" * 9000), "damaged or cut short"),
        "future_version.npy": (b"\x93NUMPY\x09\x00" + whole[8:], "damaged|version"),
        "picture.npy": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a file of arrays"),
        "text_file.npy": (b"0.5, 0.25\n" * 10, "not a file of arrays"),
        "document.npz": (archive({"word/document.xml": b"<a/>"}), "which is not an array"),
        "two.npz": (archive({"a.npy": whole, "b.npy": whole}), "Select one with `key`.*a, b"),
        "empty.npz": (archive({}) + bytes(20), "not a file of arrays|contains no array"),
        "cut.npz": (archive({"a.npy": whole})[:-30], "damaged or cut short"),
        "bomb.npz": (archive({"a.npy": npy(np.zeros((2_000_000, 8), np.float32))}), "2,000,000 tokens"),
        "false_size.npz": (archive({"a.npy": header(shape % "(99999999999, 8)")}), "more than the limit"),
        "bad_checksum.npz": (damaged(archive({"a.npy": whole}, zipfile.ZIP_STORED)), "damaged"),
        "huge_header.safetensors": ((1 << 60).to_bytes(8, "little") + b"{}", "not a .safetensors file"),
        "header_only_length.safetensors": (b"\x10" + bytes(7) + b"{", "not a .safetensors file"),
        "no_json.safetensors": (tensors(b"{nothing of the kind"), "damaged or cut short"),
        "nested.safetensors": (tensors(b'{"a":' * 200_000), "damaged or cut short"),
        "nothing.safetensors": (tensors({}), "contains no array"),
        "two.safetensors": (tensors({"a": good, "b": good}, bytes(32)), "Select one with `key`.*a, b"),
        "outside.safetensors": (tensors({"a": good | {"data_offsets": [0, 32]}}, bytes(8)), "is cut short"),
        "backwards.safetensors": (tensors({"a": good | {"data_offsets": [32, 0]}}, bytes(32)), "not valid numbers"),
        "huge.safetensors": (tensors({"a": good | {"shape": [1 << 62, 8]}}, bytes(32)), "more than the limit"),
        "negative.safetensors": (tensors({"a": good | {"shape": [-1, -8]}}, bytes(32)), "declares the shape"),
        "odd_type.safetensors": (tensors({"a": good | {"dtype": "F8_E4M3"}}, bytes(32)), "is not supported"),
        "malformed.safetensors": (tensors({"a": [1, 2]}, bytes(32)), "malformed"),
        "list.safetensors": (tensors(b"[1]"), "not a file of arrays"),
    }


def damaged(content: bytes) -> bytes:
    """With one byte of the numbers changed."""
    place = content.index(np.float32(17).tobytes())
    return content[:place] + b"\xff" + content[place + 1 :]


def files(folder: Path) -> dict[str, str]:
    """Write them -> file name -> "good", or a pattern of the MediaError."""
    good_files(folder)
    expected = {path.name: "good" for path in folder.iterdir()}
    for name, (content, pattern) in bad_files(folder).items():
        (folder / name).write_bytes(content)
        expected[name] = pattern
    outside = folder.parent / "outside.npy"
    np.save(outside, np.zeros((1, 8)))
    (folder / "link_out.npy").symlink_to(outside)
    (folder / "circle.npy").symlink_to(folder / "circle.npy")
    (folder / "a_folder.npy").mkdir()
    return expected | {
        "link_out.npy": "outside the data root",
        "circle.npy": "cannot be opened",
        "a_folder.npy": "is a folder",
        "missing.npy": "no such file",
        "../outside.npy": "contains `..`",
    }
