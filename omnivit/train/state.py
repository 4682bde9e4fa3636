"""Where a run stands: the stage, the next step, what was skipped. All that exact resume needs besides tensors."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from omnivit.recipe import Stage
from omnivit.train.tally import Tally


@dataclass(frozen=True)
class SkippedStep:
    """A step that changed nothing, because its loss or gradient was not finite."""

    step: int
    """Its number in the stage, from 1."""
    what: str
    """Which of the two, with the value of the loss."""
    samples: tuple[str, ...]
    """Names of the samples whose loss was not finite; of all samples of the step, where every loss was."""
    counted: bool = True
    """Against `nan_budget`; False where `16-mixed` tried a scale of the loss that was too large."""


@dataclass(frozen=True)
class Validated:
    """What a validation measured."""

    step: int
    losses: dict[str, float]
    """`validation_loss`, and `validation_loss/HEAD.LOSS` of heads."""

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Validated:
        """The inverse of `dataclasses.asdict`."""
        return Validated(value["step"], dict(value["losses"]))


@dataclass
class StagePosition:
    """The next step of a stage. Samplers and random generators are pure functions of it and of the run's seed."""

    stage: Stage
    index: int
    """Number of the stage, from 0."""
    total: int
    """Optimizer steps of the stage."""
    samples: int
    """Different samples that the stage shows: what `skip_budget` is a share of."""
    step: int = 0
    """Optimizer steps done before this process started the stage."""
    skipped: list[str] = field(default_factory=list)
    """Reason of every sample that was skipped in this stage, on all ranks; each once."""
    not_finite: list[SkippedStep] = field(default_factory=list)
    """In order, of all processes."""
    validated: int = 0
    """The step after which the stage was validated last."""
    validations: list[Validated] = field(default_factory=list)
    """In order, of all processes; rank zero knows them."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """The scale of the loss and its history, with `16-mixed`; else empty."""
    losses: list[float] = field(default_factory=list)
    """Loss of every step that this process took; finite ones only."""
    tally: Tally = field(default_factory=Tally)
    """Where the time went and what each data source gave, in all processes."""

    seconds: float = 0.0
    """Training time of the processes before this one."""
    began: float | None = None
    """When this process began to train the stage; None before."""

    @property
    def elapsed(self) -> float:
        """Seconds that the stage has taken so far, in all processes."""
        return self.seconds + (time.perf_counter() - self.began if self.began is not None else 0.0)

    def record(self, loss: float) -> None:
        if math.isfinite(loss):
            self.losses.append(loss)

    def skip(self, reason: str) -> None:
        """Note a bad sample; one that comes again, in a later epoch, is the same."""
        if reason not in self.skipped:
            self.skipped.append(reason)

    def not_finite_in_a_row(self, step: int) -> int:
        """How many counted steps without a finite loss or gradient end at `step`."""
        return sum(skipped.counted for skipped in self._row(step))

    def last_good(self, step: int) -> int:
        """The last step up to `step` that was not skipped."""
        return step - len(self._row(step))

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Note what the validation after a step has measured."""
        self.validated = step
        self.validations = [past for past in self.validations if past.step != step] + [Validated(step, dict(losses))]

    def _row(self, step: int) -> list[SkippedStep]:
        """The steps that were skipped one after the other, up to `step`; the last comes first."""
        row: list[SkippedStep] = []
        for skipped in reversed(self.not_finite):
            if skipped.step != step - len(row):
                break
            row.append(skipped)
        return row

    def continue_from(self, state: Mapping[str, Any]) -> None:
        """Restore what `to_json` returned."""
        self.step, self.seconds, self.skipped = state["step"], state["seconds"], list(state["skipped"])
        self.validated, self.scaler = state.get("validated", 0), state.get("scaler", {})
        self.validations = [Validated.from_json(entry) for entry in state.get("validations", [])]
        self.tally = Tally.from_json(state.get("tally", {}))
        self.not_finite = [
            SkippedStep(entry["step"], entry["what"], tuple(entry["samples"]), entry["counted"])
            for entry in state.get("not_finite", [])
        ]

    def to_json(self, done: int, seed: int) -> dict[str, Any]:
        """The state that a checkpoint after `done` steps carries."""
        return {
            "stage": self.stage.name,
            "stage_index": self.index,
            "step": done,
            "total_steps": self.total,
            "skipped": self.skipped,
            "not_finite": [asdict(skipped) for skipped in self.not_finite if skipped.step <= done],
            "validated": self.validated,
            "validations": [asdict(past) for past in self.validations],
            "scaler": self.scaler,
            "seconds": self.elapsed,
            "tally": self.tally.to_json(),
            # Sampler, loader and random generators are functions of these (see omnivit.data.module, train.module):
            "seed": seed,
            "next_micro_batch": done * self.stage.accumulate,
        }
