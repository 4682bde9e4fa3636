"""How long a run still takes: what is left of the stage, of later stages and of the evaluation, from measured steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from omnivit.console import duration
from omnivit.data.mixture import Mixture
from omnivit.data.plan import StagePlan
from omnivit.data.sources import open_source
from omnivit.recipe import DataSource, Evaluation, Recipe

RECENT = 30
"""Steps whose mean time is taken for that of the next ones."""
PASS = 1 / 3
"""A forward pass as a share of a training step over the same samples: the backward pass takes about twice as long."""


@dataclass(frozen=True)
class StageWork:
    """What a stage has to do."""

    name: str
    steps: int
    samples: int


@dataclass(frozen=True)
class Work:
    """What a run has to do."""

    stages: tuple[StageWork, ...]
    questions: int
    """Of the evaluation, over all conditions."""
    probed: int
    """Samples that the linear probe encodes."""

    @classmethod
    def of(cls, recipe: Recipe, mixtures: dict[str, Mixture]) -> Work:
        """All of it, from the sizes of the data files."""
        plans = [StagePlan(mixtures[stage.name], stage, recipe.seed, 0.0) for stage in recipe.stages]
        stages = tuple(StageWork(p.stage.name, p.steps, p.samples) for p in plans)
        return cls(stages, *_asked(recipe.evaluation, recipe.data.root))

    def after(self, index: int, sample: float) -> float:
        """Seconds of all that follows a stage, if a sample takes as many to train as it did there.

        A question is reckoned as a sample: one pass over it, and one for each token of a short answer.
        """
        later = sum(stage.samples for stage in self.stages[index + 1 :])
        return sample * (later + self.questions + PASS * self.probed)


class Clock:
    """Times the optimizer steps of a stage: with loading, saving and logging, without validation."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._first: float | None = None
        self._since = time.monotonic()
        self._paused: float | None = None
        self.validation = 0.0
        """Seconds of the last validation."""

    def start(self) -> None:
        """The first step begins."""
        self._since = time.monotonic()

    def step(self) -> None:
        """A step has ended. The first counts only until there is another: it prepares much for all."""
        now = time.monotonic()
        taken, self._since = now - self._since, now
        if self._first is None:
            self._first = taken
        else:
            self._steps.append(taken)

    def pause(self) -> None:
        """Validation begins."""
        self._paused = time.monotonic()

    def resume(self) -> None:
        """Validation has ended."""
        if self._paused is not None:
            self.validation = time.monotonic() - self._paused
            self._since += self.validation
            self._paused = None

    @property
    def seconds(self) -> float:
        """Of a step; 0 before the first has ended."""
        return sum(self._steps) / len(self._steps) if self._steps else self._first or 0.0


def left(clock: Clock, work: Work, index: int, done: int, validations: int = 0) -> str:
    """`about 4 min 10 s left (of the run 12 min)`; empty before the first step has ended.

    Args:
        clock: of the stage that runs.
        work: of the whole run.
        index: number of that stage.
        done: its steps that are done.
        validations: how many it still has.
    """
    stage = work.stages[index]
    if not clock.seconds:
        return ""
    here = clock.seconds * (stage.steps - done) + clock.validation * validations
    after = work.after(index, clock.seconds * stage.steps / max(1, stage.samples))
    of_stage = f"about {duration(here)} left" if done < stage.steps else ""
    if after < 1:
        return of_stage
    return f"{of_stage} (of the run {duration(here + after)})" if of_stage else f"the rest: about {duration(after)}"


def _asked(evaluation: Evaluation | None, root: str) -> tuple[int, int]:
    """Questions over all conditions, and samples of the linear probe."""
    if evaluation is None:
        return 0, 0
    questions = _count(evaluation.data, root)
    probed = _count(evaluation.linear_probe, root) + questions if evaluation.linear_probe else 0
    return questions * len(evaluation.conditions), probed


def _count(sources: Sequence[DataSource], root: str) -> int:
    sizes = [(len(open_source(source, root)), source.limit) for source in sources]
    return sum(size if limit is None else min(size, limit) for size, limit in sizes)
