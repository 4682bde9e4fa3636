"""What ImageBind sees and hears: a medium -> tensors, as the published preprocessing makes them.

The formulas for image, audio and video are those of ImageBind's `data.py` and of the pytorchvideo revision that it asks
for. It publishes none for depth, thermal and IMU: the docstring of each function says what is known and what is ours.

Shapes: H x W pixels, N samples, S views of a medium, C videos, Q crops a video.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from omnivit.media import arrays, audio, images
from omnivit.media.video import read as video
from omnivit.plugin import Media, MediaError

SIDE = 224
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_SECONDS = 2
CLIP_FRAMES = 2
"""The first and the last of a video's two seconds."""
RATE, MEL_BINS, MEL_FRAMES = 16_000, 128, 204
MEL_MEAN, MEL_STD = -4.268, 9.138
LONG = 60.0
"""Seconds; of longer audio only the clips are read."""
WINDOW = 400
"""Samples of one spectrum: 25 ms."""
DEPTH_RANGE = (0.01, 50.0)
"""Metres."""
DISPARITY_MAX, DISPARITY_MEAN, DISPARITY_STD = 75.0, 0.0418, 0.0295
IMU_CHANNELS, IMU_STEPS = 6, 2000


def picture(media: Media) -> Tensor:
    """[3, 224, 224]: short side to 224 (bicubic), centre crop, normalised as CLIP. Raises MediaError."""
    view = images.cover(images.open_image(media), SIDE, SIDE, Image.Resampling.BICUBIC)
    return images.to_tensor(images.center_crop(view, SIDE, SIDE), MEAN, STD)


def clip_starts(seconds: float, count: int) -> list[Fraction]:
    """Where `count` videos of two seconds begin: evenly from the start to the last that fits; all at 0 where none does.

    As `ConstantClipsPerVideoSampler` of the pytorchvideo revision that ImageBind asks for (28fe037). Releases up to
    0.1.5 divide by the count instead, and so never reach the end.
    """
    step = Fraction(max(seconds - CLIP_SECONDS, 0)) / max(count - 1, 1)
    return [step * number for number in range(count)]


def sound(media: Media, clips: int) -> Tensor:
    """[C, 1, 128, 204] log mel spectra of C clips of two seconds; short audio is padded with 0 before normalisation.

    Clips of an audio under six seconds overlap, and the published code takes the mean off each in place, so that the
    next one meets samples from which it is gone already: so it is here, since models were trained on it. Of several
    channels the published code takes the first; here they are averaged, as everywhere.

    Raises:
        MediaError: it cannot be read, or is shorter than one window (25 ms).
    """
    seconds = audio.facts_of(media).seconds
    if seconds is not None and seconds > LONG:
        starts = clip_starts(seconds, clips)
        return torch.stack([_mel(piece - piece.mean()) for piece in (_piece(media, start) for start in starts)])
    samples = audio.read_audio(media, RATE)
    if len(samples) < WINDOW:
        raise MediaError(
            f"{media}: the audio is {1000 * len(samples) / RATE:.0f} ms long, but ImageBind needs at least 25 ms. "
            f"Remove the sample."
        )
    wave, spectra = torch.from_numpy(samples.copy()), []
    for start in clip_starts(len(samples) / RATE, clips):
        piece = wave[int(start * RATE) : int((start + CLIP_SECONDS) * RATE)]
        piece -= piece.mean()
        spectra.append(_mel(piece))
    return torch.stack(spectra)


def _piece(media: Media, start: Fraction) -> Tensor:
    """Two seconds from `start` of long audio, read with one second before and after, so that resampling sees no edge.

    Reading begins at a whole second, where samples of both rates coincide.
    """
    before = max(0, int(start) - 1)
    samples = audio.read_audio(media, RATE, seconds=CLIP_SECONDS + 3, start=before)
    first = int(start * RATE) - before * RATE
    return torch.from_numpy(samples[first : first + CLIP_SECONDS * RATE].copy())


def _mel(samples: Tensor) -> Tensor:
    """[N] -> [1, 128, 204], normalised."""
    from torchaudio.compliance import kaldi

    spectrum: Tensor = kaldi.fbank(
        samples[None],
        htk_compat=True,
        sample_frequency=RATE,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=MEL_BINS,
        dither=0.0,
        frame_length=25,
        frame_shift=10,
    )
    cut = spectrum.T[:, :MEL_FRAMES]
    full = functional.pad(cut, (0, MEL_FRAMES - cut.shape[1]))
    return ((full - MEL_MEAN) / MEL_STD)[None]


def clip(media: Media, clips: int, crops: int) -> Tensor:
    """[C Q, 3, 2, 224, 224]: two frames of each of C videos of two seconds, cut out at Q places, clip by clip.

    Three crops are the beginning, the middle and the end of the longer side; one is the middle. Frames are found by
    their times; the published code counts them at the mean rate, which is the same for videos of a constant rate.

    Raises:
        MediaError: it cannot be read.
    """
    facts = video.facts_of(media)
    seconds, total = facts.seconds or 0.0, facts.shape["frames"]
    rate = total / seconds if seconds else float(total)
    numbers: list[int] = []
    for start in clip_starts(total / rate, clips):
        first = min(math.ceil(rate * start), total - 1)
        last = min(math.ceil(rate * (start + CLIP_SECONDS)), total) - 1
        numbers += [first, max(first, last)]
    frames = video.frames_at(media, [(number + 0.5) / rate for number in numbers], side=None).frames
    scaled = [_scaled(frame) for frame in frames]
    pairs = [torch.stack(scaled[at : at + CLIP_FRAMES], dim=1) for at in range(0, len(scaled), CLIP_FRAMES)]
    places = (0.0, 0.5, 1.0) if crops == 3 else (0.5,)
    return torch.stack([_crop(pair, place) for pair in pairs for place in places])


def _scaled(frame: NDArray[np.uint8]) -> Tensor:
    """[H, W, 3] bytes -> [3, H', W'] normalised, the short side 224 (bilinear, not antialiased)."""
    height, width, _ = frame.shape
    longer = math.floor(max(height, width) / min(height, width) * SIDE)
    size = (longer, SIDE) if width < height else (SIDE, longer)
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].to(torch.float32) / 255.0
    pixels = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)[0]
    shift, scale = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels - shift) / scale


def _crop(frames: Tensor, place: float) -> Tensor:
    """[..., H, W] -> [..., 224, 224] at the beginning (0), in the middle (0.5) or at the end (1) of the longer side."""
    top, left = (math.ceil((side - SIDE) * place) for side in frames.shape[-2:])
    return frames[..., top : top + SIDE, left : left + SIDE]


@dataclass(frozen=True)
class DepthScale:
    """How the numbers of a depth map become what ImageBind was shown."""

    unit: float
    """Unit of the map in metres."""
    baseline_focal: float
    """Baseline (metres) times focal length (pixels) of the camera."""


def depth(media: Media, scale: DepthScale) -> Tensor:
    """[1, 224, 224] disparity, normalised.

    Known: ImageBind was shown disparity (its paper, appendix), and its authors published, for the SUN RGB-D of their
    earlier model (facebookresearch/omnivore, issue 12), baseline x focal length / depth with the depth between 0.01 and
    50 m, then divided by 75 at most, mean 0.0418, deviation 0.0295. Ours: the resizing (bilinear, antialiased), and
    that pixels without a reading (0, NaN) become 0, the disparity of what is infinitely far.

    Raises:
        MediaError: it cannot be read, has several channels, or no pixel with a reading.
    """
    metres = _plane(media).astype(np.float32) * np.float32(scale.unit)
    seen = with_reading(metres, media)
    near, far = DEPTH_RANGE
    disparity = np.where(seen, scale.baseline_focal / np.clip(np.where(seen, metres, far), near, far), 0.0)
    values = torch.from_numpy(disparity.astype(np.float32)).clamp(max=DISPARITY_MAX) / DISPARITY_MAX
    return (_covered(values) - DISPARITY_MEAN) / DISPARITY_STD


def check_depth(media: Media) -> None:
    """Refuse a map that `depth` refuses. Raises MediaError."""
    with_reading(_plane(media), media)


def with_reading(plane: NDArray[Any], media: Media) -> NDArray[np.bool_]:
    """Which pixels of a depth map [H, W] have a reading. Raises MediaError: none has."""
    seen: NDArray[np.bool_] = np.isfinite(plane) & (plane > 0)
    if not seen.any():
        raise MediaError(f"{media}: all pixels of the depth map are 0 or NaN. Remove the sample.")
    return seen


def thermal(media: Media) -> Tensor:
    """[1, 224, 224] between 0 and 1: one channel, short side to 224 (bicubic), centre crop, not normalised.

    Known: one channel of 224 pixels. Ours is the rest; without normalisation others come near the published accuracy
    on LLVIP (facebookresearch/ImageBind, pull request 73).

    Raises:
        MediaError: it cannot be read; an array has floating-point values outside 0 to 1.
    """
    source = media.source
    if not arrays.holds_array(media) or (isinstance(source, np.ndarray) and source.dtype == np.uint8):
        view = images.cover(images.open_image(media), SIDE, SIDE, Image.Resampling.BICUBIC)
        grey = images.center_crop(view, SIDE, SIDE).convert("L")
        return torch.from_numpy(np.array(grey, dtype=np.float32))[None] / 255.0
    plane = _plane(media)
    values = plane.astype(np.float32) / (255.0 if plane.dtype == np.uint8 else 1.0)
    if not (np.isfinite(values) & (values >= 0) & (values <= 1)).all():
        raise MediaError(
            f"{media}: a thermal image in an array must contain bytes, or floats between 0 and 1, but its values are "
            f"from {values.min():.4g} to {values.max():.4g}. Scale the temperatures to 0..1 first."
        )
    return _covered(torch.from_numpy(values))


def imu(media: Media) -> Tensor:
    """[6, 2000]: acceleration x, y, z and rotation x, y, z over five seconds, as they are.

    Known: the shape, from the model and its paper (five seconds, 2000 steps). No normalisation is published: none is
    done here.

    Raises:
        MediaError: it cannot be read, is not an array [6, 2000] or [2000, 6], or contains NaN.
    """
    table = arrays.is_table(media) and not arrays.holds_array(media)
    expected = (IMU_CHANNELS, IMU_STEPS)

    def check(shape: tuple[int, ...]) -> None:
        if shape not in (expected, expected[::-1]):
            raise MediaError(
                f"{media}: the array has shape {list(shape)}, but ImageBind needs {list(expected)} (or its transpose): "
                f"acceleration x, y, z and rotation x, y, z at 2000 steps over 5 seconds. Cut and resample the "
                f"recording."
            )

    record = arrays.read_table(media) if table else arrays.read_array(media, check=check)
    check(record.shape)
    values = np.array(record if record.shape == expected else record.T, dtype=np.float32, order="C")
    if not np.isfinite(values).all():
        raise MediaError(
            f"{media}: {int((~np.isfinite(values)).sum())} values are NaN or infinite. Fix the file, or remove the "
            f"sample."
        )
    return torch.from_numpy(values)


def _plane(media: Media) -> NDArray[Any]:
    """[H, W] numbers of an image with one channel, or of an array [H, W] or [1, H, W]."""
    if not arrays.holds_array(media):
        return images.open_plane(media)

    def check(shape: tuple[int, ...]) -> None:
        sides = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
        if len(sides) != 2 or min(sides) < 1 or max(sides) > images.MAX_ASPECT * min(sides):
            raise MediaError(
                f"{media}: the array has shape {list(shape)}, but a map of one channel [H, W] is expected, whose "
                f"longer side is at most {images.MAX_ASPECT} times the shorter."
            )

    found = arrays.read_array(media, check=check)
    return found.reshape(found.shape[-2:])


def _covered(values: Tensor) -> Tensor:
    """[H, W] -> [1, 224, 224]: short side to 224 (bilinear, antialiased), centre crop."""
    height, width = values.shape
    size = int(SIDE * height / min(height, width)), int(SIDE * width / min(height, width))
    scaled = functional.interpolate(values[None, None], size=size, mode="bilinear", antialias=True)
    return _crop(scaled[0], 0.5)
