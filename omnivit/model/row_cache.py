"""A cache of keys and values whose rows are requests that come and go; nothing is copied from step to step.

All rows end at the same column, so a step is what transformers' `generate` does with a batch that is padded on the
left: a mask of two dimensions, and a cache that counts the columns from the first that any row needs. A row that joins
is written so that it ends there, too. Tensors grow by doubling, and move only where a prompt is longer than all before
it.

Shapes: R rows that there is memory for, n rows in use, C columns that there is memory for, H heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

COLUMNS = 256
"""Columns of the first allocation, and the least by which it grows."""


@dataclass
class Window:
    """The part of the memory that one call of the model sees."""

    first: int = 0
    """Its first row."""
    count: int = 0
    """Its rows."""
    start: int = 0
    """Its first column."""
    length: int = 0
    """Columns that hold tokens before the call."""


class RowLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """The keys and values of one layer of the model, of all rows."""

    keys: Tensor  # None before the first call
    values: Tensor

    def __init__(self, rows: RowCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = rows

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate [R, H, C, K]. Zeros, because what is masked must be finite."""
        shape = (self.rows.row_room, key_states.shape[1], self.rows.column_room)
        self.device = key_states.device
        self.keys = key_states.new_zeros(*shape, key_states.shape[3])
        self.values = value_states.new_zeros(*shape, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the keys and values of the call's tokens, and return those of all tokens that it sees."""
        del args, kwargs
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self.rows.window
        here = slice(window.first, window.first + window.count)
        end = window.start + window.length
        after = end + key_states.shape[-2]
        self.keys[here, :, end:after] = key_states
        self.values[here, :, end:after] = value_states
        return self.keys[here, :, window.start : after], self.values[here, :, window.start : after]

    def get_seq_length(self) -> int:
        """Columns before the call; the same for all layers of a call."""
        return self.rows.window.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a call of `query_length` tokens sees, and the number of the first one."""
        return self.rows.window.length + query_length, 0


@dataclass
class RowCache:
    """The memory of all layers, and where its rows lie.

    Attributes:
        window: what the next call sees.
        starts: of each row in use, its first column.
        end: the column after the last tokens.
    """

    layers: int
    device: torch.device
    row_room: int = 1
    column_room: int = COLUMNS
    window: Window = field(default_factory=Window)
    starts: list[int] = field(default_factory=list)
    end: int = 0

    def __post_init__(self) -> None:
        self._layers = [RowLayer(self) for _ in range(self.layers)]
        self.cache = Cache(layers=list(self._layers))
        self.mask = torch.zeros(self.row_room, self.column_room, dtype=torch.long, device=self.device)

    @property
    def first(self) -> int:
        """The first column that a row needs."""
        return min(self.starts, default=self.end)

    def open(self, rows: int, columns: int) -> None:
        """Make room for new rows of prompts, and let the next call write them: columns up to `end`."""
        used = len(self.starts)
        if not used:
            self.end = columns
        self._reserve(used + rows, max(self.end, columns) + 1)
        if columns > self.end:
            self._shift(columns - self.end)
        start = self.end - columns
        if used:
            # What masked columns hold must be finite, since zero times infinity is no number.
            first = min(self.first, start)
            for tensor in self._tensors():
                tensor[:used, :, first : self.first] = 0
                tensor[used : used + rows, :, first:start] = 0
            self.mask[:used, first : self.first] = 0
            self.mask[used : used + rows, first:start] = 0
        self.window = Window(used, rows, start, 0)

    def add(self, mask: Tensor) -> None:
        """The rows that were opened are in use: their mask [B, T]."""
        rows, columns = mask.shape
        start = self.end - columns
        self.mask[len(self.starts) : len(self.starts) + rows, start : self.end] = mask.long()
        self.starts += [start + int(padding) for padding in (~mask).sum(dim=1).tolist()]

    def advance(self) -> Tensor:
        """Let the next call write one more token of every row; returns its mask [n, columns that it sees]."""
        if self.end == self.column_room:
            if self.first >= self.column_room // 2:
                self._shift(-self.first)
            else:
                self._reserve(len(self.starts), self.end + 1)
        used, first = len(self.starts), self.first
        self.window = Window(0, used, first, self.end - first)
        self.mask[:used, self.end] = 1
        self.end += 1
        return self.mask[:used, first : self.end]

    def remove(self, row: int) -> None:
        """Free a row; the last row takes its place."""
        last = len(self.starts) - 1
        if row != last:
            columns = slice(self.first, self.end)
            for tensor in self._tensors():
                tensor[row, :, columns] = tensor[last, :, columns]
            self.mask[row] = self.mask[last]
            self.starts[row] = self.starts[last]
        self.starts.pop()

    def _tensors(self) -> list[Tensor]:
        layers = [layer for layer in self._layers if layer.is_initialized]
        return [tensor for layer in layers for tensor in (layer.keys, layer.values)]

    def _shift(self, columns: int) -> None:
        """Move all rows to the right (to the left where it is negative)."""
        used, first, end = len(self.starts), self.first, self.end
        before, after = slice(first, end), slice(first + columns, end + columns)
        for tensor in self._tensors():
            tensor[:used, :, after] = tensor[:used, :, before].clone()  # the two overlap
        mask = self.mask[:used, before].clone()
        self.mask[:used] = 0
        self.mask[:used, after] = mask
        self.starts = [start + columns for start in self.starts]
        self.end += columns

    def _reserve(self, rows: int, columns: int) -> None:
        """Have memory for this many rows and columns, doubled where it is not enough."""
        if rows <= self.row_room and columns <= self.column_room:
            return
        while self.row_room < rows:
            self.row_room *= 2
        while self.column_room < columns:
            self.column_room *= 2
        used = len(self.starts)
        for layer in self._layers:
            if layer.is_initialized:
                layer.keys, layer.values = self._grown(layer.keys, used), self._grown(layer.values, used)
        mask = self.mask.new_zeros(self.row_room, self.column_room)
        mask[: self.mask.shape[0], : self.mask.shape[1]] = self.mask
        self.mask = mask

    def _grown(self, tensor: Tensor, used: int) -> Tensor:
        grown = tensor.new_zeros(self.row_room, tensor.shape[1], self.column_room, tensor.shape[3])
        grown[:used, :, : tensor.shape[2]] = tensor[:used]
        return grown
