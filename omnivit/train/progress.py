"""What a stage shows while it trains: step, loss, learning rate, speed, time left, and whether it waits for data."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from omnivit.console import Display, duration, joined
from omnivit.data.module import MicroBatch
from omnivit.train.forecast import Clock, Work, left
from omnivit.train.module import StageModule
from omnivit.train.tally import Tally

AVERAGED = 20
"""Steps over which loss and speed are averaged."""
WAIT_SHARE, WAIT_SECONDS, WAIT_STEPS = 0.5, 10.0, 5
"""Waiting for data is reported if it takes at least this share of the time, after this many seconds and steps."""


class StageProgress(Callback):
    """Shows a stage's progress, as a bar or as lines; rank zero only.

    Args:
        work: of the whole run.
        show: whether to show anything; times are taken in any case.
        display: makes the display, from label and number of steps.

    Attributes:
        clock: times of the steps.
    """

    def __init__(self, work: Work, show: bool = True, display: Callable[[str, int], Display] = Display) -> None:
        self.work, self.clock, self.waiting = work, Clock(), Waiting(Tally())
        self._make = display if show else None
        self._display: Display | None = None
        self._speeds: deque[float] = deque(maxlen=AVERAGED)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        position = pl_module.position
        position.tally.devices, position.tally.kind = trainer.world_size, trainer.strategy.root_device.type
        self.waiting = Waiting(position.tally)
        if self._make is not None and trainer.is_global_zero:
            self._display = self._make(position.stage.name, position.total)
        self.clock.start()
        self.waiting.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        del trainer, pl_module, batch_idx
        assert isinstance(batch, MicroBatch)
        self.waiting.loaded(batch.loading, batch.slowest)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del outputs, batch
        assert isinstance(pl_module, StageModule)
        self.waiting.computed()
        if (batch_idx + 1) % pl_module.position.stage.accumulate == 0:
            self.clock.step()
            self._speeds.append(_metric(trainer, "tokens_per_second"))
            self._show(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self.clock.pause()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        del outputs, batch, dataloader_idx
        assert isinstance(pl_module, StageModule)
        if self._display is not None:
            count = f"{batch_idx + 1}/{sum(map(int, trainer.num_val_batches))}"
            self._display.meanwhile(_done(trainer, pl_module), f"validating: batch {count}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        self.clock.resume()
        self.waiting.computed()  # validation is no waiting
        if self._display is not None and not math.isnan(loss := _metric(trainer, "validation_loss")):
            position, done = pl_module.position, _done(trainer, pl_module)
            self._display.note(f"{position.stage.name}: step {done}/{position.total}  validation loss {loss:.3f}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The terminal is as it was before anything else is printed, whatever ends the stage."""
        del trainer, pl_module, exception
        self._stop()

    def _stop(self) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def _show(self, trainer: Trainer, module: StageModule) -> None:
        if self._display is None:
            return
        position, done = module.position, _done(trainer, module)
        recent = [loss for loss in position.losses[-AVERAGED:] if math.isfinite(loss)]
        speeds = [speed for speed in self._speeds if math.isfinite(speed)]
        every = position.stage.validation.every if position.stage.validation else 0
        validations = (position.total - done) // every if every else int(position.stage.validation is not None)
        self._display.show(
            done,
            joined(
                (
                    f"loss {sum(recent) / len(recent):.3f}" if recent else "",
                    f"lr {_lr(trainer):.1e}",
                    f"{sum(speeds) / len(speeds):,.0f} tokens/s" if speeds else "",
                    f"waiting for data {share:.0%}" if (share := self.waiting.share) is not None else "",
                    left(self.clock, self.work, position.index, done, validations),
                )
            ),
        )
        if verdict := self.waiting.verdict():
            self._display.note(f"{position.stage.name}: {verdict} (`data.workers` is {module.data.workers})")


class Waiting:
    """The share of the time in which the model waits for data, and which media take how long to read and prepare.

    Args:
        tally: of the stage; the times are added to it.
    """

    def __init__(self, tally: Tally) -> None:
        self.tally, self.steps = tally, 0
        self._waited = self._worked = 0.0
        self._since = time.monotonic()
        self._said = False

    def start(self) -> None:
        """The stage begins. What the first batch takes is not counted: workers start then."""
        self._since = time.monotonic()

    @property
    def share(self) -> float | None:
        """The share of the time of this process in which it waited for data; None before the second batch."""
        seconds = self._waited + self._worked
        return self._waited / seconds if seconds else None

    def loaded(self, media: Mapping[str, tuple[int, float]], slowest: Sequence[tuple[float, str, str]] = ()) -> None:
        """A batch has come, with its media by slot: how many, and the seconds that they took."""
        now = time.monotonic()
        if self.steps:
            self._waited += now - self._since
            self.tally.waited += now - self._since
        self._since = now
        self.tally.loaded(media, slowest)

    def computed(self) -> None:
        """The model has done with a batch, or with something else that is no waiting."""
        now = time.monotonic()
        if self.steps:
            self._worked += now - self._since
            self.tally.worked += now - self._since
        self._since = now
        self.steps += 1

    def verdict(self) -> str:
        """`waiting for data 62% of the time; the slowest: video, 0.8 s each`, once; else empty."""
        elapsed = self._waited + self._worked
        if self._said or self.steps <= WAIT_STEPS or elapsed < WAIT_SECONDS or self._waited < WAIT_SHARE * elapsed:
            return ""
        self._said = True
        share = f"waiting for data {self._waited / elapsed:.0%} of the time"
        each = {slot: seconds / count for slot, (count, seconds) in self.tally.media.items() if count}
        if not each:
            return share
        slowest = max(each, key=lambda slot: self.tally.media[slot][1])
        return f"{share}; the slowest: {slowest}, {_short(each[slowest])} each"


def _short(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"


def _done(trainer: Trainer, module: StageModule) -> int:
    return module.position.step + trainer.global_step


def _metric(trainer: Trainer, name: str) -> float:
    return float(trainer.callback_metrics.get(name, math.nan))


def _lr(trainer: Trainer) -> float:
    """The highest learning rate of the step that has ended (the scheduler has moved on by now)."""
    logged = [float(value) for name, value in trainer.callback_metrics.items() if name.startswith("rate/")]
    return max(logged, default=0.0)
