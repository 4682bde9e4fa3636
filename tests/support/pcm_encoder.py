"""An encoder without a fault, of which faulty ones are made.

It reads sounds of a format of its own (`.pcm`: the word PCM1, then float32 samples). Every 4 samples are a frame; a
frame and the mean of all frames make a row. Shapes: M media, N samples (padded), S frames, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omnivit.contracts.encoder import Encoder
from omnivit.contracts.examples import EncoderExample
from omnivit.contracts.features import Features
from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media.locate import read_bytes

FRAME = 4
WORD = b"PCM1"


@dataclass
class PcmConfig:
    """What a recipe may say."""

    width: int = 6
    """D, the width of a row."""
    scale: float = 1.0
    """What samples are multiplied by."""
    noise: float = 0.1
    """In training, how loud the noise is that is added."""


def samples_of(media: Media) -> np.ndarray[Any, Any]:
    """The samples of a file. Raises MediaError."""
    data = read_bytes(media)
    if not data.startswith(WORD) or len(data) % 4 or len(data) == len(WORD):
        raise MediaError(f"{media}: is no PCM1 file of whole samples. Convert it.")
    return np.frombuffer(data, np.float32, offset=len(WORD)).copy()


@dataclass(frozen=True)
class PcmProcessor:
    """A sound -> `samples` [S, 4] and `frames` []."""

    scale: float
    noise: float

    def __call__(self, media: Media) -> dict[str, Tensor]:
        samples = self.scale * samples_of(media)
        if media.seed is not None:
            samples = samples + self.noise * np.random.default_rng(media.seed).standard_normal(len(samples))
        frames = -(-len(samples) // FRAME)
        padded = np.pad(samples, (0, FRAME * frames - len(samples))).astype(np.float32)
        return {"samples": torch.from_numpy(padded.reshape(frames, FRAME)), "frames": torch.tensor(frames)}

    def preface(self, media: Media) -> str:
        return f"{len(samples_of(media))} samples:\n"

    def description(self, item: Mapping[str, Tensor]) -> str:
        return f"\n{int(item['frames'])} frames"

    def length(self, item: Mapping[str, Tensor]) -> int:
        return int(item["frames"])

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        return (1, int(item["frames"]))

    def fingerprint(self) -> str:
        return repr(self)


class Pcm(Encoder):
    """Without a fault."""

    contract = 1
    Config = PcmConfig
    modality = "audio"

    def __init__(self, config: PcmConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.frame = nn.Linear(FRAME, config.width)
        self.average = nn.Linear(FRAME, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("window", torch.hann_window(FRAME + 2)[1:-1], persistent=False)

    def processor(self) -> PcmProcessor:
        return PcmProcessor(self.config.scale, self.config.noise)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        mask = self.mask(items)
        samples = items["samples"].to(self.frame.weight.dtype) * self.window
        values = self.norm(self.frame(samples) + self.average(self.mean(samples, mask)))
        return Features(values * mask[..., None], mask, self.grid(mask))

    def mask(self, items: Mapping[str, Tensor]) -> Tensor:
        place = torch.arange(items["samples"].shape[1], device=items["samples"].device)
        return place < items["frames"][:, None]

    def mean(self, samples: Tensor, mask: Tensor) -> Tensor:
        weights = mask[..., None].to(samples.dtype)
        return (samples * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)

    def grid(self, mask: Tensor) -> Tensor | None:
        place = torch.arange(mask.shape[1], device=mask.device)
        return torch.stack([torch.zeros_like(place), place], dim=1).expand(len(mask), -1, -1)

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        return MediaFacts("audio", {"samples": len(samples_of(media))})

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        for count in (5, 13, 27):
            samples = np.random.default_rng(count).standard_normal(count).astype(np.float32)
            (folder / f"{count}.pcm").write_bytes(WORD + samples.tobytes())
        return EncoderExample([Media("audio", f"{count}.pcm", str(folder)) for count in (13, 5, 27)])
