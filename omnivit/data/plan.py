"""Which samples each optimizer step of a stage uses: a pure function of (seed, stage, epoch, step)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnivit.data.mixture import Mixture, batches, epoch_order, epoch_size
from omnivit.recipe import Stage


@dataclass(frozen=True)
class StagePlan:
    """The samples of each optimizer step of a stage."""

    mixture: Mixture
    stage: Stage
    seed: int
    medium_tokens: float
    """Approximate number of LLM tokens of one medium, to estimate lengths for grouping."""

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

    def step_batches(self, start: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """(epoch, sample indices) of every step from `start` to the end."""
        lengths = self.mixture.estimated_lengths(self.medium_tokens)
        step = start
        while step < self.steps:
            # `skip` is above 0 only in the first epoch: a resumed run begins inside it
            epoch, skip = divmod(step, self.steps_per_epoch)
            order = epoch_order(self.mixture.sizes, self.mixture.weights, self.seed, epoch)
            planned = batches(order, lengths, self.stage.batch_size, self.seed, epoch, self.stage.group_by_length)
            for indices in planned[skip : skip + self.steps - step]:
                yield epoch, indices
                step += 1
