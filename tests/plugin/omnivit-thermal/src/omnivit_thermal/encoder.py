"""`thermal`: surface temperatures, in patches that know their place, through a small transformer.

Shapes: M images, H x W pixels, S patches of an image (padded), P pixels of a patch, D width, G heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omnivit.plugin import Card, Encoder, EncoderExample, Features, Media, MediaError, MediaFacts, read_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from omnivit_thermal.radiometric import RadiometricError, Thermogram, pack, unpack


@dataclass
class ThermalConfig:
    """What a recipe may say to `thermal`."""

    patch: int = 8
    """Pixels along the side of a patch."""
    max_rows: int = 256
    """Most patches of an image; one of a finer camera is averaged down first."""
    width: int = 64
    """D, a multiple of 4 and of `heads`."""
    depth: int = 1
    """Layers of the transformer."""
    heads: int = 4
    """Attention heads."""
    low: float = 253.15
    """Kelvin that becomes 0 ..."""
    high: float = 393.15
    """... and kelvin that becomes 1."""

    def __post_init__(self) -> None:
        if min(self.patch, self.max_rows, self.width, self.heads) < 1 or self.depth < 0:
            raise ValueError("patch, max_rows, width and heads must be at least 1, depth at least 0.")
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of 4 and of heads ({self.heads}).")
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high}).")


@dataclass(frozen=True)
class ThermalProcessor:
    """One image -> `patches` [S, P] of temperatures, `sizes` [2]: patches along y and x."""

    patch: int
    max_rows: int
    low: float
    high: float

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read one image. Raises MediaError."""
        kelvin = torch.from_numpy(thermogram(media).kelvin())
        pixels = (kelvin - self.low) / (self.high - self.low)
        lines, columns = self._sizes(*pixels.shape)
        pixels = F.adaptive_avg_pool2d(pixels[None], (lines * self.patch, columns * self.patch))
        patches = F.unfold(pixels[None], self.patch, stride=self.patch)[0].T
        return {"patches": patches.contiguous(), "sizes": torch.tensor([lines, columns])}

    def _sizes(self, height: int, width: int) -> tuple[int, int]:
        """Patches along y and x: those that the pixels fill, or as many as are allowed, in the image's proportions."""
        lines, columns = max(1, height // self.patch), max(1, width // self.patch)
        shrink = (self.max_rows / (lines * columns)) ** 0.5
        if shrink >= 1:
            return lines, columns
        lines = min(max(1, int(lines * shrink)), self.max_rows)
        return lines, max(1, min(int(columns * shrink), self.max_rows // lines))

    def length(self, item: Mapping[str, Tensor]) -> int:
        """A row for each patch."""
        return int(item["sizes"].prod())

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...]:
        """(y, x)."""
        return tuple(item["sizes"].tolist())

    def fingerprint(self) -> str:
        """Every setting."""
        return repr(self)


class ThermalEncoder(Encoder):
    """Rows [M, S, D] of patches, each having seen the whole image."""

    Config = ThermalConfig
    modality = "thermal"
    contract = 1
    version = 1
    card = Card(tokens="one a patch: 70 for 60 x 80 pixels and patches of 8 x 8; at most max_rows")

    def __init__(self, config: ThermalConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.embed = nn.Linear(config.patch**2, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def processor(self) -> ThermalProcessor:
        """Reads images."""
        return ThermalProcessor(self.config.patch, self.config.max_rows, self.config.low, self.config.high)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """`patches` [M, S, P], `sizes` [M, 2] -> Features [M, S, D] with the place of each row."""
        patches, sizes = items["patches"], items["sizes"]
        number = torch.arange(patches.shape[1], device=patches.device).expand(patches.shape[:2])
        mask = number < sizes.prod(dim=1)[:, None]
        places = torch.stack([number // sizes[:, 1:], number % sizes[:, 1:]], dim=2)
        patches = patches.to(self.embed.weight.dtype).masked_fill(~mask[..., None], 0)
        rows = self.embed(patches) + 0.1 * waves((places + 0.5) / sizes[:, None], self.width).to(patches.dtype)
        for block in self.blocks:
            rows = block(rows, mask)
        return Features(self.norm(rows), mask, places.masked_fill(~mask[..., None], -1))

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Resolution and temperatures. Raises MediaError."""
        image = thermogram(media)
        kelvin = image.kelvin()
        range_ = f"{kelvin.min():.1f} to {kelvin.max():.1f} K"
        shape = {"height": kelvin.shape[0], "width": kelvin.shape[1]}
        return MediaFacts("thermogram", shape, details={"surface": range_, "emissivity": f"{image.emissivity:.2f}"})

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """Images of three cameras, one of them finer than `max_rows` lets through."""
        rng = np.random.default_rng(0)
        names = []
        for height, width in ((9, 11), (16, 40), (61, 83)):
            counts = rng.integers(28000, 34000, size=(height, width), dtype=np.uint16)
            names.append(f"{height}x{width}.rad")
            (folder / names[-1]).write_bytes(pack(Thermogram(counts)))
        media = [Media("thermal", name, root=str(folder)) for name in names]
        return EncoderExample(media, {"patch": 4, "max_rows": 50, "width": 16, "heads": 2})


class Block(nn.Module):
    """Attention among an image's patches, then a perceptron on each: a layer of a ViT (arXiv 2010.11929)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Rows [M, S, D], of which those count whose mask [M, S] is True -> [M, S, D]."""
        mixed = self.mix(self.norms[0](rows)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = mixed.unbind()  # [M, G, S, D / G] each
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        rows = rows + self.out(seen.transpose(1, 2).flatten(2))
        return torch.as_tensor(rows + self.perceptron(self.norms[1](rows)))


def thermogram(media: Media) -> Thermogram:
    """The image that a medium names. Raises MediaError."""
    content = read_bytes(media)
    try:
        return unpack(content)
    except RadiometricError as error:
        raise MediaError(f"{media}: {error}. Export it from the camera again, or take the sample out.") from error


def waves(places: Tensor, width: int) -> Tensor:
    """Places [M, S, 2] in [0, 1] -> [M, S, D] sines and cosines of both coordinates at falling wavelengths."""
    rates = torch.pi * 2.0 ** torch.arange(width // 4, device=places.device)
    angles = places[..., None] * rates.clamp(max=torch.pi * 2**10)
    return torch.cat([angles.sin(), angles.cos()], dim=3).flatten(2)
