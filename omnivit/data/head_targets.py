"""Targets of heads in a loader worker: the target of a sample -> tensors that the head's losses read.

Holds no weights, pickles small.

Shapes: N occurrences of a head's token in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnivit.contracts.head import TargetProcessor
from omnivit.contracts.sample import Target
from omnivit.errors import DataError


@dataclass(frozen=True)
class Numbers:
    """Takes targets that a sample gives as numbers: a box, a point, a pose."""

    name: str
    """Of the tensor, float32 [N, *sizes]."""
    sizes: tuple[int, ...] = ()
    """Of the list, and of lists inside it: (4,) is a list of four numbers, () a number alone."""

    def __call__(self, target: Target) -> dict[str, Tensor]:
        source = target.source.tolist() if hasattr(target.source, "tolist") else target.source
        if not _fits(source, self.sizes):
            raise DataError(f"the target {target} does not fit; expected {_described(self.sizes)}.")
        try:
            values = torch.tensor(source, dtype=torch.float32)
        except OverflowError:
            values = torch.tensor(torch.inf)
        if not bool(values.isfinite().all()):
            raise DataError(f"the target {target} contains a number that is not finite in float32.")
        return {self.name: values}

    def fingerprint(self) -> str:
        return f"numbers:{self.name}:{self.sizes}"


@dataclass(frozen=True)
class HeadPreparer:
    """What is needed of one head to encode samples."""

    token: str
    """The token in the answer at the place of a target."""
    reads_before: bool
    """The head reads the state one place before its token."""
    processor: TargetProcessor

    def fingerprint(self) -> str:
        """Changes whenever the same target would give other tensors, or another place."""
        return f"{self.token}{'<' if self.reads_before else ''}{self.processor.fingerprint()}"


@dataclass(frozen=True)
class Trigger:
    """A head's token in an encoded sample."""

    head: str
    place: int
    """Of the state [D] that the head reads."""
    target: Mapping[str, Tensor]
    """As the head's processor returns it; empty where there is no target yet, as in generation."""


def _fits(value: Any, sizes: tuple[int, ...]) -> bool:
    """Whether a value is lists of numbers, one inside another, of these sizes."""
    if not sizes:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, list | tuple) and len(value) == sizes[0] and all(_fits(item, sizes[1:]) for item in value)


def _described(sizes: tuple[int, ...]) -> str:
    return f"a list of {' x '.join(map(str, sizes))} numbers" if sizes else "a number"
