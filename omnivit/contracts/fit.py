"""Which part of a source image a model sees: the map between pixels of the source and places in the model's image.

Shapes: sizes are (height, width); a point is (x, y) in pixels, from the left and upper edge of the image; a box is
(x0, y0, x1, y1).
"""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[int, int]
"""Height and width."""
View = tuple[float, float, float, float]
"""Left, top, right, bottom of an area, in pixels."""


@dataclass(frozen=True)
class Fit:
    """The area of a source image that fills the model's image.

    It is kept in pixels of the source, not as the scale to the model's pixels, so that a coordinate is divided by whole
    numbers once: the texts of published models are equal to the last digit.
    """

    source: Size
    """Size of the source image after its EXIF rotation."""
    view: View
    """The area of the source that the model's image shows. It reaches beyond the source where that was padded, and its
    left side is greater than its right side where the image was mirrored."""
    size: Size
    """Size of the model's image."""

    def share(self, x: float, y: float) -> tuple[float, float]:
        """A point of the source -> its place in the model's image, in shares of its width and height."""
        left, top, right, bottom = self.view
        return (x - left) / (right - left), (y - top) / (bottom - top)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point of the source -> its place in the model's image, in pixels of that image."""
        across, down = self.share(x, y)
        return across * self.size[1], down * self.size[0]

    def pixel(self, across: float, down: float) -> tuple[float, float]:
        """A place in the model's image, in shares of its width and height -> the point of the source."""
        left, top, right, bottom = self.view
        return left + across * (right - left), top + down * (bottom - top)

    def matrix(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """The affine map [2, 3] from points (x, y, 1) of the source to pixels of the model's image."""
        left, top, right, bottom = self.view
        x, y = self.size[1] / (right - left), self.size[0] / (bottom - top)
        return (x, 0.0, -left * x), (0.0, y, -top * y)
