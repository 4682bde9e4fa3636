"""Encoders that keep, read, draw or convert what they should not: one fault each. Two have none."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pcm_encoder import FRAME, Pcm, PcmConfig, PcmProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omnivit.contracts.examples import EncoderExample
from omnivit.contracts.features import Features
from omnivit.contracts.sample import Media
from omnivit.media.locate import read_bytes


class CountsWrongAtEight(Pcm):
    """Its length is one less where there are eight frames."""

    def processor(self) -> PcmProcessor:
        return RoundsAtEight(self.config.scale, self.config.noise)


class RoundsAtEight(PcmProcessor):
    def length(self, item: Mapping[str, Tensor]) -> int:
        frames = int(item["frames"])
        return frames - 1 if frames % 8 == 0 else frames


class UnpacksHeaders(Pcm):
    """Reads the first eight bytes of a file that may have fewer."""

    def processor(self) -> PcmProcessor:
        return Unpacking(self.config.scale, self.config.noise)


class Unpacking(PcmProcessor):
    def __call__(self, media: Media) -> dict[str, Tensor]:
        if content := read_bytes(media):
            struct.unpack_from("<4sf", content)
        return super().__call__(media)


class SeedsGlobally(Pcm):
    """Augments by torch's global generator, which it seeds."""

    def processor(self) -> PcmProcessor:
        return Seeding(self.config.scale, self.config.noise)


class Seeding(PcmProcessor):
    def __call__(self, media: Media) -> dict[str, Tensor]:
        item = super().__call__(Media(media.slot, media.source, media.root))
        if media.seed is None:
            return item
        torch.manual_seed(media.seed)
        return item | {"samples": item["samples"] + self.noise * torch.randn_like(item["samples"])}


class OverTheBatch(nn.BatchNorm1d):
    """BatchNorm for [M, S, D]."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows.transpose(1, 2)).transpose(1, 2)


class NormalisesTheBatch(Pcm):
    """In training, a sound depends on the others of the batch."""

    def __init__(self, config: PcmConfig) -> None:
        super().__init__(config)
        self.norm = OverTheBatch(config.width)  # type: ignore[assignment]


class SaysThatItNormalises(NormalisesTheBatch):
    """Without a fault: its example says so."""

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        return EncoderExample(Pcm.example(folder).media, batch_statistics=True)


@dataclass
class PathConfig(PcmConfig):
    path: str = ""
    """The weights."""


class ReadsInConstructor(Pcm):
    """Reads its weights while it is built."""

    Config = PathConfig

    def __init__(self, config: PathConfig) -> None:
        super().__init__(config)
        state = load_file(config.path)
        if not self.frame.weight.is_meta:
            self.frame.load_state_dict(state)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        path = folder / "weights.safetensors"
        save_file({"weight": torch.ones(6, FRAME), "bias": torch.zeros(6)}, path)
        return EncoderExample(Pcm.example(folder).media, {"path": str(path)})


class MakesTable(Pcm):
    """Computes a table of 4 MB while it is built."""

    def __init__(self, config: PcmConfig) -> None:
        super().__init__(config)
        self.register_buffer("table", torch.from_numpy(np.zeros(1 << 20, np.float32)), persistent=False)


class CastsDown(Pcm):
    """Computes the mean in bfloat16, whatever its weights are."""

    def mean(self, samples: Tensor, mask: Tensor) -> Tensor:
        return super().mean(samples, mask).to(torch.bfloat16).to(samples.dtype)


class ReturnsFloat32(Pcm):
    """Returns float32, whatever its weights are."""

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        features = super().forward(items)
        return features.with_values(features.values.float())


class AddsKey(Pcm):
    """Leaves its mask in the items."""

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        features = super().forward(items)
        items["mask"] = features.mask  # type: ignore[index]
        return features


class CachesByAddress(Pcm):
    """Takes samples at the same address for the same samples."""

    def __init__(self, config: PcmConfig) -> None:
        super().__init__(config)
        self.results: dict[int, tuple[Tensor, Tensor]] = {}

    def mean(self, samples: Tensor, mask: Tensor) -> Tensor:
        return super().mean(samples, mask)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        features = super().forward(items)
        samples = items["samples"]
        # the samples are kept, so that no others can be made at their address
        _, values = self.results.setdefault(samples.data_ptr(), (samples, features.values))
        return features.with_values(values)


class Strided(Pcm):
    """Without a fault: the numbers of a row do not lie next to each other."""

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        features = super().forward(items)
        return features.with_values(features.values.permute(2, 0, 1).contiguous().permute(1, 2, 0))

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        return EncoderExample(Pcm.example(folder).media, {"width": 96})
