"""What the processes of a run tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def gathered(values: Sequence[T], world: int) -> list[T]:
    """The values of all ranks, rank by rank. Every rank has to call it at the same point.

    Args:
        values: of this rank; they are pickled.
        world: number of ranks; with one nothing is sent.
    """
    if world == 1:
        return list(values)
    found: list[Sequence[T]] = [()] * world
    distributed.all_gather_object(found, list(values))
    return list(chain.from_iterable(found))
