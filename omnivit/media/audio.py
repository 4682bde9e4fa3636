"""Sounds: from a medium to one channel of samples at a wanted rate.

Files are decoded by libsndfile (WAV, FLAC, OGG, MP3, AIFF, ...) and, where it does not know the container (M4A, MP4,
WebM, ...), by FFmpeg through PyAV; both in a process of their own. Channels are averaged; torchaudio resamples.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import logging
import math
from fractions import Fraction
from typing import Any

import numpy as np

from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError, PluginError
from omnivit.media import audio_decode
from omnivit.media.audio_decode import Heard, Mix, Samples, check_rate, decode, facts, mixed, too_much
from omnivit.media.isolate import isolated
from omnivit.media.locate import opened
from omnivit.media.source import Source, reading

log = logging.getLogger(__name__)

_said: set[str] = set()
"""Files that were told of."""

MAX_LEVEL = 16.0
"""Floating-point samples lie between -1 and 1; those a little louder are kept, louder ones are on another scale."""
MAX_TERM = 1000
"""Largest denominator of the ratio of two rates. All common rates are far below; resampling 44,101 Hz to 16,000 Hz
exactly would take a filter of 3 GB, so the ratio is approximated to one part in a million."""


def read_audio(media: Media, rate: int, seconds: float | None = None, start: float = 0.0) -> Samples:
    """Read a sound: float32 [N], the mean of its channels, at `rate` samples a second.

    Channels of opposite phase would be silent in their mean: of such, the loudest is taken, and the log says so.

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
        name = str(media)
        heard = _from_memory(media.source, name, seconds, start)
    else:
        with _opened(media) as source:
            name = source.name
            heard = isolated(decode, source, start, seconds, name=name, size=source.size)
        if heard.decoder == "PyAV":
            log.info("%s: not a format of libsndfile; decoded by FFmpeg (PyAV)", name)
    _say_cancelled(heard, name)
    _check_samples(heard, name, start)
    with reading(name):
        samples = resampled(heard.samples, heard.rate, rate, name)
    return samples if seconds is None else samples[: round(seconds * rate)]


def facts_of(media: Media) -> MediaFacts:
    """What a sound file's header says: channels, samples, length, codec. Nothing is decoded.

    Raises:
        MediaError: as `read_audio`, as far as the header tells.
        PluginError: soundfile or PyAV is needed and not installed.
    """
    if isinstance(media.source, tuple):
        array, rate = _checked_tuple(media.source, str(media))
        shape = {"channels": len(array), "samples": array.shape[1]}
        return MediaFacts("audio", shape, array.shape[1] / rate, {"rate": f"{rate} Hz", "samples": str(array.dtype)})
    with _opened(media) as source:
        return isolated(facts, source, name=source.name, size=source.size)


def resampled(samples: Samples, rate: int, wanted: int, name: str) -> Samples:
    """[N] at `rate` -> [ceil(N * wanted / rate)] at `wanted` samples a second.

    A windowed sinc filter (torchaudio). The ratio of the rates is exact up to terms of `MAX_TERM`.

    Raises:
        MediaError: the result would be longer than `MAX_SAMPLES`.
        PluginError: torchaudio is not installed.
    """
    if rate == wanted:
        return samples
    if len(samples) * wanted > audio_decode.MAX_SAMPLES * rate:
        raise MediaError(too_much(name, f"{len(samples) / rate:.0f} seconds at {wanted:,} Hz"))
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


def _opened(media: Media) -> Source:
    """The file, or its bytes."""
    if isinstance(media.source, (np.ndarray, list)):
        raise MediaError(f"{media}: an array alone does not tell its rate. Pass a tuple (array, samples a second).")
    return opened(media)


def _say_cancelled(heard: Heard, name: str) -> None:
    """Log once for each file that its mean is silent."""
    if heard.cancelled and name not in _said:
        _said.add(name)
        log.warning(
            "%s: its channels cancel each other out (is one of them inverted?): the loudest is heard instead of their "
            "mean",
            name,
        )


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


# --- sounds in memory


def _from_memory(source: tuple[Any, ...], name: str, seconds: float | None, start: float) -> Heard:
    array, rate = _checked_tuple(source, name)
    first = round(start * rate)
    last = None if seconds is None else first + math.ceil(seconds * rate)
    channels = _as_float(array[:, first:last])

    def heard(mix: Mix) -> Heard:
        return Heard(mix.add(channels), rate, "memory")

    return mixed(heard)


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
    if array.shape[-1] > audio_decode.MAX_SAMPLES:
        raise MediaError(too_much(name, f"{array.shape[-1]:,} samples"))
    check_rate(int(source[1]), name)
    return np.atleast_2d(array), int(source[1])


def _as_float(array: np.ndarray[Any, Any]) -> Samples:
    """Integers fill -1 to 1; half of the range of unsigned ones is silence."""
    kind, half = array.dtype.kind, 2.0 ** (8 * array.dtype.itemsize - 1)
    middle, scale = (half if kind == "u" else 0.0), (1.0 if kind == "f" else half)
    scaled: Samples = ((array.astype(np.float64) - middle) / scale).astype(np.float32)
    return scaled
