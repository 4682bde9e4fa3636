"""How an image of any shape is made to fit the square that an encoder takes: `crop`, `pad` or `squash`.

- `crop`: nothing is done here; the encoder's own processor decides, which usually cuts off the ends of the long side.
- `pad`: the image is put on a square, as LLaVA-1.5 (colour: the encoder's mean) and Shikra (white) do.
- `squash`: both sides become as long as the longer one, as in mPLUG-Owl2.

Then the encoder's own processor prepares the square. Each function for pixels has one for the `Fit`.

Shapes: sizes are (height, width), in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from PIL import Image

from omnivit.contracts.fit import Fit, Size, View

__all__ = ["WHITE", "Fill", "Fit", "Mode", "Size", "View", "centred_view", "colour_of", "fit_image", "fitted"]

Mode = Literal["crop", "pad", "squash"]
Fill = Literal["mean", "white"]
Colour = tuple[int, ...]
WHITE: Colour = (255, 255, 255)


def colour_of(fill: Fill, mean: Sequence[float]) -> Colour:
    """The colour of the padding: white, or the mean of an image processor (0..1 for each channel), rounded down."""
    return WHITE if fill == "white" else tuple(int(value * 255) for value in mean)


def fit_image(image: Image.Image, mode: Mode, colour: Colour = WHITE) -> Image.Image:
    """The image that the encoder's own processor prepares: itself (`crop`), or a square.

    Args:
        image: in RGB, upright.
        mode: see the module.
        colour: of the padding.
    """
    side = max(image.size)
    if mode == "crop" or image.width == image.height:
        return image
    if mode == "squash":
        return image.resize((side, side), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (side, side), colour)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def fitted(source: Size, mode: Mode, view: Callable[[Size], View], size: Size) -> Fit:
    """The `Fit` of an image that `fit_image` and then the encoder's own processor prepared.

    Args:
        source: the size of the image.
        mode: as for `fit_image`.
        view: size of an image -> the area of it that the encoder's own processor shows.
        size: of the model's image.
    """
    height, width = source
    side = max(source)
    if mode == "crop" or height == width:
        return Fit(source, view(source), size)
    left, top, right, bottom = view((side, side))
    if mode == "squash":
        # multiplied before it is divided: an edge of the image then is a whole number
        return Fit(
            source, (left * width / side, top * height / side, right * width / side, bottom * height / side), size
        )
    x, y = (side - width) // 2, (side - height) // 2
    return Fit(source, (left - x, top - y, right - x, bottom - y), size)


def centred_view(source: Size, scaled: Size, crop: Size, offset: Callable[[int, int], int]) -> View:
    """The area of an image that is left when it is resized and its centre is then cropped (or padded).

    Args:
        source: size of the image.
        scaled: size after it was resized.
        crop: size of the crop.
        offset: length of a side, length of the crop -> where the crop begins on that side; below 0 if it is padded.
    """
    top, bottom = _span(source[0], scaled[0], crop[0], offset(scaled[0], crop[0]))
    left, right = _span(source[1], scaled[1], crop[1], offset(scaled[1], crop[1]))
    return left, top, right, bottom


def _span(source: int, scaled: int, crop: int, offset: int) -> tuple[float, float]:
    # multiplied before it is divided: an edge of the image then is a whole number
    return offset * source / scaled, (offset + crop) * source / scaled
