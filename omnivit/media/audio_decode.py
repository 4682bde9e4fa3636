"""Decoding of sounds: what runs in the helper process, and how channels become one.

libsndfile reads what it knows, FFmpeg (PyAV) the containers that it does not.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from omnivit.contracts.media import MediaFacts
from omnivit.errors import MediaError
from omnivit.media.source import Source

Samples = np.ndarray[Any, np.dtype[np.float32]]
"""[N] between -1 and 1, or a little beyond."""

T = TypeVar("T")

MAX_SAMPLES = 60_000_000
"""No more are read of one sound: an hour at 16 kHz, 20 minutes at 48 kHz, 240 MB."""
MIN_RATE, MAX_RATE = 4_000, 384_000
"""Samples a second that a file may have."""
BLOCK = 1 << 20
"""Values that are decoded at a time, over all channels."""
CANCELLED = 0.1
"""Where the mean of C channels holds less than this share of what it would hold of unrelated ones (1 / C of their mean
energy), they are in opposite phase."""
CONTAINERS = "aac,ac3,aiff,amr,asf,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mp3,mpeg,mpegts,ogg,wav"
"""What FFmpeg may take a file for. It knows playlists as well, which would have it open other files."""


class Heard(NamedTuple):
    """What a decoder found."""

    samples: Samples
    rate: int
    decoder: str
    cancelled: bool = False
    """The channels cancel each other out: one of them is heard, not their mean."""


class Mix:
    """Channels -> one, piece by piece: their mean, or one of them. Counts energies on the way."""

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
        """The channel to take where the mean is not to be used; None where it is."""
        if self._energy * len(self._energies) ** 2 >= CANCELLED * sum(self._energies):  # false for NaN, refused later
            return None
        return max(range(len(self._energies)), key=self._energies.__getitem__, default=None)


def mixed(read: Callable[[Mix], Heard]) -> Heard:
    """What `read` hears of the mean of the channels; where they cancel each other out, of the loudest, read again."""
    mix = Mix()
    heard = read(mix)
    channel = mix.loudest()
    return heard if channel is None else read(Mix(channel))._replace(cancelled=True)


def decode(source: Source, start: float, seconds: float | None) -> Heard:
    """Decode a sound file, no more of it than wanted. Raises MediaError, and whatever the decoders raise."""

    def heard(mix: Mix) -> Heard:
        return _first(
            source,
            lambda file: _decode_sndfile(file, source.name, start, seconds, mix),
            lambda: _decode_av(source, start, seconds, mix),
        )

    return mixed(heard)


def facts(source: Source) -> MediaFacts:
    """What the header says. Raises MediaError, and whatever the decoders raise."""
    return _first(source, lambda file: _facts_sndfile(file, source.name), lambda: _facts_av(source))


def _first(source: Source, by_sndfile: Callable[[Any], T], by_av: Callable[[], T]) -> T:
    """What libsndfile finds; where it does not know the format, what FFmpeg finds."""
    import soundfile

    name = source.name
    if source.suffix == ".raw":
        raise MediaError(f"{name}: bare samples do not tell their rate and type. Convert them to WAV.")
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
            f"{name}: libsndfile cannot read it ({_sentence(refusal)}), and PyAV, which knows more containers, is not "
            f"installed. Run: pip install 'omnivit[video]', or convert it to WAV or FLAC."
        ) from None
    try:
        return by_av()
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        raise MediaError(
            f"{name}: is no sound that can be decoded (libsndfile: {_sentence(refusal)}; FFmpeg: {_sentence(error)}). "
            f"It is damaged or of another kind: convert it to WAV or FLAC, or take the sample out."
        ) from error


def _sentence(error: Exception) -> str:
    """Its reason without the path, which the message begins with already."""
    text = " ".join(str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).split())
    return text.rstrip(".") or type(error).__name__


def _decode_sndfile(file: Any, name: str, start: float, seconds: float | None, mix: Mix) -> Heard:
    rate, first = int(file.samplerate), round(start * file.samplerate)
    wanted = max(0, int(file.frames) - first)
    if seconds is not None:
        wanted = min(wanted, math.ceil(seconds * rate))
    if wanted > MAX_SAMPLES:
        raise MediaError(too_much(name, f"{wanted:,} samples"))
    if wanted and first:
        file.seek(first)
    blocks = list(_blocks(file, wanted, mix))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if len(samples) < wanted or _claims_more(file.extra_info):
        raise MediaError(
            f"{name}: is cut short: {len(samples):,} samples of {file.format} could be read, but its header promises "
            f"more. Fetch it again, or take the sample out."
        )
    return Heard(samples, rate, "libsndfile")


def _blocks(file: Any, wanted: int, mix: Mix) -> Iterator[Samples]:
    """Mono blocks of up to `wanted` samples; fewer where the file ends."""
    size = max(1, BLOCK // file.channels)
    while wanted > 0:
        block: Samples = file.read(min(size, wanted), dtype="float32", always_2d=True)
        if not len(block):
            return
        yield mix.add(block.T)
        wanted -= len(block)


def _claims_more(log_of_header: str) -> bool:
    """Whether libsndfile shortened the data of a WAV or AIFF file to what there is.

    A size of 0 or of all ones is what programs write that do not know the size yet, and says nothing.
    """
    for line in log_of_header.splitlines():
        if line.strip().startswith(("data :", "SSND :")) and "(should be" in line:
            claimed = line.split(":", 1)[1].split("(")[0].strip()
            return claimed.isdecimal() and 0 < int(claimed) < 0x7FFF0000
    return False


def _facts_sndfile(file: Any, name: str) -> MediaFacts:
    if not file.frames:
        raise MediaError(f"{name}: holds no sound (0 samples). Fetch it again, or take the sample out.")
    details = {"format": file.format, "samples": file.subtype, "rate": f"{file.samplerate} Hz", "decoder": "libsndfile"}
    shape = {"channels": int(file.channels), "samples": int(file.frames)}
    return MediaFacts("audio", shape, file.frames / file.samplerate, details)


def _opened_av(source: Source) -> Any:
    import av

    av.logging.set_level(None)
    return av.open(source.nameable(), options={"format_whitelist": CONTAINERS}, metadata_errors="replace")


def _sound_track(container: Any, name: str) -> Any:
    if not container.streams.audio:
        kinds = sorted({stream.type for stream in container.streams})
        raise MediaError(
            f"{name}: has no sound track (it is {container.format.name} with: {', '.join(kinds) or 'nothing'}). Take "
            f"the sample out, or name its slot otherwise."
        )
    track = container.streams.audio[0]
    if not track.rate:
        raise ValueError("a sound track that does not tell its rate")
    check_rate(track.rate, name)
    return track


def _decode_av(source: Source, start: float, seconds: float | None, mix: Mix) -> Heard:
    import av

    name = source.name

    with _opened_av(source) as container:
        track = _sound_track(container, name)
        if start:
            container.seek(round(start * av.time_base))
        rate, end = int(track.rate), None if seconds is None else start + seconds
        pieces: list[Samples] = []
        count = 0
        for when, piece in _pieces(container, track, mix):
            if end is not None and when >= end:
                break
            kept = piece[max(0, round((start - when) * rate)) :]
            pieces.append(kept)
            count += len(kept)
            if count > MAX_SAMPLES:
                raise MediaError(too_much(name, f"more than {MAX_SAMPLES:,} samples"))
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    return Heard(samples if seconds is None else samples[: math.ceil(seconds * rate)], rate, "PyAV")


def _pieces(container: Any, track: Any, mix: Mix) -> Iterator[tuple[float, Samples]]:
    """Seconds from the beginning and mono samples of each frame."""
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
    with _opened_av(source) as container:
        track = _sound_track(container, source.name)
        length: Sequence[Any] = [
            float(track.duration * track.time_base) if track.duration else None,
            container.duration / 1_000_000 if container.duration else None,
        ]
        seconds = next((found for found in length if found), None)
        shape = {"channels": int(track.channels)}
        if seconds is not None:
            shape["samples"] = round(seconds * track.rate)
        details = {"format": container.format.name, "codec": track.codec_context.name, "rate": f"{track.rate} Hz"}
        return MediaFacts("audio", shape, seconds, details | {"decoder": "FFmpeg (PyAV)"})


def check_rate(rate: int, name: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise MediaError(
            f"{name}: {rate:,} samples a second are outside {MIN_RATE:,} to {MAX_RATE:,} Hz. Is its header right? "
            f"Resample it first."
        )


def too_much(name: str, what: str) -> str:
    return (
        f"{name}: {what} are more than the limit of {MAX_SAMPLES:,} samples "
        f"(omnivit.media.audio_decode.MAX_SAMPLES). Cut it into pieces first."
    )
