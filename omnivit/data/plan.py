"""Which samples each optimizer step of a stage uses: a pure function of (seed, stage, epoch, step)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from omnivit.data import order_v1
from omnivit.data.lengths import Lengths, estimated_tokens
from omnivit.data.mixture import Mixture, epoch_size
from omnivit.data.order import ORDER, Batches, Epoch
from omnivit.data.permutation import Ints
from omnivit.recipe import Stage

ORDERS = (1, ORDER)
"""Versions of the order that a run may have."""


@dataclass(frozen=True)
class StagePlan:
    """The samples of each optimizer step of a stage."""

    mixture: Mixture
    stage: Stage
    seed: int
    medium_tokens: float
    """Approximate number of LLM tokens of one medium, to estimate lengths for grouping."""
    order: int = ORDER
    """The version of the order, one of `ORDERS`: that with which the run was begun."""

    @property
    def steps_per_epoch(self) -> int:
        samples = epoch_size(self.mixture.sizes, self.mixture.weights)
        return max(1, math.ceil(samples / self.stage.batch_size))

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return self.stage.steps or self.stage.epochs * self.steps_per_epoch

    @property
    def samples(self) -> int:
        """Samples that the stage will use, repeats included."""
        per_epoch = epoch_size(self.mixture.sizes, self.mixture.weights)
        epochs, rest = divmod(self.steps, self.steps_per_epoch)  # the last batch of an epoch may be short
        return epochs * per_epoch + rest * self.stage.batch_size

    @property
    def distinct(self) -> int:
        """Different samples that the stage will use."""
        return min(self.samples, len(self.mixture))

    def step_batches(self, start: int) -> Iterator[tuple[int, Ints]]:
        """(epoch, sample indices) of every step from `start` to the end."""
        batches_of = self._batches_of()
        step = start
        while step < self.steps:
            # `skip` is above 0 only in the first epoch: a resumed run begins inside it
            epoch, skip = divmod(step, self.steps_per_epoch)
            batches = batches_of(epoch)
            for number in range(skip, min(len(batches), skip + self.steps - step)):
                yield epoch, batches[number]
                step += 1

    def _batches_of(self) -> Callable[[int], Sequence[Ints]]:
        """Epoch -> its batches."""
        mixture, size, group = self.mixture, self.stage.batch_size, self.stage.group_by_length
        if self.order == 1:
            every = estimated_tokens(*mixture.lengths(), self.medium_tokens)
            return lambda epoch: order_v1.batches(
                order_v1.epoch_order(mixture.sizes, mixture.weights, self.seed, epoch),
                every, size, self.seed, epoch, group,
            )  # fmt: skip
        if self.order != ORDER:
            raise ValueError(f"the order {self.order} is unknown; known are {ORDERS}")
        lengths = partial(Lengths(mixture).estimated, medium_tokens=self.medium_tokens) if group else None
        return lambda epoch: Batches(Epoch(mixture.sizes, mixture.weights, self.seed, epoch), size, lengths)
