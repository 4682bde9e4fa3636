"""`features`: tokens that another program has computed, read as a medium; this encoder has no model.

For features that are computed elsewhere: once, on a large machine, or with a model that OmniViT does not support. A
file (`.npy`, `.npz`, `.safetensors`) contains the tokens of one medium; media may have different numbers of them.

Shapes: M media, S tokens (padded), D width, (T, H, W) a grid, k its number of axes (0, 2 or 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from omnivit.media.advice import or_remove
from omnivit.plugin import (
    Card,
    Encoder,
    EncoderExample,
    Features,
    Media,
    MediaError,
    MediaFacts,
    Stored,
    list_arrays,
    read_array,
    synthetic,
)


@dataclass
class FeaturesConfig:
    """Options of `features`."""

    width: int
    """D, the width of the tokens. A file with another width is an error."""
    layout: Literal["SD", "HWD", "THWD"] = "SD"
    """Axes of the array in a file: tokens [S, D] (or one token [D]), a grid [H, W, D], or a video [T, H, W, D]. An
    additional first axis of size 1 is removed."""
    key: str | None = None
    """Name of the array in a `.safetensors` or `.npz` file; not needed if the file contains only one."""
    max_rows: int | None = None
    """Largest number of tokens of a medium; more are an error. Default: no limit except 512 MB for a file."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of the tokens."""

    def __post_init__(self) -> None:
        for name in ("width", "max_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` is {value}; it must be at least 1.")

    @property
    def axes(self) -> int:
        """k, how many axes the grid of tokens has; 0 where there is none."""
        return len(self.layout) - 1 if self.layout != "SD" else 0


@dataclass(frozen=True)
class FeaturesProcessor:
    """A file -> `values` [S, D], `count` [] and, where tokens fill a grid, its `sizes` [k]; no weights."""

    config: FeaturesConfig

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read one medium's tokens. Raises MediaError."""
        config, name = self.config, str(media)
        array = read_array(media, config.key, lambda shape: _check(shape, config, name))
        shape = _without_batch(array.shape, len(config.layout))
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            values = np.array(array, dtype=np.float32, order="C").reshape(-1, config.width)
        rows = torch.from_numpy(values).to(getattr(torch, config.dtype))
        _check_finite(rows, name)
        item = {"values": rows, "count": torch.tensor(len(rows))}
        return item | ({"sizes": torch.tensor(shape[:-1])} if config.axes else {})

    def length(self, item: Mapping[str, Tensor]) -> int:
        """The tokens of the file."""
        return int(item["count"])

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        """The grid of the file, (y, x) or (t, y, x)."""
        return tuple(item["sizes"].tolist()) if self.config.axes else None

    def fingerprint(self) -> str:
        """Every setting, as text."""
        return repr(self.config)


class FeaturesEncoder(Encoder):
    """The tokens as they were stored ([M, S, D]); nothing is computed."""

    contract = 1
    Config = FeaturesConfig
    modality = "features"
    card = Card(tokens="as many as the file holds")

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width

    def processor(self) -> FeaturesProcessor:
        """Reads the files."""
        return FeaturesProcessor(self.config)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """`values` [M, S, D], `count` [M], `sizes` [M, k] -> Features [M, S, D]; the filling is masked out."""
        values = items["values"].to(getattr(torch, self.config.dtype))
        row = torch.arange(values.shape[1], device=values.device)
        mask = row < items["count"][:, None]
        return Features(values, mask, _places(items["sizes"], row, mask) if self.config.axes else None)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """Grids of three shapes, with tokens of 8 numbers."""
        for y, x in ((3, 5), (1, 2), (4, 4)):
            np.save(folder / f"{y}x{x}.npy", synthetic.noise(y, x, 8))
        media = [Media("features", path.name, str(folder)) for path in sorted(folder.iterdir())]
        return EncoderExample(media, {"width": 8, "layout": "HWD"})

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """The shape of the array in a file; a single one is read, and refused as in training. Raises MediaError."""
        arrays = list_arrays(media)
        if len(arrays) == 1:
            shape = _named(arrays[0])
            with np.errstate(over="ignore"):
                values = np.array(read_array(media), dtype=np.float32, order="C")
            width = values.shape[-1] if values.ndim and values.size else 1
            _check_finite(torch.from_numpy(values.reshape(-1, width)), str(media))
            return MediaFacts("features", shape, details={"numbers": arrays[0].dtype})
        listed = {array.key: f"{array.dtype} {list(array.shape)}" for array in arrays[:20]}
        return MediaFacts("features", {"arrays": len(arrays)}, details=listed)


def _check_finite(rows: Tensor, name: str) -> None:
    """Refuse tokens [S, D] that hold NaN or infinite values. Raises MediaError."""
    bad = int((~rows.isfinite()).any(dim=1).sum())
    if bad:
        kind = str(rows.dtype).removeprefix("torch.")
        raise MediaError(
            f"{name}: {bad} of {len(rows)} tokens contain NaN, infinite values, or values that {kind} cannot "
            f"represent. {or_remove('Encode the medium again')}"
        )


def _named(array: Stored) -> dict[str, int]:
    """The sizes of an array by the names that they most likely have."""
    names = {1: ("width",), 2: ("rows", "width"), 3: ("y", "x", "width"), 4: ("t", "y", "x", "width")}
    axes = names.get(len(array.shape), tuple(f"axis {number}" for number in range(len(array.shape))))
    return dict(zip(axes, array.shape, strict=True))


def _without_batch(shape: tuple[int, ...], wanted: int) -> tuple[int, ...]:
    """With so many axes, where a leading one of size 1 may be taken off, or one token put into an axis of tokens."""
    if len(shape) == wanted + 1 and shape[0] == 1:
        return shape[1:]
    return (1, *shape) if len(shape) == 1 and wanted == 2 else shape


def _check(stored: tuple[int, ...], config: FeaturesConfig, name: str) -> None:
    shape = _without_batch(stored, len(config.layout))
    if len(shape) != len(config.layout):
        raise MediaError(
            f"{name}: the array has shape {list(shape)}, but `layout: {config.layout}` needs {len(config.layout)} "
            f"axes. Set `layout` (available: SD, HWD, THWD), or save the features with these axes."
        )
    if shape[-1] != config.width:
        raise MediaError(
            f"{name}: the tokens have width {shape[-1]} (shape {list(shape)}), but `width` is {config.width}. Check "
            f"that the file is from the right encoder, and the order of its axes."
        )
    rows = math.prod(shape[:-1])
    if rows == 0:
        raise MediaError(f"{name}: the file contains no token (shape {list(shape)}). Remove the sample.")
    if config.max_rows is not None and rows > config.max_rows:
        raise MediaError(
            f"{name}: the file contains {rows:,} tokens, but `max_rows` is {config.max_rows:,}. Raise `max_rows`, or "
            f"pool the features."
        )


def _places(sizes: Tensor, row: Tensor, mask: Tensor) -> Tensor:
    """[M, S, k] place of each token in a grid of `sizes` [M, k], the last index running fastest; -1 in the filling."""
    rest = row.expand(mask.shape)
    places = []
    for axis in reversed(range(sizes.shape[1])):
        side = sizes[:, axis, None]
        places.append(rest % side)
        rest = rest // side
    return torch.stack(places[::-1], dim=2).masked_fill(~mask[..., None], -1)
