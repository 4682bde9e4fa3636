"""Which frames of a clip: from the times of all its frames to the numbers of a few. No file, no pixel.

Frames are spread over time. Where the rate is constant, spreading over the frames' numbers is the same and exact,
whatever a container rounds times to (Matroska: to a millisecond); so numbers are used there.
"""

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
    """`uniform`: the middle one of equal segments of time (Video-ChatGPT). `segment_random`: any one of each segment,
    by the seed; the middle one without a seed (VideoChat). `head_tail`: evenly from the first to the last, both
    included (Valley). `fps`: so many a second of the clip's own time, at most `frames`; more are spread out as
    `uniform`. A frame that is shown throughout several segments is given once."""
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
        steady = constant_rate(times)
        if self.kind == "fps":
            chosen = self._by_rate(times, seconds, steady)
        elif len(times) <= self.frames and not self.repeat:
            chosen = list(range(len(times)))
        elif self.kind == "head_tail":
            chosen = self._head_to_tail(times, steady)
        elif self.kind == "segment_random" and seed is not None:
            chosen = self._somewhere(times, seconds, steady, random.Random(seed))
        else:
            chosen = _middles(times, seconds, steady, self.frames)
        return chosen if self.repeat else sorted(set(chosen))

    def _by_rate(self, times: Sequence[float], seconds: float, steady: bool) -> list[int]:
        rate = self.fps or 1.0
        count = max(1, int(seconds * rate + 1e-6))
        if count > self.frames:
            return _middles(times, seconds, steady, self.frames)
        numbers = shown_at(times, [number / rate for number in range(count)])
        return [numbers[place] for place in _middle_places(count, self.frames)] if self.repeat else numbers

    def _head_to_tail(self, times: Sequence[float], steady: bool) -> list[int]:
        shares = [number / max(1, self.frames - 1) for number in range(self.frames)]
        if not steady:
            return [_nearest(times, share * times[-1]) for share in shares]
        step = (len(times) - 1) / max(1, self.frames - 1)
        return [round(step * number) for number in range(self.frames)]

    def _somewhere(self, times: Sequence[float], seconds: float, steady: bool, draw: random.Random) -> list[int]:
        """One of each segment; those of a clip shorter than their number hold one frame, or share it."""
        if not steady:
            length = seconds / self.frames
            return shown_at(times, [(number + draw.random()) * length for number in range(self.frames)])
        edges = [len(times) * number // self.frames for number in range(self.frames + 1)]
        return [draw.randrange(first, max(end, first + 1)) for first, end in itertools.pairwise(edges)]


def constant_rate(times: Sequence[float]) -> bool:
    """Whether each frame begins within half a frame of where a constant rate puts it."""
    if len(times) < 3:
        return True
    gap = times[-1] / (len(times) - 1)
    return all(abs(moment - number * gap) <= gap / 2 for number, moment in enumerate(times))


def _middles(times: Sequence[float], seconds: float, steady: bool, count: int) -> list[int]:
    """The frame in the middle of each of `count` equal segments."""
    if steady:
        return _middle_places(len(times), count)
    return shown_at(times, [(number + 0.5) * seconds / count for number in range(count)])


def _middle_places(total: int, count: int) -> list[int]:
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


def _nearest(times: Sequence[float], moment: float) -> int:
    """Number of the frame that begins nearest to a moment."""
    after = min(bisect.bisect_left(times, moment), len(times) - 1)
    return after - 1 if after > 0 and moment - times[after - 1] < times[after] - moment else after


def shown_at(times: Sequence[float], moments: Sequence[float]) -> list[int]:
    """Number of the frame that is shown at each moment: the last that began by then, within a microsecond."""
    return [max(0, bisect.bisect_right(times, moment + 1e-6) - 1) for moment in moments]
