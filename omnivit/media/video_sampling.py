"""Which frames of a clip: from the times of all its frames to the numbers of a few. No file, no pixel."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["uniform", "fps", "segment_random", "head_tail"]


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip. `frames` is their number; a shorter clip gives each of its frames once."""

    kind: Kind = "uniform"
    """`uniform`: the middle one of equal segments (Video-ChatGPT). `segment_random`: any one of each segment, by the
    seed; the middle one without a seed (VideoChat). `head_tail`: evenly from the first to the last, both included
    (Valley). `fps`: so many a second of the clip's own time, at most `frames`; more are spread out as `uniform`."""
    frames: int = 8
    """How many; the most for `fps`."""
    fps: float | None = None
    """Frames a second, for `fps`."""
    repeat: bool = False
    """A shorter clip gives `frames` all the same, some of them twice, as models of a fixed number need."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"`frames` is {self.frames}; it must be at least 1.")
        if (self.kind == "fps") != (self.fps is not None):
            raise ValueError("`fps` belongs to `sampling: fps`, which needs it.")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ValueError(f"`fps` is {self.fps}; it must be above 0.")

    def choose(self, times: Sequence[float], seconds: float, seed: int | None) -> list[int]:
        """Numbers of the chosen frames, ascending.

        Args:
            times: of all frames, in seconds, ascending from 0; at least one.
            seconds: of the whole clip.
            seed: of `segment_random`; None: no randomness.
        """
        total = len(times)
        if self.kind == "fps":
            chosen = self._by_rate(times, seconds)
        elif self.kind == "head_tail":
            step = (total - 1) / max(1, self.frames - 1)
            chosen = [round(step * number) for number in range(self.frames)]
        elif self.kind == "segment_random" and seed is not None:
            chosen = self._somewhere(total, random.Random(seed))
        else:
            chosen = _middles(total, self.frames)
        return chosen if self.repeat else sorted(set(chosen))

    def _by_rate(self, times: Sequence[float], seconds: float) -> list[int]:
        rate = self.fps or 1.0
        count = max(1, int(seconds * rate + 1e-6))
        if count > self.frames:
            return _middles(len(times), self.frames)
        moments = [number / rate for number in range(count)]
        found = shown_at(times, moments)
        return _middles(count, self.frames, found) if self.repeat else found

    def _somewhere(self, total: int, draw: random.Random) -> list[int]:
        """One of each segment; those of a clip shorter than their number hold one frame, or share it."""
        edges = [total * number // self.frames for number in range(self.frames + 1)]
        return [draw.randrange(first, max(end, first + 1)) for first, end in itertools.pairwise(edges)]


def _middles(total: int, count: int, numbers: Sequence[int] | None = None) -> list[int]:
    """The middle frame of each of `count` equal segments of `total` frames (or of the frames named)."""
    places = [(2 * number + 1) * total // (2 * count) for number in range(count)]
    return places if numbers is None else [numbers[place] for place in places]


def shown_at(times: Sequence[float], moments: Sequence[float]) -> list[int]:
    """Number of the frame that is shown at each moment: the last that began by then, within a microsecond."""
    return [max(0, bisect.bisect_right(times, moment + 1e-6) - 1) for moment in moments]
