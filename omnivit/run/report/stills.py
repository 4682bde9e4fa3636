"""A small still image of a medium, for reports: a frame, a slice, a page, a waveform, points from the side.

Files are read by the functions that encoders use, so that broken ones end in an error, not in a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image

from omnivit.contracts.sample import Media
from omnivit.errors import OmniVitError

SIDE = 128
"""Pixels of the longest side."""
FRAMES = 3
"""Frames of a video, beside each other."""
SECONDS, RATE = 60.0, 8000
"""Of audio that is drawn."""
POINTS = 4096
INK, PAPER = (31, 78, 156), (255, 255, 255)


def still(media: Media, modality: str) -> Image.Image | None:
    """An image of at most `SIDE` pixels; None where a medium has no picture or cannot be read."""
    draw = DRAWN.get(modality)
    if draw is None:
        return None
    try:
        image = draw(media).convert("RGB")
    except OmniVitError:
        return None
    image.thumbnail((SIDE * (FRAMES if modality == "video" else 1), SIDE))
    factor = SIDE // 2 // max(image.size)  # a digit of 28 pixels is hard to see
    return (
        image if factor < 2 else image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    )


def _image(media: Media) -> Image.Image:
    from omnivit.media.images import open_image

    return open_image(media)


def _video(media: Media) -> Image.Image:
    from omnivit.media.video.read import read_frames
    from omnivit.media.video.sampling import Sampling

    frames = [Image.fromarray(frame) for frame in read_frames(media, Sampling(frames=FRAMES), SIDE).frames]
    for frame in frames:
        frame.thumbnail((SIDE, SIDE))
    strip = Image.new("RGB", (sum(frame.width for frame in frames), frames[0].height), PAPER)
    for number, frame in enumerate(frames):
        strip.paste(frame, (sum(before.width for before in frames[:number]), 0))
    return strip


def _audio(media: Media) -> Image.Image:
    from omnivit.media.audio import read_audio

    samples = np.abs(read_audio(media, RATE, SECONDS))
    peaks = np.array([part.max(initial=0.0) for part in np.array_split(samples, SIDE)])
    heights = np.maximum(1, np.round(peaks / max(float(peaks.max()), 1e-6) * (SIDE // 4))).astype(int)
    pixels = np.full((SIDE // 2, SIDE, 3), PAPER, dtype=np.uint8)
    for x, height in enumerate(heights):
        pixels[SIDE // 4 - height : SIDE // 4 + height, x] = INK
    return Image.fromarray(pixels)


def _volume(media: Media) -> Image.Image:
    from omnivit.media.volume.read import read_volume
    from omnivit.media.volume.slices import View

    return read_volume(media, View(slices=1)).images()[0]


def _page(media: Media) -> Image.Image:
    from omnivit.media.pages import read_pages

    return read_pages(media, 1, longest=4 * SIDE)[0]


def _points(media: Media) -> Image.Image:
    """The points from the side, the near ones dark; with their colours where they have some."""
    from omnivit.media.points.read import read_points

    cloud = read_points(media, POINTS)
    x, depth, y = cloud.xyz.T
    scale = max(float(np.ptp(x)), float(np.ptp(y)), 1e-9)
    columns = np.round((x - (x.max() + x.min()) / 2) / scale * (SIDE - 4) + SIDE / 2).astype(int).clip(0, SIDE - 1)
    rows = np.round(SIDE / 2 - (y - (y.max() + y.min()) / 2) / scale * (SIDE - 4)).astype(int).clip(0, SIDE - 1)
    far = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-9)
    ink = np.array(INK) + (np.array(PAPER) - np.array(INK)) * 0.75 * far[:, None]
    colours = ink if cloud.rgb is None else cloud.rgb * 255
    pixels = np.full((SIDE, SIDE, 3), PAPER, dtype=np.uint8)
    order = np.argsort(-far)  # the near ones last
    pixels[rows[order], columns[order]] = colours[order].astype(np.uint8)
    return Image.fromarray(pixels)


DRAWN: Mapping[str, Callable[[Media], Image.Image]] = MappingProxyType(
    {"image": _image, "video": _video, "audio": _audio, "volume": _volume, "page": _page, "points": _points}
)
"""Modality -> the function that draws its media."""
