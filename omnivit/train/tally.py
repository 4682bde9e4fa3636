"""What a stage counts beside its losses: where the time goes, which media are slow, and what each data source gives.

Nothing here changes what trains. Counts of sources are those of all ranks, times those of the first.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SLOWEST = 5
"""Media of a stage that are remembered because they took longest to load."""


@dataclass
class SourceTally:
    """What one data source has given to a stage."""

    samples: int = 0
    """Samples shown, repeats included."""
    targets: int = 0
    """Supervised tokens of those samples."""
    loss: float = 0.0
    """Sum of the losses of these tokens."""

    @property
    def mean(self) -> float | None:
        """The loss per supervised token; None: there was none."""
        return self.loss / self.targets if self.targets else None


@dataclass(frozen=True)
class SlowMedium:
    """A medium that took long to read and prepare."""

    seconds: float
    slot: str
    sample: str


@dataclass
class Tally:
    """Counts of one stage, over all processes that have trained it."""

    waited: float = 0.0
    """Seconds in which the model waited for data."""
    worked: float = 0.0
    """Seconds in which it computed."""
    tokens: int = 0
    """Tokens of all samples, without padding."""
    devices: int = 1
    """Devices that train together."""
    kind: str = "cpu"
    """Their kind: `cpu`, `cuda`, `mps`."""
    media: dict[str, list[float]] = field(default_factory=dict)
    """Slot -> number of media, and seconds in which loader processes read and prepared them."""
    slowest: list[SlowMedium] = field(default_factory=list)
    """The slowest first."""
    sources: list[SourceTally] = field(default_factory=list)
    """In the order of the stage's `data`; empty where the counts are not known."""

    @property
    def share_waited(self) -> float | None:
        """The share of the time in which the model waited for data; None before anything was measured."""
        seconds = self.waited + self.worked
        return self.waited / seconds if seconds else None

    def loaded(self, media: Mapping[str, tuple[int, float]], slow: Sequence[tuple[float, str, str]] = ()) -> None:
        """Note the media of a batch by slot, and the slowest of them."""
        for slot, (count, seconds) in media.items():
            total = self.media.setdefault(slot, [0, 0.0])
            total[0] += count
            total[1] += seconds
        if slow:
            known = {(each.slot, each.sample): each for each in self.slowest}
            for entry in slow:
                medium = SlowMedium(*entry)
                before = known.get((medium.slot, medium.sample))
                if before is None or before.seconds < medium.seconds:  # a sample comes again in each epoch
                    known[medium.slot, medium.sample] = medium
            self.slowest = heapq.nlargest(SLOWEST, known.values(), key=lambda each: each.seconds)

    def add_sources(self, counts: Sequence[tuple[float, float, float]]) -> None:
        """Add what a step has counted: samples, supervised tokens and summed loss of each data source."""
        self.sources += [SourceTally() for _ in range(len(counts) - len(self.sources))]
        # not strict: a run that is resumed with --allow-changes may have lost a data source
        for source, (samples, targets, loss) in zip(self.sources, counts, strict=False):
            source.samples += round(samples)
            if math.isfinite(loss):
                source.targets += round(targets)
                source.loss += loss

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Tally:
        """The inverse of `to_json`."""
        parts = {
            "slowest": [SlowMedium(**entry) for entry in record.get("slowest", [])],
            "sources": [SourceTally(**entry) for entry in record.get("sources", [])],
        }
        return Tally(**{**record, **parts})
