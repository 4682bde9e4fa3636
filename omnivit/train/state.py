"""Where a run stands: the stage, the next step, what was skipped. All that exact resume needs besides tensors."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from omnivit.recipe import Stage


@dataclass
class StagePosition:
    """The next step of a stage. Samplers and random generators are pure functions of it and of the run's seed."""

    stage: Stage
    index: int
    """Number of the stage, from 0."""
    total: int
    """Optimizer steps of the stage."""
    samples: int
    """Samples that the stage shows, repeats included."""
    step: int = 0
    """Optimizer steps done before this process started the stage."""
    skipped: list[str] = field(default_factory=list)
    """Reason of every sample that was skipped in this stage."""
    losses: list[float] = field(default_factory=list)
    """Loss of every step that this process took."""

    seconds: float = 0.0
    """Training time of the processes before this one."""
    began: float | None = None
    """When this process began to train the stage; None before."""

    @property
    def elapsed(self) -> float:
        """Seconds that the stage has taken so far, in all processes."""
        return self.seconds + (time.perf_counter() - self.began if self.began is not None else 0.0)

    def record(self, loss: float) -> None:
        self.losses.append(loss)

    def skip(self, reason: str) -> None:
        self.skipped.append(reason)

    def to_json(self, done: int, seed: int) -> dict[str, Any]:
        """The state that a checkpoint after `done` steps carries."""
        return {
            "stage": self.stage.name,
            "stage_index": self.index,
            "step": done,
            "total_steps": self.total,
            "skipped": self.skipped,
            "seconds": self.elapsed,
            # Sampler, loader and random generators are functions of these (see omnivit.data.module, train.module):
            "seed": seed,
            "next_micro_batch": done * self.stage.accumulate,
        }
