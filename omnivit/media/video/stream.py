"""One video stream, read with PyAV: the time of each frame, and frames by number. Runs in the helper process.

Shapes: T frames, H height and W width in pixels.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from omnivit.media.advice import REMOVE, download_again
from omnivit.media.source import Source
from omnivit.media.video.frames import MAX_FRAME_PIXELS, VideoError

THREADS = 2
"""Threads of a decoder."""
SEARCH_SECONDS = 5.0
"""Processor time to search for the frames of a damaged video that can be decoded."""
MIN_READABLE = 0.5
"""Smallest share of frames that must be readable. With fewer, a video may no longer show what it was labelled for."""


class Stream:
    """The video stream of a file, opened.

    Attributes:
        source, name: the file, and its name for errors.
        times: start of each frame in seconds, ascending from 0; taken from the packets, so the frame rate can vary.
        seconds: duration, including the last frame.
        height, width: size of its frames, upright and with square pixels.
        turns: quarter turns to the left that make a frame upright.
        kind: FFmpeg's name of the container.
        promised: number of frames that the file should have, including those that are missing.
        damaged: packets are missing, or could not be decoded up to the first frame.
        damage: what is wrong with the file; empty if nothing is known to be wrong.
        refusal: why the file is not used; empty if it can be used.
    """

    def __init__(self, source: Source, kind: str) -> None:
        """Raises VideoError if the file has no video stream, or no frame that can be decoded."""
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

        A frame that cannot be decoded is replaced by the next good one, or by the last, with the number of that frame.

        Args:
            numbers: numbers of the frames.
            size: height and width.
            jumps: seek to key frames; otherwise everything before is decoded too.
        """
        frames = np.empty((len(numbers), *size, 3), dtype=np.uint8)
        walk = _Walk(self, jumps)
        read = []
        for place, number in enumerate(numbers):
            frame = walk.to(self._stamps[number])
            if frame is None:
                raise VideoError(f"{self.name}: none of its frames can be decoded. {download_again()}")
            frames[place] = self._pixels(frame, size)
            read.append(self._number(frame))
        return frames, read

    def readable(self) -> list[int]:
        """The numbers of all frames that can be decoded, ascending. Decodes the complete video and sets `damage`.

        Raises VideoError if that takes more than `SEARCH_SECONDS`.
        """
        began = time.process_time()
        numbers = set()
        for frame in _Walk(self, jumps=False).all():
            numbers.add(self._number(frame))
            if time.process_time() - began > SEARCH_SECONDS:
                raise VideoError(
                    f"{self.name}: is damaged: some of its {len(self.times):,} frames cannot be decoded, and the video "
                    f"is too long to search for those that can. Repair it (`ffmpeg -i FILE repaired.mp4`), or {REMOVE}."
                )
        self._assess(len(numbers - {-1}))
        return sorted(numbers - {-1})

    def _assess(self, count: int) -> None:
        """Set `damage`, and `refusal` if too few frames are left, given that `count` frames can be read."""
        if count == self.promised:  # every packet that is present can be read, yet the header counts more of them
            self.damage = (
                f"its header declares {self._stream.frames:,} frames, but the file contains {count:,}; it may be cut "
                f"short"
            )
            return
        self.damage = f"is damaged or cut short: {count:,} of its {self.promised:,} frames can be read"
        if count < MIN_READABLE * self.promised:
            self.refusal = (
                f"{self.name}: {self.damage}, less than the share {MIN_READABLE:g} that is required "
                f"(omnivit.media.video.stream.MIN_READABLE). {download_again()}"
            )

    def _number(self, frame: Any) -> int:
        """The number of a decoded frame; -1 for a frame before the first."""
        return bisect.bisect_right(self._stamps, _stamp(frame)) - 1

    def _open(self) -> None:
        import av

        try:
            self._container = av.open(self.source.nameable(), format=self.kind, metadata_errors="replace")
        except av.error.FFmpegError as error:
            raise VideoError(
                f"{self.name}: cannot be opened, it is damaged or cut short ({error.strerror}). {download_again()}"
            ) from error
        available = self._container.streams
        cover_art = av.stream.Disposition.attached_pic
        streams = [stream for stream in available.video if not stream.disposition & cover_art]
        if not streams:
            content = "contains audio and no video" if available.audio else "contains no video stream"
            raise VideoError(f"{self.name}: {content}. Use a file with video.")
        best = available.best("video")  # FFmpeg's choice, unless it is a cover image
        self._stream = best if best in streams else streams[0]
        context = self._stream.codec_context
        if context is None:
            raise VideoError(f"{self.name}: there is no decoder for its video. Convert it, for example to H.264.")
        self.codec = str(context.name)
        if context.width * context.height > MAX_FRAME_PIXELS:
            raise VideoError(
                f"{self.name}: the frames have {context.width} x {context.height} pixels, more than the limit of "
                f"{MAX_FRAME_PIXELS:,} (omnivit.media.video.frames.MAX_FRAME_PIXELS). Scale them down first."
            )
        context.thread_type, context.thread_count = "AUTO", THREADS

    def _read_packets(self) -> None:
        """Read the timestamps of all frames and of the key frames, without decoding."""
        import av

        stamps: set[int] = set()
        keys: set[int] = set()
        number = last = 0
        try:
            for packet in self._container.demux(self._stream):
                stamp = packet.pts if packet.pts is not None else packet.dts
                if packet.size == 0 and stamp is None:
                    continue  # the packet that flushes the decoder at the end
                stamp = number if stamp is None else stamp  # raw streams have no timestamps: count instead
                number += 1
                # an empty packet repeats the frame before; a discarded one was cut away in an editor
                if packet.size == 0 or packet.is_discard:
                    continue
                stamps.add(stamp)
                last = packet.duration or last
                if packet.is_keyframe:
                    keys.add(stamp)
        except av.error.FFmpegError:
            self.damaged = True
        if not stamps:
            raise VideoError(f"{self.name}: has a video stream without frames. {download_again()}")
        cut = self.damaged
        self.damaged = cut or self._stream.frames > number
        # packets are in the order of decoding, which differs from the order of display: sort by time
        self._stamps, self._keys = sorted(stamps), sorted(keys)
        unit = float(self._stream.time_base or 0.04)
        self.times = [(stamp - self._stamps[0]) * unit for stamp in self._stamps]
        # duration of the last frame: declared, else the mean of the others, else 1/25 of a second
        gap = last * unit or self.times[-1] / max(1, len(self.times) - 1) or 0.04
        self.seconds = self.times[-1] + gap
        self.promised = len(self._stamps) + self._missing(number, cut)
        if self.damaged:
            self._assess(len(self._stamps))

    def _missing(self, number: int, cut: bool) -> int:
        """Number of missing frames, after `number` packets were read; `cut`: reading them ended with an error.

        The index of an MP4 counts its frames exactly. Other containers write their header before the frames, so the
        count is often wrong; but Matroska declares a duration, from which the missing part can be estimated.
        """
        if self.kind == "mov":
            return max(0, int(self._stream.frames) - number)
        declared = float(self._container.duration or 0) / 1e6
        if self.kind == "matroska" and cut and declared > self.seconds:
            return round(len(self._stamps) * (declared / self.seconds - 1))
        return 0

    def _read_first_frame(self) -> None:
        """Read what only a decoded frame shows: its size, its pixel aspect ratio, its rotation."""
        frame = _Walk(self).to(self._stamps[0])
        if frame is None:
            raise VideoError(f"{self.name}: none of its {len(self.times)} frames can be decoded. {download_again()}")
        ratio = float(self._stream.sample_aspect_ratio or 1)
        # make pixels square by the width; a ratio beyond these bounds is an error in the header
        height, width = frame.height, max(1, round(frame.width * (ratio if 0.1 < ratio < 10 else 1.0)))
        self.turns = round(frame.rotation / 90) % 4
        self.height, self.width = (width, height) if self.turns % 2 else (height, width)

    def _pixels(self, frame: Any, size: tuple[int, int]) -> np.ndarray[Any, Any]:
        """[H, W, 3] a frame in RGB, scaled to `size` and upright."""
        height, width = size[::-1] if self.turns % 2 else size  # scaled before it is rotated
        frame = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR")
        return np.rot90(frame.to_ndarray(), self.turns)


class _Walk:
    """Walks forward through a stream frame by frame, and seeks to a key frame where that skips frames."""

    def __init__(self, stream: Stream, jumps: bool = True) -> None:
        self._stream = stream
        self._frames: Iterator[Any] | None = None
        self._here: Any = None
        self._jumps = jumps
        if not jumps:
            self._restart()

    def all(self) -> Iterator[Any]:
        """The remaining frames."""
        while self._next():
            yield self._here

    def to(self, stamp: int) -> Any:
        """The frame with this timestamp; if it cannot be decoded, the next one; at the end, the last one."""
        keys = self._stream._keys
        before = bisect.bisect_right(keys, stamp) - 1
        start = keys[before] if before >= 0 else self._stream._stamps[0]
        # seek only if the key frame is ahead: otherwise walking on decodes fewer frames
        if self._frames is None or (self._jumps and self._here is not None and start > _stamp(self._here)):
            self._jump(start)
            self._next()
            if self._here is None or _stamp(self._here) > stamp:  # the seek went too far: decode from the beginning
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
        """Decode from the beginning, and never seek again: this format seeks to wrong places."""
        self._jumps, self._here = False, None
        self._stream._container.close()
        self._stream._open()
        self._frames = self._decoded()

    def _decoded(self) -> Iterator[Any]:
        """Frames with a timestamp; those that cannot be decoded, or only in part, are skipped and noted as damage."""
        import av

        try:
            for packet in self._stream._container.demux(self._stream._stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    self._stream.damaged = True
                    continue
                for frame in frames:
                    if frame.is_corrupt:  # the decoder filled missing parts from other frames
                        self._stream.damaged = True
                    elif frame.pts is not None or frame.dts is not None:
                        yield frame
        except av.error.FFmpegError:
            self._stream.damaged = True


def _stamp(frame: Any) -> int:
    return int(frame.pts if frame.pts is not None else frame.dts)
