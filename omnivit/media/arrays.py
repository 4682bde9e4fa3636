"""Arrays of numbers: `.npy`, `.npz` and `.safetensors` files, CSV tables, and arrays in memory.

The format is detected by content, not by name. Headers are read first, because they contain the shapes: a file that
declares more than it contains, or more than `MAX_ARRAY_BYTES`, is refused before memory is allocated. Nothing is
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
from omnivit.media.advice import download_again
from omnivit.media.locate import opened
from omnivit.media.source import first_line, reading

MAX_ARRAY_BYTES = 512_000_000
"""Most bytes of one array; a larger array is refused by its header."""
MAX_HEADER_BYTES = 4_000_000
"""Most bytes of the header of a .safetensors file, enough for tens of thousands of names."""
MAX_MEMBERS = 10_000
"""Most arrays in one .npz file."""
MAX_TABLE_BYTES = 64_000_000
"""Most bytes of a CSV table."""

Check = Callable[[tuple[int, ...]], None]

_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
"""Number formats of safetensors -> numpy; bfloat16, which numpy lacks, is read as the upper half of a float32."""


@dataclass(frozen=True)
class Stored:
    """An array in a file, as its header declares it."""

    key: str
    """Its name in the file; empty for a file of one array without a name (.npy)."""
    dtype: str
    """The number format as the file names it: `float32`, `F16`, ..."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Entry:
    """Where the numbers of an array are stored."""

    stored: Stored
    dtype: np.dtype[Any]
    start: int
    """Offset of the first byte, in the member or in the file."""
    member: str | None = None
    """Name of the archive member; None for a file that is not an archive."""
    fortran: bool = False
    """Fortran order: the first index changes fastest."""


def list_arrays(media: Media) -> list[Stored]:
    """List the arrays in a file; reads only headers.

    Raises:
        MediaError: the file cannot be opened or read, or is not .npy, .npz or .safetensors.
    """
    array = _in_memory(media)
    if array is not None:
        return [Stored("", str(array.dtype), array.shape)]
    with _stream(media) as (file, name, size):
        return [entry.stored for entry in _entries(file, name, size).values()]


def read_array(media: Media, key: str | None = None, check: Check | None = None) -> NDArray[Any]:
    """Read one array of real numbers (bool, integer or floating point, as stored; bfloat16 as float32).

    Args:
        media: a file, its bytes, a numpy array, or a tensor.
        key: name of the array in a .npz or .safetensors file; optional if the file contains one array.
        check: called with the shape of the array before its numbers are read; raises MediaError to reject it.

    Raises:
        MediaError: the file cannot be opened or read, is not a file of arrays, is damaged or cut short, contains
            objects or text, is larger than `MAX_ARRAY_BYTES`, contains no array `key`, or contains several arrays while
            `key` is None.
    """
    check = check or (lambda _: None)
    array = _in_memory(media)
    if array is not None:
        check(array.shape)
        return array
    with _stream(media) as (file, name, size):
        entry = _chosen(_entries(file, name, size), key, name)
        check(entry.stored.shape)
        return _numbers(file, entry, name)


def read_table(media: Media) -> NDArray[np.float32]:
    """Read a table of numbers, [rows, columns]: CSV separated by commas, semicolons, tabs or spaces.

    A first line that is not numeric is skipped as a header; empty lines are skipped too.

    Raises:
        MediaError: the file cannot be opened or read, a field is not a number (the message names the line), or lines
            have different numbers of fields.
    """
    with _stream(media) as (file, name, size):
        if size > MAX_TABLE_BYTES:
            raise MediaError(
                f"{name}: the table has {size:,} bytes, more than the limit of {MAX_TABLE_BYTES:,} "
                f"(omnivit.media.arrays.MAX_TABLE_BYTES). Save it as .npy, or split it."
            )
        try:
            lines = file.read().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise MediaError(
                f"{name}: is neither a file of arrays nor a table in UTF-8 text ({error.reason}). Save the numbers as "
                f".npy or CSV."
            ) from error
    rows = list(_table_rows(lines, name))
    if not rows:
        raise MediaError(f"{name}: contains no line of numbers. {download_again()}")
    return np.array(rows, dtype=np.float32)


def holds_array(media: Media) -> bool:
    """Whether the medium is an array in memory, or a file that begins like a file of arrays.

    Raises:
        MediaError: the file cannot be opened or read.
    """
    if isinstance(media.source, np.ndarray) or hasattr(media.source, "detach"):
        return True
    if not isinstance(media.source, (str, bytes, os.PathLike)):
        return False
    with _stream(media) as (file, _, _):
        head = file.read(9)
    return head.startswith((_NPY, _ZIP)) or head[8:9] == b"{"


def is_table(media: Media) -> bool:
    """Whether a file is named like a table (.csv, .tsv, .txt)."""
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
            raise MediaError(
                f"{name}, line {number}: {error}. A table must contain only numbers. Correct the line."
            ) from error
        head = False
        if width and len(row) != width:
            raise MediaError(
                f"{name}, line {number}: the line has {len(row)} fields, but the lines before have {width}. Correct "
                f"the line."
            )
        width = len(row)
        yield row


def _in_memory(media: Media) -> NDArray[Any] | None:
    """The array that a Python caller passed; None if the medium is a file or its bytes."""
    source = media.source
    if hasattr(source, "detach"):  # a tensor, without importing torch
        source = source.detach().cpu()
        source = (source.float() if str(source.dtype) == "torch.bfloat16" else source).numpy()
    if not isinstance(source, np.ndarray):
        return None
    _check_dtype(source.dtype, str(media))
    return source


@contextmanager
def _stream(media: Media) -> Iterator[tuple[IO[bytes], str, int]]:
    """The content as a stream, the name of the medium, and its size in bytes."""
    with opened(media) as source, reading(source.name), source.open() as file:
        yield file, source.name, source.size


def _entries(file: IO[bytes], name: str, size: int) -> Mapping[str, _Entry]:
    head = file.read(9)
    file.seek(0)
    try:
        entries = _entries_after(head, file, name, size)
    except MediaError:
        raise
    except Exception as error:  # numpy evaluates headers as Python literals, so damage raises any type of exception
        raise MediaError(
            f"{name}: its header is damaged or cut short ({type(error).__name__}: {first_line(error)}). "
            f"{download_again()}"
        ) from error
    if not entries:
        raise MediaError(f"{name}: contains no array. {download_again()}")
    return entries


def _entries_after(head: bytes, file: IO[bytes], name: str, size: int) -> Mapping[str, _Entry]:
    if head.startswith(_NPY):
        return {"": _npy(file, name, size)}
    if head.startswith(_ZIP):
        return _npz(file, name)
    if head[8:9] == b"{":
        return _safetensors(file, name, size)
    raise MediaError(
        f"{name}: is not a file of arrays. Available: .npy, .npz, .safetensors. Save it with numpy.save(), for example."
    )


def _npy(file: IO[bytes], name: str, size: int, key: str = "", member: str | None = None) -> _Entry:
    """Read the header of an .npy stream of `size` bytes, which is a file or a member of an archive."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise MediaError(
            f"{name}: has .npy version {version}, which only structured arrays need. Save an array of plain numbers."
        )
    _check_dtype(dtype, name)
    _check_size(shape, dtype, name, size - file.tell())
    return _Entry(Stored(key, str(dtype), shape), dtype, file.tell(), member, fortran)


def _npz(file: IO[bytes], name: str) -> dict[str, _Entry]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise MediaError(
                f"{name}: contains {len(members):,} arrays, more than the limit of {MAX_MEMBERS:,} "
                f"(omnivit.media.arrays.MAX_MEMBERS). Split it."
            )
        entries = {}
        for member in members:
            with archive.open(member) as stream:
                if not member.filename.endswith(".npy"):
                    raise MediaError(
                        f"{name}: is an archive that contains {member.filename[:80]!r}, which is not an array. Save "
                        f"the arrays with numpy.savez()."
                    )
                key = member.filename.removesuffix(".npy")
                entries[key] = _npy(stream, f"{name}, array {key[:80]!r}", member.file_size, key, member.filename)
    return entries


def _safetensors(file: IO[bytes], name: str, size: int) -> dict[str, _Entry]:
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES or 8 + length > size:
        raise MediaError(
            f"{name}: declares a header of {length:,} bytes, so it is damaged or not a .safetensors file. "
            f"{download_again()}"
        )
    header = json.loads(file.read(length))
    entries = {}
    for key, tensor in header.items():
        if key == "__metadata__":
            continue
        entries[key] = _tensor(key, tensor, f"{name}, tensor {key[:80]!r}", 8 + length, size)
    return entries


def _tensor(key: str, tensor: Any, name: str, data: int, size: int) -> _Entry:
    """Check one entry of a safetensors header. `data` is the offset where the numbers of all tensors begin."""
    try:
        kind, shape, (start, end) = tensor["dtype"], tuple(tensor["shape"]), tensor["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise MediaError(f"{name}: its entry in the header is malformed. {download_again('the file')}") from error
    if kind not in _DTYPES:
        raise MediaError(f"{name}: the number format {kind!r} is not supported. {suggest(str(kind), _DTYPES)}")
    if not all(type(value) is int for value in (*shape, start, end)) or not 0 <= start <= end:
        raise MediaError(f"{name}: its sizes in the header are not valid numbers. {download_again('the file')}")
    dtype = np.dtype(_DTYPES[kind])
    _check_size(shape, dtype, name, min(end, size - data) - start)
    return _Entry(Stored(key, kind, shape), dtype, data + start)


def _check_dtype(dtype: np.dtype[Any], name: str) -> None:
    if dtype.hasobject:
        raise MediaError(f"{name}: contains pickled Python objects, which are never loaded. Save plain numbers.")
    if dtype.kind not in "fiub":
        raise MediaError(f"{name}: contains {dtype}, which is not a type of real numbers. Save plain numbers.")


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], name: str, present: int) -> None:
    """Raises MediaError for an array that is too large, or not of the size that is present in the file."""
    if any(side < 0 for side in shape) or len(shape) > 32:
        raise MediaError(f"{name}: is damaged: it declares the shape {list(shape)[:8]}. {download_again()}")
    declared = math.prod(shape) * dtype.itemsize
    if declared > MAX_ARRAY_BYTES:
        raise MediaError(
            f"{name}: declares the shape {list(shape)}, {declared:,} bytes, more than the limit of "
            f"{MAX_ARRAY_BYTES:,} (omnivit.media.arrays.MAX_ARRAY_BYTES). Split it first."
        )
    if present != declared:
        problem = "is cut short" if present < declared else "contains more than one array"
        raise MediaError(
            f"{name}: {problem}: its shape {list(shape)} takes {declared:,} bytes, but the file contains "
            f"{max(0, present):,}. {download_again(alternative='save it again')}"
        )


def _chosen(entries: Mapping[str, _Entry], key: str | None, name: str) -> _Entry:
    if key is not None and "" not in entries:
        if key not in entries:
            raise MediaError(f"{name}: contains no array {key!r}; {suggest(key, list(entries)[:20])}")
        return entries[key]
    if len(entries) > 1:
        raise MediaError(
            f"{name}: contains {len(entries)} arrays. Select one with `key`. {suggest('', list(entries)[:20])}"
        )
    return next(iter(entries.values()))


def _numbers(file: IO[bytes], entry: _Entry, name: str) -> NDArray[Any]:
    """Read the numbers of an entry."""
    shape = entry.stored.shape
    size = math.prod(shape) * entry.dtype.itemsize
    try:
        content = _content(file, entry, size)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise MediaError(f"{name}: is damaged ({first_line(error)}). {download_again()}") from error
    if len(content) != size:
        raise MediaError(
            f"{name}: is cut short: it contains {len(content):,} of {size:,} bytes of numbers. {download_again()}"
        )
    flat = np.frombuffer(content, entry.dtype)
    if entry.stored.dtype == "BF16":
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return flat.reshape(shape[::-1]).T if entry.fortran else flat.reshape(shape)


def _content(file: IO[bytes], entry: _Entry, size: int) -> bytes:
    """The `size` bytes of an entry, fewer if the file ends before."""
    if entry.member is None:
        file.seek(entry.start)
        return file.read(size)
    with zipfile.ZipFile(file) as archive, archive.open(entry.member) as stream:
        stream.read(entry.start)  # skip the .npy header of the member
        return stream.read(size)
