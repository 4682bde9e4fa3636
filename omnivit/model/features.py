"""What encoders return and adapters take: rows of features for each medium of a batch.

Shapes: M media over the whole batch, S rows a medium (padded), D feature width, k grid coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Rows of features; a row counts only where `mask` is True."""

    values: Tensor
    """[M, S, D] floating point."""
    mask: Tensor
    """[M, S] bool."""
    grid: Tensor | None = None
    """[M, S, k] integer coordinates ((t,) y, x) of each row, for pooling and positions; None: rows have no place."""

    def with_values(self, values: Tensor) -> Features:
        """The same rows at the same places with other values ([M, S, D'])."""
        return replace(self, values=values)

    def lengths(self) -> Tensor:
        """[M] number of real rows of each medium."""
        return self.mask.sum(dim=1)
