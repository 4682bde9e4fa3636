"""How much text and how many media each row of an Arrow table has, from its offsets and without reading the values.

N: rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit.data.containers.parquet_file import MEDIUM

Counts = tuple[NDArray[np.int64], NDArray[np.int64]]


def measure(table: Any) -> Counts:
    """Bytes of text [N] and number of media [N] of the rows of a `pyarrow.Table`."""
    text, media = np.zeros(len(table), dtype=np.int64), np.zeros(len(table), dtype=np.int64)
    for column in table.columns:
        more_text, more_media = _measured(column.combine_chunks())
        text += more_text
        media += more_media
    return text, media


def _measured(array: Any) -> Counts:
    """The same of one array, of any type."""
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    kind = array.type
    none = np.zeros(len(array), dtype=np.int64)
    if isinstance(kind, pa.ExtensionType):
        return _measured(array.storage)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return none, _valid(array)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        sizes = _sizes(array)
        return (none, _valid(array)) if len(sizes) and sizes.mean() > MEDIUM else (sizes, none)
    if pa.types.is_struct(kind):
        names = {kind.field(k).name for k in range(kind.num_fields)}
        if "bytes" in names and names <= {"bytes", "path", "sampling_rate"}:  # an image or audio
            return none, _valid(array)
        parts = [_measured(field) for field in array.flatten()]
        return sum((text for text, _ in parts), none), sum((media for _, media in parts), none)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        text, media = _measured(array.flatten())
        counts = np.asarray(array.value_lengths().fill_null(0), dtype=np.int64)
        ends = np.cumsum(counts)
        return _summed(text, counts, ends), _summed(media, counts, ends)
    return none, none


def _summed(values: NDArray[np.int64], counts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of the values of each list."""
    total = np.concatenate([[0], np.cumsum(values)])
    sums: NDArray[np.int64] = total[ends] - total[ends - counts]
    return sums


def _sizes(array: Any) -> NDArray[np.int64]:
    import pyarrow.compute as compute

    return np.asarray(compute.binary_length(array).fill_null(0), dtype=np.int64)


def _valid(array: Any) -> NDArray[np.int64]:
    return np.asarray(array.is_valid(), dtype=np.int64)
