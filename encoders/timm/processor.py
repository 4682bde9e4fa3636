"""The processor of `timm`: one image -> pixels, as timm evaluates the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from PIL import Image
from torch import Tensor

from omnivit.media import images
from omnivit.media.fit import WHITE, Fit, Mode, Size, View, centred_view, fit_image, fitted
from omnivit.plugin import Media


@dataclass(frozen=True)
class TimmProcessor:
    """One image -> `pixels` [3, H, W] float32, as timm's evaluation transform makes them; picklable, no weights."""

    patches: tuple[int, int]
    """The grid (y, x) of tokens; (0, 0) for a class token alone."""
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str
    augment: bool
    fit: Mode = field(default="crop", repr=False)
    colour: tuple[int, ...] = field(default=WHITE, repr=False)
    """Of the padding for `fit: pad`."""
    beside: int = field(default=0, repr=False)  # changes no item, hence not the fingerprint
    """Class tokens before the grid."""

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare one image; augmented only where `media.seed` is set. Raises MediaError."""
        image = fit_image(images.open_image(media), self.fit, self.colour)
        if self.augment and media.seed is not None:
            view = images.random_view(image, self.height, self.width, self._resample, media.seed)
        else:
            view = self._evaluated(image)
        return {"pixels": images.to_tensor(view, self.mean, self.std)}

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Tokens of an image: the same for all."""
        del item
        return self.beside + self.patches[0] * self.patches[1]

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, int]:
        """The grid of tokens: the same for all."""
        del item
        return self.patches

    def fingerprint(self) -> str:
        """Every setting, as text."""
        return repr(self) if self.fit == "crop" else f"{self!r} {self.fit} {self.colour}"

    def fit_of(self, media: Media) -> Fit:
        """Which part of the image the pixels show; with the augmentation of `media.seed`. Raises MediaError."""
        view = partial(self._random_view, media.seed) if self.augment and media.seed is not None else self._view
        return fitted(images.size_of(media), self.fit, view, (self.height, self.width))

    def _random_view(self, seed: int, source: Size) -> View:
        return images.random_box(*source, seed)

    def _view(self, source: Size) -> View:
        """The area of an image that `_evaluated` shows."""
        return centred_view(source, self._scaled(source), (self.height, self.width), images.margin)

    @property
    def _resample(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _scaled(self, source: Size) -> Size:
        """The size to which an image is resized before its centre is cropped."""
        outer = math.floor(self.height / self.crop_pct), math.floor(self.width / self.crop_pct)
        if self.crop_mode == "squash":
            return outer
        return (images.contained if self.crop_mode == "border" else images.covering)(source, *outer)

    def _evaluated(self, image: Image.Image) -> Image.Image:
        height, width = self._scaled((image.height, image.width))
        fill: tuple[int, ...] = (0, 0, 0)
        if self.crop_mode == "border":
            fill = tuple(round(255 * value) for value in self.mean)
        if self.crop_mode in ("squash", "border") or (width, height) != image.size:
            image = image.resize((width, height), self._resample)
        return images.center_crop(image, self.height, self.width, fill)
