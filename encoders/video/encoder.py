"""`video`: any image encoder on each frame of a clip, and what is to happen between the frames.

Frames are read by `omnivit.media.video` and prepared one by one, as the image encoder prepares pictures. On top, in
`temporal`: nothing; a learned position of each frame, as ChatBridge (Zhao et al., arXiv 2305.16103) adds it; or a
transformer over the frames of each place, as Valley's (Luo et al., arXiv 2306.07207, section 3.1) without its pooling.
Both begin as if they were not there. What makes fewer rows of a clip is an adapter: `pool`, `video_qformer`, `conv`.

Shapes: M clips, T frames (padded), P rows of a frame, S = T P rows, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from omnivit_encoders.video.temporal import FramePositions, FrameTransformer
from PIL import Image
from torch import Tensor

from omnivit.contracts.options import require_within
from omnivit.media.video.read import SIDE, inspect
from omnivit.model.images import INSIDE_EXAMPLES, PICTURES, without
from omnivit.plugin import (
    Card,
    Encoder,
    EncoderExample,
    Features,
    Media,
    MediaFacts,
    Processor,
    Sampling,
    build_encoder,
    encode_pictures,
    layout_of_pictures,
    prepare_pictures,
    read_frames,
    synthetic,
)

TIMES = "times"
"""Key of the seconds of each frame in an item."""


@dataclass
class VideoConfig:
    """What a recipe may say to `video`."""

    encoder: dict[str, Any]
    """The image encoder's block, such as {name: clip, path: openai/clip-vit-large-patch14}."""
    frames: int = 8
    """How many frames of a clip; the most for `sampling: fps`. A shorter clip gives each of its frames once."""
    sampling: Literal["uniform", "fps", "segment_random", "head_tail"] = "uniform"
    """Which: the middle ones of equal segments; so many a second; any one of each segment (in training, else the
    middle one); evenly from the first to the last."""
    fps: float | None = None
    """Frames a second, for `sampling: fps`."""
    side: int = SIDE
    """Frames whose short side is longer are scaled down to it while they are decoded."""
    temporal: Literal["none", "positions", "transformer"] = "none"
    """Between the frames: nothing, a learned position of each, or a transformer over the frames of each place (which
    learns positions too)."""
    layers: int = 1
    """Of the transformer."""
    heads: int = 8
    """Of the transformer."""
    batch_size: int = 64
    """Most frames that pass through the image encoder together, to bound memory."""

    renamed: ClassVar[Mapping[str, str]] = {"at_once": "batch_size"}

    def __post_init__(self) -> None:
        require_within(self, 1, None, "side", "layers", "heads", "batch_size")
        self.chosen()

    def chosen(self) -> Sampling:
        """Which frames. Raises ValueError for numbers that make no sense."""
        return Sampling(self.sampling, self.frames, self.fps)


@dataclass(frozen=True)
class VideoProcessor:
    """One clip -> the image processor's tensors, [T, ...] each, with `pictures` [] and `times` [T] in seconds."""

    inside: Processor
    sampling: Sampling
    side: int

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare one clip. Raises MediaError."""
        clip = read_frames(media, self.sampling, self.side)
        pictures = [Image.fromarray(frame) for frame in clip.frames]
        item = prepare_pictures(self.inside, pictures, media)
        return {**item, TIMES: torch.tensor(clip.times, dtype=torch.float32)}

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Rows of all frames."""
        return layout_of_pictures(self.inside, without(item, TIMES)).rows

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        """(t, y, x), where the rows of a frame fill a grid."""
        return layout_of_pictures(self.inside, without(item, TIMES)).grid

    def fingerprint(self) -> str:
        """Every setting, as text."""
        return f"video {self.sampling} {self.side} {self.inside.fingerprint()}"


class VideoEncoder(Encoder):
    """The rows of an image encoder, frame by frame ([M, T P, D])."""

    contract = 1
    Config = VideoConfig
    modality = "video"
    card = Card(
        paper="frame positions: Zhao et al., ChatBridge, arXiv 2305.16103; transformer over frames: Luo et al., "
        "Valley, arXiv 2306.07207; and the image encoder's",
        weights="the image encoder's",
        tokens="frames x those of the image encoder: 2048 (8 x 16 x 16) with CLIP ViT-L/14 at 224 pixels",
    )

    def __init__(self, config: VideoConfig) -> None:
        """Raises RecipeError where the image encoder cannot be built, or its width not be divided among the heads."""
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder, "encoder", "image")
        self.width = self.encoder.width
        self.temporal: FramePositions | FrameTransformer | None = None
        if config.temporal == "positions":
            self.temporal = FramePositions(config.frames, self.width)
        elif config.temporal == "transformer":
            self.temporal = FrameTransformer(config.frames, self.width, config.heads, config.layers)

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Frames, size, seconds and codec of a clip. Raises MediaError."""
        return inspect(media)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """A small CLIP with a transformer over three frames, and clips of five, two and three."""
        shapes = ((5, 37, 41), (2, 33, 60), (3, 51, 35))
        config = {"encoder": INSIDE_EXAMPLES, "frames": 3, "sampling": "segment_random", "temporal": "transformer"}
        return EncoderExample(synthetic.clips(folder, "video", shapes), {**config, "heads": 2})

    def load(self) -> None:
        """Fill in the image encoder's weights."""
        self.encoder.load()

    def processor(self) -> VideoProcessor:
        """Prepares clips frame by frame."""
        return VideoProcessor(self.encoder.processor(), self.config.chosen(), self.config.side)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """Stacked items -> Features [M, T P, D], frame by frame, with the grid (t, y, x) where frames have (y, x)."""
        features = encode_pictures(self.encoder, without(items, TIMES), self.config.batch_size)
        if self.temporal is None:
            return features
        frames = next(value.shape[1] for key, value in items.items() if key not in (PICTURES, TIMES))
        shape = len(features.values), frames, -1, self.width
        mask = features.mask.reshape(shape[:3])
        values = self.temporal(features.values.reshape(shape), mask).flatten(1, 2)
        return replace(features, values=values.masked_fill(~features.mask[..., None], 0.0))
