"""One stream of video, through PyAV: the time of each frame, and frames by number. Runs in the helper process.

Shapes: T frames, H height and W width in pixels.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from omnivit.media.source import Source
from omnivit.media.video.frames import MAX_PIXELS, ClipError

THREADS = 2
SEARCH = 5.0
"""Seconds of computing that may go into finding out which frames of a damaged clip can be decoded."""
ENOUGH = 0.5
"""A clip of which a smaller share of the frames can be read is refused: what is left no longer shows what it showed."""


class Stream:
    """The stream of video of a file, opened.

    Attributes:
        source, name: its file, and the name for errors.
        times: seconds of each frame since the first, ascending; from the file's packets, whatever its rate.
        seconds: how long it lasts, the last frame included.
        height, width: of its frames, upright and with square pixels.
        turns: quarter turns to the left that bring a frame upright.
        kind: FFmpeg's name of its container.
        promised: how many frames it should have, those included that the file lacks.
        damaged: packets are missing, or could not be decoded up to the first frame.
        damage: what is wrong with it; empty where nothing is known to be.
        refusal: why it is not used; empty where it can be.
    """

    def __init__(self, source: Source, kind: str) -> None:
        """Raises ClipError where there is no video in it, or not one frame that can be decoded."""
        self.source, self.name, self.kind = source, source.name, kind
        self.damage = self.refusal = ""
        self.damaged = False
        self._container: Any
        self._open()
        self._read_packets()
        self._read_first_frame()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._container.close()

    def frames(
        self, numbers: Sequence[int], size: tuple[int, int], jumps: bool = True
    ) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], list[int]]:
        """[T, H, W, 3] the frames of these numbers (ascending), scaled to `size` while decoding; and their numbers.

        In the place of a frame that cannot be decoded stands the next good one, or the last, under its own number.

        Args:
            numbers: of the frames.
            size: height and width.
            jumps: whether to go from key frame to key frame; without, everything before is decoded as well.
        """
        frames = np.empty((len(numbers), *size, 3), dtype=np.uint8)
        walk = _Walk(self, jumps)
        read = []
        for place, number in enumerate(numbers):
            frame = walk.to(self._stamps[number])
            if frame is None:
                raise ClipError(f"{self.name}: none of its frames can be decoded. Fetch it again.")
            frames[place] = self._pixels(frame, size)
            read.append(self._number(frame))
        return frames, read

    def readable(self) -> list[int]:
        """The numbers of all frames that can be decoded, ascending. Decodes the whole clip, and notes its `damage`.

        Raises ClipError where that would take more than `SEARCH` seconds.
        """
        began = time.process_time()
        numbers = set()
        for frame in _Walk(self, jumps=False).all():
            numbers.add(self._number(frame))
            if time.process_time() - began > SEARCH:
                raise ClipError(
                    f"{self.name}: is damaged: some of its {len(self.times):,} frames cannot be decoded, and it is too "
                    f"long to look for those that can. Repair it (`ffmpeg -i FILE repaired.mp4`), or take the sample "
                    f"out."
                )
        self._judge(len(numbers - {-1}))
        return sorted(numbers - {-1})

    def _judge(self, count: int) -> None:
        """Note that `count` frames of all that it should have can be read."""
        if count == self.promised:
            stated = f"its header promises {self._stream.frames:,} frames, but {count:,} are there"
            self.damage = f"{stated}: is it cut short?"
            return
        self.damage = f"is damaged or cut short: {count:,} of its {self.promised:,} frames can be read"
        if count < ENOUGH * self.promised:
            self.refusal = (
                f"{self.name}: {self.damage}, too few to show what it showed (omnivit.media.video.stream.ENOUGH). "
                f"Fetch it again, or take the sample out."
            )

    def _number(self, frame: Any) -> int:
        """Which frame this is; -1 for one before the first."""
        return bisect.bisect_right(self._stamps, _stamp(frame)) - 1

    def _open(self) -> None:
        import av

        try:
            self._container = av.open(self.source.nameable(), format=self.kind, metadata_errors="replace")
        except av.error.FFmpegError as error:
            raise ClipError(
                f"{self.name}: cannot be opened, it is damaged or cut short ({error.strerror}). Fetch it again, or "
                f"take the sample out."
            ) from error
        found = self._container.streams
        pictures = av.stream.Disposition.attached_pic
        streams = [stream for stream in found.video if not stream.disposition & pictures]
        if not streams:
            what = "sound and no pictures" if found.audio else "no stream of video"
            raise ClipError(f"{self.name}: holds {what}. Use a file with video.")
        best = found.best("video")
        self._stream = best if best in streams else streams[0]
        context = self._stream.codec_context
        if context is None:
            raise ClipError(f"{self.name}: no decoder is known for its video. Convert it, for example to H.264.")
        self.codec = str(context.name)
        if context.width * context.height > MAX_PIXELS:
            raise ClipError(
                f"{self.name}: frames of {context.width} x {context.height} pixels, more than the limit of "
                f"{MAX_PIXELS:,} (omnivit.media.video.frames.MAX_PIXELS). Scale it down first."
            )
        context.thread_type, context.thread_count = "AUTO", THREADS

    def _read_packets(self) -> None:
        """The time stamps of all frames and of the key frames, without decoding."""
        import av

        stamps: set[int] = set()
        keys: set[int] = set()
        number = last = 0
        try:
            for packet in self._container.demux(self._stream):
                stamp = packet.pts if packet.pts is not None else packet.dts
                if packet.size == 0 and stamp is None:
                    continue  # the end
                stamp = number if stamp is None else stamp
                number += 1
                if packet.size == 0 or packet.is_discard:  # shown for longer than stated; cut away by the editor
                    continue
                stamps.add(stamp)
                last = packet.duration or last
                if packet.is_keyframe:
                    keys.add(stamp)
        except av.error.FFmpegError:
            self.damaged = True
        if not stamps:
            raise ClipError(f"{self.name}: has a stream of video without a single frame. Fetch it again.")
        cut = self.damaged
        self.damaged = cut or self._stream.frames > number
        self._stamps, self._keys = sorted(stamps), sorted(keys)
        unit = float(self._stream.time_base or 0.04)
        self.times = [(stamp - self._stamps[0]) * unit for stamp in self._stamps]
        gap = last * unit or self.times[-1] / max(1, len(self.times) - 1) or 0.04
        self.seconds = self.times[-1] + gap
        self.promised = len(self._stamps) + self._absent(number, cut)
        if self.damaged:
            self._judge(len(self._stamps))

    def _absent(self, number: int, cut: bool) -> int:
        """How many frames the file lacks, of which `number` packets were read; `cut`: reading them ended in an error.

        The index of an MP4 counts its frames exactly. The headers of others are written before the frames, and often
        wrong; Matroska states how long it lasts, which tells about how much is missing of a file that breaks off.
        """
        if self.kind == "mov":
            return max(0, int(self._stream.frames) - number)
        stated = float(self._container.duration or 0) / 1e6
        if self.kind == "matroska" and cut and stated > self.seconds:
            return round(len(self._stamps) * (stated / self.seconds - 1))
        return 0

    def _read_first_frame(self) -> None:
        """What only a decoded frame tells: its size, its shape of pixels, its rotation."""
        frame = _Walk(self).to(self._stamps[0])
        if frame is None:
            raise ClipError(
                f"{self.name}: none of its {len(self.times)} frames can be decoded. Fetch it again, or take the "
                f"sample out."
            )
        ratio = float(self._stream.sample_aspect_ratio or 1)
        height, width = frame.height, max(1, round(frame.width * (ratio if 0.1 < ratio < 10 else 1.0)))
        self.turns = round(frame.rotation / 90) % 4
        self.height, self.width = (width, height) if self.turns % 2 else (height, width)

    def _pixels(self, frame: Any, size: tuple[int, int]) -> np.ndarray[Any, Any]:
        height, width = size[::-1] if self.turns % 2 else size
        frame = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR")
        return np.rot90(frame.to_ndarray(), self.turns)


class _Walk:
    """Goes forward through a stream, from frame to frame; jumps to a key frame where that is nearer."""

    def __init__(self, stream: Stream, jumps: bool = True) -> None:
        self._stream = stream
        self._frames: Iterator[Any] | None = None
        self._here: Any = None
        self._jumps = jumps
        if not jumps:
            self._restart()

    def all(self) -> Iterator[Any]:
        """The frames that follow."""
        while self._next():
            yield self._here

    def to(self, stamp: int) -> Any:
        """The frame of this time stamp, or where it is lost the next; the last one where nothing follows."""
        keys = self._stream._keys
        before = bisect.bisect_right(keys, stamp) - 1
        start = keys[before] if before >= 0 else self._stream._stamps[0]
        if self._frames is None or (self._jumps and self._here is not None and start > _stamp(self._here)):
            self._jump(start)
            self._next()
            if self._here is None or _stamp(self._here) > stamp:  # this format jumps too far: go on foot
                self._restart()
        while self._here is None or _stamp(self._here) < stamp:
            if not self._next():
                break
        return self._here

    def _next(self) -> bool:
        frame = next(self._frames or iter(()), None)
        if frame is None:
            return False
        self._here = frame
        return True

    def _jump(self, start: int) -> None:
        import av

        self._here = None
        try:
            self._stream._container.seek(start, stream=self._stream._stream)
        except av.error.FFmpegError:
            self._restart()
            return
        self._frames = self._decoded()

    def _restart(self) -> None:
        self._jumps, self._here = False, None
        self._stream._container.close()
        self._stream._open()
        self._frames = self._decoded()

    def _decoded(self) -> Iterator[Any]:
        """Frames that can be placed in time; what cannot be decoded, or not as it was, is left out."""
        import av

        try:
            for packet in self._stream._container.demux(self._stream._stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    self._stream.damaged = True
                    continue
                for frame in frames:
                    if frame.is_corrupt:  # pieced together from its neighbours
                        self._stream.damaged = True
                    elif frame.pts is not None or frame.dts is not None:
                        yield frame
        except av.error.FFmpegError:
            self._stream.damaged = True


def _stamp(frame: Any) -> int:
    return int(frame.pts if frame.pts is not None else frame.dts)
