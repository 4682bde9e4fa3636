"""Decoding of audio, which runs in the helper process, and mixing of channels to one.

libsndfile decodes the formats that it knows, FFmpeg (PyAV) the other containers.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from omnivit.contracts.media import MediaFacts
from omnivit.errors import MediaError
from omnivit.media.advice import REMOVE, download_again
from omnivit.media.source import Source

Samples = np.ndarray[Any, np.dtype[np.float32]]
"""[N] between -1 and 1, or a little beyond."""

T = TypeVar("T")

MAX_SAMPLES = 60_000_000
"""Most samples that are read of one medium: an hour at 16 kHz, 20 minutes at 48 kHz, 240 MB."""
MIN_RATE, MAX_RATE = 4_000, 384_000
"""Sampling rates of files that are read, in Hz."""
BLOCK = 1 << 20
"""Values that are decoded at a time, over all channels."""
CANCELLED = 0.1
"""Channels are in opposite phase if the energy of their mean is below this share of what it would be for uncorrelated
channels (1 / C of their mean energy)."""
FFMPEG_FORMATS = "aac,ac3,aiff,amr,asf,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mp3,mpeg,mpegts,ogg,wav"
"""Formats that FFmpeg may detect. It also knows playlists, with which a file could make it open other files."""


class Heard(NamedTuple):
    """Decoded samples of one channel."""

    samples: Samples
    rate: int
    decoder: str
    cancelled: bool = False
    """The channels cancel each other out, so `samples` is one channel instead of their mean."""


class Mix:
    """Mixes channels to one, block by block: their mean, or one of them. Sums up energies at the same time."""

    def __init__(self, channel: int | None = None) -> None:
        self._channel = channel
        self._energies: list[float] = []
        self._energy = 0.0

    def add(self, channels: Samples) -> Samples:
        """[C, N] -> [N]."""
        if len(channels) == 1:
            return np.ascontiguousarray(channels[0])
        if self._channel is not None:
            return np.ascontiguousarray(channels[min(self._channel, len(channels) - 1)])
        mixed = np.ascontiguousarray(channels.mean(axis=0, dtype=np.float32))
        energies = [float(np.dot(channel, channel)) for channel in channels]
        before = self._energies or [0.0] * len(energies)
        self._energies = [sum(pair) for pair in zip(before, energies, strict=False)]
        self._energy += float(np.dot(mixed, mixed))
        return mixed

    def loudest(self) -> int | None:
        """The channel to use instead of the mean if the channels cancel each other out; None if they do not."""
        # uncorrelated channels: the energy of the mean is sum(energies) / C ** 2; for NaN this is false, refused later
        if self._energy * len(self._energies) ** 2 >= CANCELLED * sum(self._energies):
            return None
        return max(range(len(self._energies)), key=self._energies.__getitem__, default=None)


def mixed(read: Callable[[Mix], Heard]) -> Heard:
    """Read the mean of the channels; if they cancel each other out, read again and keep the loudest channel."""
    mix = Mix()
    heard = read(mix)
    channel = mix.loudest()
    return heard if channel is None else read(Mix(channel))._replace(cancelled=True)


def decode(source: Source, start: float, seconds: float | None) -> Heard:
    """Decode `seconds` of an audio file from `start`. Raises MediaError, and any exception of the decoders."""

    def heard(mix: Mix) -> Heard:
        return _first(
            source,
            lambda file: _decode_sndfile(file, source.name, start, seconds, mix),
            lambda: _decode_av(source, start, seconds, mix),
        )

    return mixed(heard)


def facts(source: Source) -> MediaFacts:
    """Facts from the header of an audio file. Raises MediaError, and any exception of the decoders."""
    return _first(source, lambda file: _facts_sndfile(file, source.name), lambda: _facts_av(source))


def _first(source: Source, by_sndfile: Callable[[Any], T], by_av: Callable[[], T]) -> T:
    """The result of libsndfile; if it does not know the format, the result of FFmpeg."""
    import soundfile

    name = source.name
    if source.suffix == ".raw":
        raise MediaError(f"{name}: a .raw file has no header with its sampling rate and type. Convert it to WAV.")
    try:
        file = soundfile.SoundFile(source.nameable())
    except soundfile.LibsndfileError as error:
        return _by_av(by_av, name, error)
    with file:
        check_rate(file.samplerate, name)
        return by_sndfile(file)


def _by_av(by_av: Callable[[], T], name: str, refusal: Exception) -> T:
    try:
        import av
    except ImportError:
        raise MediaError(
            f"{name}: libsndfile cannot read it ({_sentence(refusal)}), and PyAV, which reads more containers, is not "
            f"installed. Run: pip install 'omnivit[video]', or convert the file to WAV or FLAC."
        ) from None
    try:
        return by_av()
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        raise MediaError(
            f"{name}: is not audio that can be decoded (libsndfile: {_sentence(refusal)}; FFmpeg: {_sentence(error)}). "
            f"It is damaged or has another format: convert it to WAV or FLAC, or {REMOVE}."
        ) from error


def _sentence(error: Exception) -> str:
    """The reason of an exception on one line, without the path, which the message begins with already."""
    text = " ".join(str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).split())
    return text.rstrip(".") or type(error).__name__


def _decode_sndfile(file: Any, name: str, start: float, seconds: float | None, mix: Mix) -> Heard:
    rate, first = int(file.samplerate), round(start * file.samplerate)
    count = max(0, int(file.frames) - first)
    if seconds is not None:
        count = min(count, math.ceil(seconds * rate))
    if count > MAX_SAMPLES:
        raise MediaError(too_long(name, f"{count:,} samples"))
    if count and first:
        file.seek(first)
    blocks = list(_blocks(file, count, mix))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if len(samples) < count or _declares_more(file.extra_info):
        raise MediaError(
            f"{name}: is cut short: {len(samples):,} samples of {file.format} could be read, but its header declares "
            f"more. {download_again()}"
        )
    return Heard(samples, rate, "libsndfile")


def _blocks(file: Any, count: int, mix: Mix) -> Iterator[Samples]:
    """Blocks of one channel, together `count` samples; fewer if the file ends before."""
    size = max(1, BLOCK // file.channels)
    while count > 0:
        block: Samples = file.read(min(size, count), dtype="float32", always_2d=True)
        if not len(block):
            return
        yield mix.add(block.T)
        count -= len(block)


def _declares_more(log_of_header: str) -> bool:
    """Whether libsndfile reduced the declared size of a WAV or AIFF file to the size that is present.

    A size of 0 or of all ones means nothing: programs write it while they do not know the size yet.
    """
    for line in log_of_header.splitlines():
        if line.strip().startswith(("data :", "SSND :")) and "(should be" in line:
            declared = line.split(":", 1)[1].split("(")[0].strip()
            return declared.isdecimal() and 0 < int(declared) < 0x7FFF0000
    return False


def _facts_sndfile(file: Any, name: str) -> MediaFacts:
    if not file.frames:
        raise MediaError(f"{name}: contains no audio (0 samples). {download_again()}")
    details = {"format": file.format, "samples": file.subtype, "rate": f"{file.samplerate} Hz", "decoder": "libsndfile"}
    shape = {"channels": int(file.channels), "samples": int(file.frames)}
    return MediaFacts("audio", shape, file.frames / file.samplerate, details)


def _container(source: Source) -> Any:
    """The file as a container of PyAV."""
    import av

    av.logging.set_level(None)
    return av.open(source.nameable(), options={"format_whitelist": FFMPEG_FORMATS}, metadata_errors="replace")


def _audio_track(container: Any, name: str) -> Any:
    """The first audio track. Raises MediaError if there is none."""
    if not container.streams.audio:
        kinds = sorted({stream.type for stream in container.streams})
        raise MediaError(
            f"{name}: has no audio track (the container {container.format.name} has: {', '.join(kinds) or 'nothing'}). "
            f"Use another slot for this file, or {REMOVE}."
        )
    track = container.streams.audio[0]
    if not track.rate:
        raise ValueError("the audio track has no sampling rate")
    check_rate(track.rate, name)
    return track


def _decode_av(source: Source, start: float, seconds: float | None, mix: Mix) -> Heard:
    import av

    name = source.name

    with _container(source) as container:
        track = _audio_track(container, name)
        if start:
            container.seek(round(start * av.time_base))  # lands on a packet before `start`
        rate, end = int(track.rate), None if seconds is None else start + seconds
        pieces: list[Samples] = []
        count = 0
        for when, piece in _pieces(container, track, mix):
            if end is not None and when >= end:
                break
            kept = piece[max(0, round((start - when) * rate)) :]  # drop what is before `start`
            pieces.append(kept)
            count += len(kept)
            if count > MAX_SAMPLES:
                raise MediaError(too_long(name, f"more than {MAX_SAMPLES:,} samples"))
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    return Heard(samples if seconds is None else samples[: math.ceil(seconds * rate)], rate, "PyAV")


def _pieces(container: Any, track: Any, mix: Mix) -> Iterator[tuple[float, Samples]]:
    """For each frame, its start in seconds and its samples mixed to one channel."""
    import av

    converter, when = av.AudioResampler(format="fltp"), 0.0
    for frame in container.decode(track):
        if frame.pts is not None:
            when = float((frame.pts - (track.start_time or 0)) * frame.time_base)
        for plain in converter.resample(frame):
            piece = mix.add(plain.to_ndarray().astype(np.float32, copy=False))
            yield when, piece
            when += len(piece) / track.rate


def _facts_av(source: Source) -> MediaFacts:
    with _container(source) as container:
        track = _audio_track(container, source.name)
        lengths: Sequence[Any] = [
            float(track.duration * track.time_base) if track.duration else None,
            container.duration / 1_000_000 if container.duration else None,
        ]
        seconds = next((length for length in lengths if length), None)
        shape = {"channels": int(track.channels)}
        if seconds is not None:
            shape["samples"] = round(seconds * track.rate)
        details = {"format": container.format.name, "codec": track.codec_context.name, "rate": f"{track.rate} Hz"}
        return MediaFacts("audio", shape, seconds, details | {"decoder": "FFmpeg (PyAV)"})


def check_rate(rate: int, name: str) -> None:
    """Raises MediaError if a sampling rate is outside the limits."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise MediaError(
            f"{name}: the sampling rate {rate:,} Hz is outside {MIN_RATE:,} to {MAX_RATE:,} Hz. Check the header of "
            f"the file, or resample it first."
        )


def too_long(name: str, length: str) -> str:
    """The message for audio with more than `MAX_SAMPLES` samples."""
    return (
        f"{name}: the audio has {length}, more than the limit of {MAX_SAMPLES:,} samples "
        f"(omnivit.media.audio_decode.MAX_SAMPLES). Split it first."
    )
