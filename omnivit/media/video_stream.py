"""One stream of video, through PyAV: the time of each frame, and frames by number. Runs in the helper process.

Shapes: T frames, H height and W width in pixels.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from omnivit.media.video_decode import MAX_PIXELS, ClipError, opened

THREADS = 2


class Stream:
    """The stream of video of a file, opened.

    Attributes:
        times: seconds of each frame since the first, ascending; from the file's packets, whatever its rate.
        seconds: how long it lasts, the last frame included.
        height, width: of its frames, upright and with square pixels.
        turns: quarter turns to the left that bring a frame upright.
        kind: FFmpeg's name of its container.
        damaged: packets are missing, or could not be decoded up to the first frame.
        notes: what is wrong with it, though it can be read.
    """

    def __init__(self, source: str | bytes, name: str, kind: str) -> None:
        """Raises ClipError where there is no video in it, or not one frame that can be decoded."""
        self._source, self.name, self.kind = source, name, kind
        self.notes: list[str] = []
        self.damaged = False
        self._container: Any
        self._open()
        self._read_packets()
        self._read_first_frame()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._container.close()

    def frames(self, numbers: Sequence[int], size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """[T, H, W, 3] the frames of these numbers (ascending), scaled to `size` as they are decoded.

        In the place of a frame that is damaged stands the next good one, or the last.
        """
        frames = np.empty((len(numbers), *size, 3), dtype=np.uint8)
        walk = _Walk(self)
        for place, number in enumerate(numbers):
            frame = walk.to(self._stamps[number])
            if frame is None:
                raise ClipError(f"{self.name}: none of its frames can be decoded. Fetch it again.")
            frames[place] = self._pixels(frame, size)
        return frames

    def _open(self) -> None:
        import av

        try:
            self._container = av.open(opened(self._source), format=self.kind, metadata_errors="replace")
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
                f"{MAX_PIXELS:,} (omnivit.media.video_decode.MAX_PIXELS). Scale it down first."
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
        self.damaged = self.damaged or self._stream.frames > number
        if self.damaged:
            self.notes.append("is damaged or cut short; the frames that are there are used")
        self._stamps, self._keys = sorted(stamps), sorted(keys)
        unit = float(self._stream.time_base or 0.04)
        self.times = [(stamp - self._stamps[0]) * unit for stamp in self._stamps]
        gap = last * unit or self.times[-1] / max(1, len(self.times) - 1) or 0.04
        self.seconds = self.times[-1] + gap

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

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._frames: Iterator[Any] | None = None
        self._here: Any = None
        self._jumps = True

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
        """Frames that can be placed in time; packets that cannot be decoded are left out."""
        import av

        try:
            for packet in self._stream._container.demux(self._stream._stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    self._stream.damaged = True
                    continue
                yield from (frame for frame in frames if frame.pts is not None or frame.dts is not None)
        except av.error.FFmpegError:
            self._stream.damaged = True


def _stamp(frame: Any) -> int:
    return int(frame.pts if frame.pts is not None else frame.dts)
