"""Arrays of numbers: `.npy`, `.npz` and `.safetensors` files, CSV tables, and arrays in memory.

What a file is, its content says, not its name. Headers are read first: their shapes say how much will be read, and a
file that declares more than it holds, or more than `MAX_BYTES`, is refused before anything is allocated. Nothing is
unpickled.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError, suggest
from omnivit.media.locate import opened
from omnivit.media.source import reading

MAX_BYTES = 512_000_000
"""A larger array is refused by its header alone."""
MAX_HEADER = 4_000_000
"""Bytes of the header of a .safetensors file: tens of thousands of names."""
MAX_MEMBERS = 10_000
"""Arrays in one .npz file."""
MAX_TABLE = 64_000_000
"""Bytes of a CSV table."""

Check = Callable[[tuple[int, ...]], None]

_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
"""Number formats of safetensors; bfloat16, which numpy lacks, is read as the upper half of a float32."""


@dataclass(frozen=True)
class Stored:
    """An array in a file, as its header tells."""

    key: str
    """Its name in the file; empty where the file holds one without a name (.npy)."""
    dtype: str
    """In the words of the file: `float32`, `F16`, ..."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Entry:
    """Where an array's numbers are."""

    stored: Stored
    dtype: np.dtype[Any]
    start: int
    """Byte where they begin,"""
    member: str | None = None
    """of this member of an archive, else of the file."""
    fortran: bool = False
    """The first index runs fastest."""


def list_arrays(media: Media) -> list[Stored]:
    """The arrays that a file holds, by their headers alone.

    Raises:
        MediaError: the file must not or cannot be read, or is none of .npy, .npz and .safetensors.
    """
    array = _in_memory(media)
    if array is not None:
        return [Stored("", str(array.dtype), array.shape)]
    with _opened(media) as (file, name, size):
        return [entry.stored for entry in _entries(file, name, size).values()]


def read_array(media: Media, key: str | None = None, check: Check | None = None) -> NDArray[Any]:
    """Read one array of real numbers (bool, integer or floating point, as stored; bfloat16 as float32).

    Args:
        media: a file, its bytes, a numpy array, or a tensor.
        key: which array of a file that names its arrays (.npz, .safetensors); may be left out where there is one.
        check: called with the array's shape before its numbers are read; raises MediaError for one that is unwanted.

    Raises:
        MediaError: the file must not or cannot be read, is no such file, is damaged or cut short, holds objects or
            text, is larger than `MAX_BYTES`, or holds several arrays and none or another is named by `key`.
    """
    check = check or (lambda _: None)
    array = _in_memory(media)
    if array is not None:
        check(array.shape)
        return array
    with _opened(media) as (file, name, size):
        entry = _chosen(_entries(file, name, size), key, name)
        check(entry.stored.shape)
        return _numbers(file, entry, name)


def read_table(media: Media) -> NDArray[np.float32]:
    """Read a table of numbers, [rows, columns]: CSV with commas, semicolons, tabs or blanks.

    A first line that is no numbers is a head and left out; so are empty lines.

    Raises:
        MediaError: the file must not or cannot be read, a field is no number (names the line), or lines differ in
            their number of fields.
    """
    with _opened(media) as (file, name, size):
        if size > MAX_TABLE:
            raise MediaError(
                f"{name}: {size:,} bytes of text, more than the limit of {MAX_TABLE:,} "
                f"(omnivit.media.arrays.MAX_TABLE). Save it as .npy, or cut it."
            )
        try:
            lines = file.read().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise MediaError(f"{name}: is neither a file of arrays nor a table in text ({error.reason}).") from error
    rows = list(_table_rows(lines, name))
    if not rows:
        raise MediaError(f"{name}: holds no line of numbers. Fetch it again, or take the sample out.")
    return np.array(rows, dtype=np.float32)


def holds_array(media: Media) -> bool:
    """Whether the medium is an array in memory, or its content begins as a file of arrays does.

    Raises:
        MediaError: the file must not or cannot be read.
    """
    if isinstance(media.source, np.ndarray) or hasattr(media.source, "detach"):
        return True
    if not isinstance(media.source, (str, bytes, os.PathLike)):
        return False
    with _opened(media) as (file, _, _):
        head = file.read(9)
    return head.startswith((_NPY, _ZIP)) or head[8:9] == b"{"


def is_table(media: Media) -> bool:
    """Whether a file has the name of a table (.csv, .tsv, .txt)."""
    source = media.source
    return isinstance(source, (str, os.PathLike)) and str(source).lower().endswith((".csv", ".tsv", ".txt"))


def _table_rows(lines: Sequence[str], name: str) -> Iterator[list[float]]:
    width, head = 0, True
    for number, line in enumerate(lines, start=1):
        fields = line.replace(",", " ").replace(";", " ").split()
        if not fields:
            continue
        try:
            row = [float(field) for field in fields]
        except ValueError as error:
            if head:
                head = False
                continue
            raise MediaError(f"{name}, line {number}: {error}. A table holds numbers alone.") from error
        head = False
        if width and len(row) != width:
            raise MediaError(f"{name}, line {number}: {len(row)} fields, where the lines before have {width}.")
        width = len(row)
        yield row


def _in_memory(media: Media) -> NDArray[Any] | None:
    """The array that a Python caller passed; None where the medium is a file or its bytes."""
    source = media.source
    if hasattr(source, "detach"):  # a tensor, without importing torch
        source = source.detach().cpu()
        source = (source.float() if str(source.dtype) == "torch.bfloat16" else source).numpy()
    if not isinstance(source, np.ndarray):
        return None
    _check_dtype(source.dtype, str(media))
    return source


@contextmanager
def _opened(media: Media) -> Iterator[tuple[IO[bytes], str, int]]:
    """The content as a stream, the medium's name, and the number of bytes."""
    with opened(media) as source, reading(source.name), source.open() as file:
        yield file, source.name, source.size


def _entries(file: IO[bytes], name: str, size: int) -> Mapping[str, _Entry]:
    head = file.read(9)
    file.seek(0)
    try:
        entries = _entries_after(head, file, name, size)
    except MediaError:
        raise
    except Exception as error:  # numpy parses headers as Python, which fails in as many ways as there is damage
        raise MediaError(
            f"{name}: its header is damaged or cut short ({type(error).__name__}: {_short(error)}). Fetch it again, "
            f"or take the sample out."
        ) from error
    if not entries:
        raise MediaError(f"{name}: holds no array. Fetch it again, or take the sample out.")
    return entries


def _entries_after(head: bytes, file: IO[bytes], name: str, size: int) -> Mapping[str, _Entry]:
    if head.startswith(_NPY):
        return {"": _npy(file, name, size)}
    if head.startswith(_ZIP):
        return _npz(file, name)
    if head[8:9] == b"{":
        return _safetensors(file, name, size)
    raise MediaError(
        f"{name}: is no file of arrays. Available: .npy, .npz, .safetensors. Save it with numpy.save(), for one."
    )


def _npy(file: IO[bytes], name: str, size: int, key: str = "", member: str | None = None) -> _Entry:
    """Read the header of an .npy stream of `size` bytes, a file or a member of an archive."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise MediaError(
            f"{name}: is of .npy version {version}, which only arrays of records need. Save plain numbers."
        )
    _check_dtype(dtype, name)
    _check_size(shape, dtype, name, size - file.tell())
    return _Entry(Stored(key, str(dtype), shape), dtype, file.tell(), member, fortran)


def _npz(file: IO[bytes], name: str) -> dict[str, _Entry]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise MediaError(f"{name}: holds {len(members)} members, more than {MAX_MEMBERS}. Split it.")
        entries = {}
        for member in members:
            with archive.open(member) as stream:
                if not member.filename.endswith(".npy"):
                    raise MediaError(f"{name}: is an archive that holds {member.filename[:80]!r}, not arrays alone.")
                key = member.filename.removesuffix(".npy")
                entries[key] = _npy(stream, f"{name}, array {key[:80]!r}", member.file_size, key, member.filename)
    return entries


def _safetensors(file: IO[bytes], name: str, size: int) -> dict[str, _Entry]:
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER or 8 + length > size:
        raise MediaError(f"{name}: its header declares {length:,} bytes of names; it is damaged or no .safetensors.")
    header = json.loads(file.read(length))
    entries = {}
    for key, tensor in header.items():
        if key == "__metadata__":
            continue
        entries[key] = _tensor(key, tensor, f"{name}, tensor {key[:80]!r}", 8 + length, size)
    return entries


def _tensor(key: str, tensor: Any, name: str, data: int, size: int) -> _Entry:
    """One entry of a safetensors header, checked. `data`: byte where the numbers of all tensors begin."""
    try:
        kind, shape, (start, end) = tensor["dtype"], tuple(tensor["shape"]), tensor["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise MediaError(f"{name}: its entry in the header is malformed. Fetch the file again.") from error
    if kind not in _DTYPES:
        raise MediaError(f"{name}: holds {kind!r}, which is not read. {suggest(str(kind), _DTYPES)}")
    if not all(type(value) is int for value in (*shape, start, end)) or not 0 <= start <= end:
        raise MediaError(f"{name}: its sizes in the header are no numbers. Fetch the file again.")
    dtype = np.dtype(_DTYPES[kind])
    _check_size(shape, dtype, name, min(end, size - data) - start)
    return _Entry(Stored(key, kind, shape), dtype, data + start)


def _check_dtype(dtype: np.dtype[Any], name: str) -> None:
    if dtype.hasobject:
        raise MediaError(f"{name}: holds pickled Python objects, which are never loaded. Save plain numbers.")
    if dtype.kind not in "fiub":
        raise MediaError(f"{name}: holds {dtype}, not real numbers. Save plain numbers.")


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], name: str, held: int) -> None:
    """Refuse what is too large, and what the file does not hold."""
    if any(side < 0 for side in shape) or len(shape) > 32:
        raise MediaError(f"{name}: declares the shape {list(shape)[:8]}. It is damaged: fetch it again.")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > MAX_BYTES:
        raise MediaError(
            f"{name}: declares the shape {list(shape)}, {wanted:,} bytes, more than the limit of {MAX_BYTES:,} "
            f"(omnivit.media.arrays.MAX_BYTES). Cut it first."
        )
    if held != wanted:
        what = "is cut short" if held < wanted else "holds more than one array"
        raise MediaError(
            f"{name}: {what}: its shape {list(shape)} takes {wanted:,} bytes, but {max(0, held):,} are there. Fetch it "
            f"again, or save it anew."
        )


def _chosen(entries: Mapping[str, _Entry], key: str | None, name: str) -> _Entry:
    if key is not None and "" not in entries:
        if key not in entries:
            raise MediaError(f"{name}: holds no array {key!r}; {suggest(key, list(entries)[:20])}")
        return entries[key]
    if len(entries) > 1:
        raise MediaError(
            f"{name}: holds {len(entries)} arrays. Say which with `key`. {suggest('', list(entries)[:20])}"
        )
    return next(iter(entries.values()))


def _numbers(file: IO[bytes], entry: _Entry, name: str) -> NDArray[Any]:
    """Read the numbers of an entry."""
    shape = entry.stored.shape
    wanted = math.prod(shape) * entry.dtype.itemsize
    try:
        content = _content(file, entry, wanted)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise MediaError(f"{name}: is damaged ({_short(error)}). Fetch it again, or take the sample out.") from error
    if len(content) != wanted:
        raise MediaError(f"{name}: is cut short: {len(content):,} of {wanted:,} bytes. Fetch it again.")
    flat = np.frombuffer(content, entry.dtype)
    if entry.stored.dtype == "BF16":
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return flat.reshape(shape[::-1]).T if entry.fortran else flat.reshape(shape)


def _content(file: IO[bytes], entry: _Entry, wanted: int) -> bytes:
    if entry.member is None:
        file.seek(entry.start)
        return file.read(wanted)
    with zipfile.ZipFile(file) as archive, archive.open(entry.member) as stream:
        stream.read(entry.start)
        return stream.read(wanted)


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no more is known"])[0][:200]
