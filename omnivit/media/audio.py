"""Sounds: from a medium to one channel of samples at a wanted rate.

Files are decoded by libsndfile (WAV, FLAC, OGG, MP3, AIFF, ...) and, where it does not know the container (M4A, MP4,
WebM, ...), by FFmpeg through PyAV; both in a process of their own. Channels are averaged; torchaudio resamples.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from omnivit.data.sample import Media
from omnivit.errors import MediaError, PluginError
from omnivit.media.facts import MediaFacts
from omnivit.media.files import resolve
from omnivit.media.isolate import isolated

Samples = np.ndarray[Any, np.dtype[np.float32]]
"""[N] between -1 and 1, or a little beyond."""

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_SAMPLES = 60_000_000
"""No more are read of one sound: an hour at 16 kHz, 20 minutes at 48 kHz, 240 MB."""
MIN_RATE, MAX_RATE = 4_000, 384_000
"""Samples a second that a file may have."""
MAX_LEVEL = 16.0
"""Floating-point samples lie between -1 and 1; those a little louder are kept, louder ones are on another scale."""
MAX_TERM = 1000
"""Largest denominator of the ratio of two rates. All common rates are far below; resampling 44,101 Hz to 16,000 Hz
exactly would take a filter of 3 GB, so the ratio is approximated to one part in a million."""
BLOCK = 1 << 20
"""Values that are decoded at a time, over all channels."""
CONTAINERS = "aac,ac3,aiff,amr,asf,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mp3,mpeg,mpegts,ogg,wav"
"""What FFmpeg may take a file for. It knows playlists as well, which would have it open other files."""


class Heard(NamedTuple):
    """What a decoder found."""

    samples: Samples
    rate: int
    decoder: str


def read_audio(media: Media, rate: int, seconds: float | None = None, start: float = 0.0) -> Samples:
    """Read a sound: float32 [N], the mean of its channels, at `rate` samples a second.

    The source may be a path, the bytes of a file, or a tuple (array, rate) with an array [N] or [C, N] of floats
    between -1 and 1 or of integers that fill their type.

    Args:
        media: what to read.
        rate: wanted samples a second.
        seconds: read no more than so much; None: all of it.
        start: seconds to leave out at the beginning.

    Raises:
        MediaError: the file must not or cannot be read, holds no sound, is damaged or cut short, has samples that are
            no numbers or far beyond full scale, a rate outside `MIN_RATE` to `MAX_RATE`, more than `MAX_SAMPLES`, or
            ends before `start`.
        PluginError: soundfile, PyAV or torchaudio is needed and not installed.
    """
    if start < 0 or (seconds is not None and seconds <= 0):
        raise ValueError(f"start ({start}) must be at least 0 and seconds ({seconds}) above 0")
    if isinstance(media.source, tuple):
        heard = _from_memory(media.source, str(media), seconds, start)
    else:
        source, name, size = _located(media)
        heard = isolated(decode, source, name, start, seconds, name=name, size=size)
        if heard.decoder == "PyAV":
            log.info("%s: not a format of libsndfile; decoded by FFmpeg (PyAV)", name)
    name = _name(media)
    _check_samples(heard, name, start)
    samples = resampled(heard.samples, heard.rate, rate, name)
    return samples if seconds is None else samples[: round(seconds * rate)]


def look(media: Media) -> MediaFacts:
    """What a sound file's header says: channels, samples, length, codec. Nothing is decoded.

    Raises:
        MediaError: as `read_audio`, as far as the header tells.
        PluginError: soundfile or PyAV is needed and not installed.
    """
    if isinstance(media.source, tuple):
        array, rate = _checked_tuple(media.source, str(media))
        shape = {"channels": len(array), "samples": array.shape[1]}
        return MediaFacts("sound", shape, array.shape[1] / rate, {"rate": f"{rate} Hz", "samples": str(array.dtype)})
    source, name, size = _located(media)
    return isolated(facts, source, name, name=name, size=size)


def resampled(samples: Samples, rate: int, wanted: int, name: str) -> Samples:
    """[N] at `rate` -> [ceil(N * wanted / rate)] at `wanted` samples a second.

    A windowed sinc filter (torchaudio). The ratio of the rates is exact up to terms of `MAX_TERM`.

    Raises:
        MediaError: the result would be longer than `MAX_SAMPLES`.
        PluginError: torchaudio is not installed.
    """
    if rate == wanted:
        return samples
    if len(samples) * wanted > MAX_SAMPLES * rate:
        raise MediaError(_too_much(name, f"{len(samples) / rate:.0f} seconds at {wanted:,} Hz"))
    try:
        import torch
        from torchaudio.functional import resample
    except ImportError as error:
        raise PluginError(
            f"{name}: torchaudio is needed to resample {rate:,} Hz to {wanted:,} Hz ({error}). "
            f"Run: pip install 'omnivit[audio]'"
        ) from error
    ratio = Fraction(rate, wanted).limit_denominator(MAX_TERM)
    found: Samples = resample(torch.from_numpy(samples), ratio.numerator, ratio.denominator).numpy()
    return found


def _located(media: Media) -> tuple[str | bytes, str, int]:
    """Path or bytes, its name for errors, its size in bytes."""
    source = media.source
    if isinstance(source, bytes):
        if not source:
            raise MediaError(f"{media}: is empty (0 bytes). Pass the content of a sound file.")
        return source, str(media), len(source)
    if isinstance(source, (np.ndarray, list)):
        raise MediaError(f"{media}: an array alone does not tell its rate. Pass a tuple (array, samples a second).")
    path = resolve(media)
    return str(path), str(path), path.stat().st_size


def _name(media: Media) -> str:
    return str(resolve(media)) if isinstance(media.source, (str, Path)) else str(media)


def _check_samples(heard: Heard, name: str, start: float) -> None:
    samples = heard.samples
    if not len(samples):
        where = f" after the first {start:g} seconds" if start else ""
        raise MediaError(f"{name}: holds no sound{where} (0 samples). Fetch it again, or take the sample out.")
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise MediaError(f"{name}: {bad:,} of {len(samples):,} samples are NaN or infinite. Mend it, or take it out.")
    if (level := float(np.abs(samples).max())) > MAX_LEVEL:
        raise MediaError(
            f"{name}: its samples go up to {level:.4g}, but full scale is 1 (limit: {MAX_LEVEL:g}). Divide them by "
            f"their scale first, or store them as integers."
        )


def _check_rate(rate: int, name: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise MediaError(
            f"{name}: {rate:,} samples a second are outside {MIN_RATE:,} to {MAX_RATE:,} Hz. Is its header right? "
            f"Resample it first."
        )


def _too_much(name: str, what: str) -> str:
    return (
        f"{name}: {what} are more than the limit of {MAX_SAMPLES:,} samples (omnivit.media.audio.MAX_SAMPLES). Cut it "
        f"into pieces first."
    )


# --- sounds in memory


def _from_memory(source: tuple[Any, ...], name: str, seconds: float | None, start: float) -> Heard:
    array, rate = _checked_tuple(source, name)
    first = round(start * rate)
    last = None if seconds is None else first + math.ceil(seconds * rate)
    return Heard(_mono(_as_float(array[:, first:last])), rate, "memory")


def _checked_tuple(source: tuple[Any, ...], name: str) -> tuple[np.ndarray[Any, Any], int]:
    """[C, N] of a known type, and the rate."""
    if len(source) != 2 or not isinstance(source[1], (int, np.integer)) or isinstance(source[1], bool):
        raise MediaError(f"{name}: a sound in memory is a tuple (array, samples a second), the second a whole number.")
    array = np.asarray(source[0])
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise MediaError(
            f"{name}: an array of {array.dtype} with shape {list(array.shape)} is no sound. Available: floats or "
            f"integers with shape [samples] or [channels, samples]."
        )
    if array.ndim == 2 and array.shape[0] > array.shape[1]:
        raise MediaError(
            f"{name}: has shape {list(array.shape)}: more channels than samples? [channels, samples] is expected: "
            f"transpose it."
        )
    if array.shape[-1] > MAX_SAMPLES:
        raise MediaError(_too_much(name, f"{array.shape[-1]:,} samples"))
    _check_rate(int(source[1]), name)
    return np.atleast_2d(array), int(source[1])


def _as_float(array: np.ndarray[Any, Any]) -> Samples:
    """Integers fill -1 to 1; half of the range of unsigned ones is silence."""
    kind, half = array.dtype.kind, 2.0 ** (8 * array.dtype.itemsize - 1)
    middle, scale = (half if kind == "u" else 0.0), (1.0 if kind == "f" else half)
    scaled: Samples = ((array.astype(np.float64) - middle) / scale).astype(np.float32)
    return scaled


def _mono(channels: Samples) -> Samples:
    """[C, N] -> [N], their mean."""
    mixed: Samples = channels[0] if len(channels) == 1 else channels.mean(axis=0, dtype=np.float32)
    return np.ascontiguousarray(mixed)


# --- what runs in the helper process


def decode(source: str | bytes, name: str, start: float, seconds: float | None) -> Heard:
    """Decode a sound file, no more of it than wanted. Raises MediaError, and whatever the decoders raise."""
    return _first(source, name, lambda file: _decode_sndfile(file, name, start, seconds),
                  lambda: _decode_av(source, name, start, seconds))  # fmt: skip


def facts(source: str | bytes, name: str) -> MediaFacts:
    """What the header says. Raises MediaError, and whatever the decoders raise."""
    return _first(source, name, lambda file: _facts_sndfile(file, name), lambda: _facts_av(source, name))


def _first(source: str | bytes, name: str, by_sndfile: Callable[[Any], T], by_av: Callable[[], T]) -> T:
    """What libsndfile finds; where it does not know the format, what FFmpeg finds."""
    import soundfile

    if isinstance(source, str) and source.lower().endswith(".raw"):
        raise MediaError(f"{name}: bare samples do not tell their rate and type. Convert them to WAV.")
    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except soundfile.LibsndfileError as error:
        return _by_av(by_av, name, error)
    with file:
        _check_rate(file.samplerate, name)
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


def _decode_sndfile(file: Any, name: str, start: float, seconds: float | None) -> Heard:
    rate, first = int(file.samplerate), round(start * file.samplerate)
    wanted = max(0, int(file.frames) - first)
    if seconds is not None:
        wanted = min(wanted, math.ceil(seconds * rate))
    if wanted > MAX_SAMPLES:
        raise MediaError(_too_much(name, f"{wanted:,} samples"))
    if wanted and first:
        file.seek(first)
    blocks = list(_blocks(file, wanted))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if len(samples) < wanted or _claims_more(file.extra_info):
        raise MediaError(
            f"{name}: is cut short: {len(samples):,} samples of {file.format} could be read, but its header promises "
            f"more. Fetch it again, or take the sample out."
        )
    return Heard(samples, rate, "libsndfile")


def _blocks(file: Any, wanted: int) -> Iterator[Samples]:
    """Mono blocks of up to `wanted` samples; fewer where the file ends."""
    size = max(1, BLOCK // file.channels)
    while wanted > 0:
        block: Samples = file.read(min(size, wanted), dtype="float32", always_2d=True)
        if not len(block):
            return
        yield _mono(block.T)
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
    return MediaFacts("sound", shape, file.frames / file.samplerate, details)


def _opened_av(source: str | bytes) -> Any:
    import av

    av.logging.set_level(None)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    return av.open(file, options={"format_whitelist": CONTAINERS}, metadata_errors="replace")


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
    _check_rate(track.rate, name)
    return track


def _decode_av(source: str | bytes, name: str, start: float, seconds: float | None) -> Heard:
    import av

    with _opened_av(source) as container:
        track = _sound_track(container, name)
        if start:
            container.seek(round(start * av.time_base))
        rate, end = int(track.rate), None if seconds is None else start + seconds
        pieces: list[Samples] = []
        count = 0
        for when, piece in _pieces(container, track):
            if end is not None and when >= end:
                break
            kept = piece[max(0, round((start - when) * rate)) :]
            pieces.append(kept)
            count += len(kept)
            if count > MAX_SAMPLES:
                raise MediaError(_too_much(name, f"more than {MAX_SAMPLES:,} samples"))
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    return Heard(samples if seconds is None else samples[: math.ceil(seconds * rate)], rate, "PyAV")


def _pieces(container: Any, track: Any) -> Iterator[tuple[float, Samples]]:
    """Seconds from the beginning and mono samples of each frame."""
    import av

    converter, when = av.AudioResampler(format="fltp"), 0.0
    for frame in container.decode(track):
        if frame.pts is not None:
            when = float((frame.pts - (track.start_time or 0)) * frame.time_base)
        for plain in converter.resample(frame):
            piece = _mono(plain.to_ndarray().astype(np.float32, copy=False))
            yield when, piece
            when += len(piece) / track.rate


def _facts_av(source: str | bytes, name: str) -> MediaFacts:
    with _opened_av(source) as container:
        track = _sound_track(container, name)
        length: Sequence[Any] = [
            float(track.duration * track.time_base) if track.duration else None,
            container.duration / 1_000_000 if container.duration else None,
        ]
        seconds = next((found for found in length if found), None)
        shape = {"channels": int(track.channels)}
        if seconds is not None:
            shape["samples"] = round(seconds * track.rate)
        details = {"format": container.format.name, "codec": track.codec_context.name, "rate": f"{track.rate} Hz"}
        return MediaFacts("sound", shape, seconds, details | {"decoder": "FFmpeg (PyAV)"})
