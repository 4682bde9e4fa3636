"""Selection of frames: from the times of all frames of a video to the numbers of a few. Knows no file and no pixel.

Frames are selected evenly over time. If the frame rate is constant, they are selected evenly by number instead: the
result is the same, but it does not depend on how a container rounds times (Matroska: to a millisecond).
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
    """How the frames of a video are selected. A video with fewer than `frames` frames gives each of them once."""

    kind: Kind = "uniform"
    """`uniform`: the middle frame of equal segments of time (Video-ChatGPT). `segment_random`: a random frame of each
    segment, by the seed; the middle frame without a seed (VideoChat). `head_tail`: evenly from the first to the last
    frame, both included (Valley). `fps`: `fps` frames per second of the video, at most `frames`; a longer
    video is sampled as `uniform`. A frame that is shown during several segments is selected once."""
    frames: int = 8
    """Number of frames; for `fps`, the largest number."""
    fps: float | None = None
    """Frames per second, for the kind `fps`."""
    repeat: bool = False
    """Select `frames` frames also of a shorter video, some of them twice, for models of a fixed number of frames."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"`frames` is {self.frames}; it must be at least 1.")
        if (self.kind == "fps") != (self.fps is not None):
            raise ValueError("`sampling: fps` needs the option `fps`, and no other sampling accepts it.")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ValueError(f"`fps` is {self.fps}; it must be a finite number above 0.")

    def choose(self, times: Sequence[float], seconds: float, seed: int | None) -> list[int]:
        """Numbers of the selected frames, ascending.

        Args:
            times: start of each frame in seconds, ascending from 0; at least one.
            seconds: duration of the video.
            seed: seed of `segment_random`; None: no randomness.
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
        """A random frame of each segment; if there are more segments than frames, segments share a frame."""
        if not steady:
            length = seconds / self.frames
            return shown_at(times, [(number + draw.random()) * length for number in range(self.frames)])
        edges = [len(times) * number // self.frames for number in range(self.frames + 1)]
        return [draw.randrange(first, max(end, first + 1)) for first, end in itertools.pairwise(edges)]


def constant_rate(times: Sequence[float]) -> bool:
    """Whether each frame starts within half a frame of its time at a constant frame rate."""
    if len(times) < 3:
        return True
    gap = times[-1] / (len(times) - 1)
    return all(abs(moment - number * gap) <= gap / 2 for number, moment in enumerate(times))


def _middles(times: Sequence[float], seconds: float, steady: bool, count: int) -> list[int]:
    """Number of the frame in the middle of each of `count` equal segments."""
    if steady:
        return _middle_places(len(times), count)
    return shown_at(times, [(number + 0.5) * seconds / count for number in range(count)])


def _middle_places(total: int, count: int) -> list[int]:
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


def _nearest(times: Sequence[float], moment: float) -> int:
    """Number of the frame whose start is nearest to a moment."""
    after = min(bisect.bisect_left(times, moment), len(times) - 1)
    return after - 1 if after > 0 and moment - times[after - 1] < times[after] - moment else after


def shown_at(times: Sequence[float], moments: Sequence[float]) -> list[int]:
    """Number of the frame that is shown at each moment: the last one that started by then, within a microsecond."""
    return [max(0, bisect.bisect_right(times, moment + 1e-6) - 1) for moment in moments]
