"""Audio: from a medium to one channel of samples at a given sampling rate.

Files are decoded by libsndfile (WAV, FLAC, OGG, MP3, AIFF, ...) and, if libsndfile does not know the container (M4A,
MP4, WebM, ...), by FFmpeg through PyAV; both run in the helper process. Channels are averaged; torchaudio resamples.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import logging
import math
from fractions import Fraction
from typing import Any

import numpy as np

from omnivit import moved
from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError, PluginError
from omnivit.media import audio_decode
from omnivit.media.advice import REMOVE, download_again
from omnivit.media.audio_decode import Heard, Mix, Samples, check_rate, decode, facts, mixed, too_long
from omnivit.media.isolate import isolated
from omnivit.media.locate import opened
from omnivit.media.source import reading

log = logging.getLogger(__name__)

_warned: set[str] = set()
"""Files that a warning was logged for."""

MAX_LEVEL = 16.0
"""Floating-point samples are between -1 and 1. Samples up to this level are kept; beyond it they use another scale."""
MAX_TERM = 1000
"""Largest denominator of the ratio of two sampling rates. All common rates are far below. To resample 44,101 Hz to
16,000 Hz exactly would take a filter of 3 GB, so such a ratio is approximated to one part in a million."""


def read_audio(media: Media, rate: int, seconds: float | None = None, start: float = 0.0) -> Samples:
    """Read audio: float32 [N], the mean of its channels, at a sampling rate of `rate` Hz.

    Channels of opposite phase cancel each other in the mean; then the loudest channel is used, and a warning is logged.

    The source is a path, the bytes of a file, or a tuple (array, rate) with an array [N] or [C, N] of floats between
    -1 and 1, or of integers that use the full range of their type.

    Args:
        media: what to read.
        rate: sampling rate of the result in Hz.
        seconds: read at most this length; None: read all.
        start: seconds to skip at the beginning.

    Raises:
        MediaError: the file cannot be opened or read, contains no audio, is damaged or cut short, contains NaN or
            samples far beyond full scale, has a sampling rate outside `MIN_RATE` to `MAX_RATE` or more than
            `MAX_SAMPLES` samples, or ends before `start`.
        PluginError: soundfile, PyAV or torchaudio is needed but not installed.
    """
    if start < 0 or (seconds is not None and seconds <= 0):
        raise ValueError(f"start ({start}) must be at least 0 and seconds ({seconds}) above 0")
    if isinstance(media.source, tuple):
        name = str(media)
        heard = _from_memory(media.source, name, seconds, start)
    else:
        _refuse_bare_array(media)
        with opened(media) as source:
            name = source.name
            heard = isolated(decode, source, start, seconds, name=name, size=source.size)
        if heard.decoder == "PyAV":
            log.info("%s: libsndfile does not know this format; decoded by FFmpeg (PyAV)", name)
    _warn_cancelled(heard, name)
    _check_samples(heard, name, start)
    with reading(name):
        samples = resampled(heard.samples, heard.rate, rate, name)
    return samples if seconds is None else samples[: round(seconds * rate)]


def facts_of(media: Media) -> MediaFacts:
    """Channels, samples, length and codec of audio, from the header. Nothing is decoded.

    Raises:
        MediaError: as `read_audio`, for what the header shows.
        PluginError: soundfile or PyAV is needed but not installed.
    """
    if isinstance(media.source, tuple):
        array, rate = _checked_tuple(media.source, str(media))
        shape = {"channels": len(array), "samples": array.shape[1]}
        return MediaFacts("audio", shape, array.shape[1] / rate, {"rate": f"{rate} Hz", "samples": str(array.dtype)})
    _refuse_bare_array(media)
    with opened(media) as source:
        return isolated(facts, source, name=source.name, size=source.size)


def resampled(samples: Samples, rate: int, new_rate: int, name: str) -> Samples:
    """[N] at `rate` Hz -> [ceil(N * new_rate / rate)] at `new_rate` Hz.

    Uses a windowed sinc filter (torchaudio). The ratio of the rates is exact for denominators up to `MAX_TERM`.

    Raises:
        MediaError: the result would have more than `MAX_SAMPLES` samples.
        PluginError: torchaudio is not installed.
    """
    if rate == new_rate:
        return samples
    if len(samples) * new_rate > audio_decode.MAX_SAMPLES * rate:
        raise MediaError(too_long(name, f"{len(samples) / rate:.0f} seconds at {new_rate:,} Hz"))
    try:
        import torch
        from torchaudio.functional import resample
    except ImportError as error:
        raise PluginError(
            f"{name}: torchaudio is needed to resample {rate:,} Hz to {new_rate:,} Hz ({error}). "
            f"Run: pip install 'omnivit[audio]'"
        ) from error
    ratio = Fraction(rate, new_rate).limit_denominator(MAX_TERM)
    filtered: Samples = resample(torch.from_numpy(samples), ratio.numerator, ratio.denominator).numpy()
    return filtered


def _refuse_bare_array(media: Media) -> None:
    """Raises MediaError for samples in memory that come without their sampling rate."""
    if isinstance(media.source, (np.ndarray, list)):
        raise MediaError(
            f"{media}: the sampling rate of an array is unknown. Pass a tuple (array, sampling rate in Hz)."
        )


def _warn_cancelled(heard: Heard, name: str) -> None:
    """Log, once for each file, that its channels cancel each other out."""
    if heard.cancelled and name not in _warned:
        _warned.add(name)
        log.warning(
            "%s: its channels cancel each other out (is one of them inverted?): the loudest channel is used instead of "
            "their mean",
            name,
        )


def _check_samples(heard: Heard, name: str, start: float) -> None:
    samples = heard.samples
    if not len(samples):
        where = f" after the first {start:g} seconds" if start else ""
        raise MediaError(f"{name}: contains no audio{where} (0 samples). {download_again()}")
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise MediaError(
            f"{name}: {bad:,} of {len(samples):,} samples are NaN or infinite. Repair the file, or {REMOVE}."
        )
    if (level := float(np.abs(samples).max())) > MAX_LEVEL:
        raise MediaError(
            f"{name}: its samples reach {level:.4g}, but full scale is 1 (limit: {MAX_LEVEL:g}). Divide them by "
            f"their scale first, or store them as integers."
        )


# --- audio in memory


def _from_memory(source: tuple[Any, ...], name: str, seconds: float | None, start: float) -> Heard:
    array, rate = _checked_tuple(source, name)
    first = round(start * rate)
    last = None if seconds is None else first + math.ceil(seconds * rate)
    channels = _as_float(array[:, first:last])

    def heard(mix: Mix) -> Heard:
        return Heard(mix.add(channels), rate, "memory")

    return mixed(heard)


def _checked_tuple(source: tuple[Any, ...], name: str) -> tuple[np.ndarray[Any, Any], int]:
    """The samples as [C, N], and the sampling rate. Raises MediaError for what is not audio."""
    if len(source) != 2 or not isinstance(source[1], (int, np.integer)) or isinstance(source[1], bool):
        raise MediaError(f"{name}: audio in memory must be a tuple (array, sampling rate in Hz as an integer).")
    array = np.asarray(source[0])
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise MediaError(
            f"{name}: an array of {array.dtype} with shape {list(array.shape)} is not audio. Available: floats or "
            f"integers with shape [samples] or [channels, samples]."
        )
    if array.ndim == 2 and array.shape[0] > array.shape[1]:
        raise MediaError(
            f"{name}: the array has shape {list(array.shape)}, so more channels than samples. Transpose it: the shape "
            f"[channels, samples] is expected."
        )
    if array.shape[-1] > audio_decode.MAX_SAMPLES:
        raise MediaError(too_long(name, f"{array.shape[-1]:,} samples"))
    check_rate(int(source[1]), name)
    return np.atleast_2d(array), int(source[1])


def _as_float(array: np.ndarray[Any, Any]) -> Samples:
    """Samples as float32: the range of an integer type becomes -1 to 1; for unsigned types, its middle is silence."""
    kind, half = array.dtype.kind, 2.0 ** (8 * array.dtype.itemsize - 1)
    middle, scale = (half if kind == "u" else 0.0), (1.0 if kind == "f" else half)
    scaled: Samples = ((array.astype(np.float64) - middle) / scale).astype(np.float32)
    return scaled


def __getattr__(name: str) -> Any:
    return moved.attribute(__name__, name)  # names that have moved
