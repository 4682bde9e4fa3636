"""`video`: any image encoder, applied to each frame of a video, with optional layers over time.

Frames are read by `omnivit.media.video` and prepared one by one, as the image encoder prepares images. After it, by
`temporal`: nothing; a learned position for each frame, as in ChatBridge (Zhao et al., arXiv 2305.16103); or a
transformer over the frames of each place, as in Valley (Luo et al., arXiv 2306.07207, section 3.1), without its
pooling. Both change nothing at initialisation. Adapters reduce the number of tokens: `pool`, `video_qformer`, `conv`.

Shapes: M videos, T frames (padded), P tokens of a frame, S = T P tokens, D width.
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
    MediaError,
    MediaFacts,
    Processor,
    RecipeError,
    Sampling,
    build_encoder,
    configure_encoder,
    encode_images,
    layout_of_images,
    prepare_images,
    read_frames,
    synthetic,
)

TIMES = "times"
"""Key of the seconds of each frame in an item."""


@dataclass
class VideoConfig:
    """Options of `video`."""

    encoder: dict[str, Any]
    """The image encoder for each frame, such as {name: clip, path: openai/clip-vit-large-patch14}."""
    frames: int = 8
    """Number of frames of a video; for `sampling: fps` the largest number. If a video has fewer frames, each is used
    once."""
    sampling: Literal["uniform", "fps", "segment_random", "head_tail"] = "uniform"
    """Frames that are used. `uniform`: the middle frame of each of `frames` equal segments; `fps`: `fps` frames per
    second; `segment_random`: in training a random frame of each segment, else the middle one; `head_tail`: evenly from
    the first frame to the last."""
    fps: float | None = None
    """Frames per second, for `sampling: fps`."""
    side: int = SIDE
    """Largest short side of a frame, in pixels; larger frames are resized while they are decoded."""
    temporal: Literal["none", "positions", "transformer"] = "none"
    """Layers over time. `none`; `positions`: a learned position for each frame; `transformer`: a transformer over the
    frames of each place, with learned positions."""
    layers: int = 1
    """Number of layers for `temporal: transformer`."""
    heads: int = 8
    """Number of attention heads for `temporal: transformer`."""
    batch_size: int = 64
    """Most frames in one forward pass of the image encoder, to limit memory."""
    timestamps: bool = False
    """Tell the LLM, after the video, how many frames it has and at which seconds they were taken, in the words of
    VideoChat and Video-LLaMA."""

    renamed: ClassVar[Mapping[str, str]] = {"at_once": "batch_size"}

    def __post_init__(self) -> None:
        require_within(self, 1, None, "side", "layers", "heads", "batch_size")
        self.chosen()

    def chosen(self) -> Sampling:
        """Which frames. Raises ValueError for numbers that make no sense."""
        return Sampling(self.sampling, self.frames, self.fps)


@dataclass(frozen=True)
class VideoProcessor:
    """One video -> the image processor's tensors, [T, ...] each, with `pictures` [] and `times` [T] in seconds."""

    inside: Processor
    sampling: Sampling
    side: int
    timestamps: bool = False

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare one video. Raises MediaError."""
        clip = read_frames(media, self.sampling, self.side)
        if self.timestamps and not clip.timed:
            raise MediaError(
                f"{media}: the times of its frames are not known, so that `timestamps` cannot tell them. Give the "
                "frames per second (`fps`) next to the frames in the record."
            )
        pictures = [Image.fromarray(frame) for frame in clip.frames]
        item = prepare_images(self.inside, pictures, media)
        return {**item, TIMES: torch.tensor(clip.times, dtype=torch.float32)}

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Tokens of all frames."""
        return layout_of_images(self.inside, without(item, TIMES)).tokens

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        """(t, y, x), where the tokens of a frame fill a grid."""
        return layout_of_images(self.inside, without(item, TIMES)).grid

    def description(self, item: Mapping[str, Tensor]) -> str:
        """The number of frames and their times, for `timestamps`.

        As in OpenGVLab/Ask-Anything, video_chat/dataset/it_dataset.py, and DAMO-NLP-SG/Video-LLaMA,
        video_llama/processors/video_processor.py: seconds are rounded to one decimal.
        """
        if not self.timestamps:
            return ""
        times = item[TIMES].tolist()
        seconds = ", ".join(str(round(time, 1)) for time in times)
        return f" The video contains {len(times)} frames sampled at {seconds} seconds. "

    def fingerprint(self) -> str:
        """Every setting, as text."""
        times = " timestamps" if self.timestamps else ""
        return f"video {self.sampling} {self.side} {self.inside.fingerprint()}{times}"


class VideoEncoder(Encoder):
    """The tokens of an image encoder, frame by frame ([M, T P, D])."""

    contract = 1
    Config = VideoConfig
    modality = "video"
    stageable = frozenset({"encoder", "frames", "sampling", "fps"})
    card = Card(
        paper="frame positions: Zhao et al., ChatBridge, arXiv 2305.16103; transformer over frames: Luo et al., "
        "Valley, arXiv 2306.07207; and the image encoder's",
        weights="the image encoder's",
        tokens="frames x those of the image encoder: 2048 (8 x 16 x 16) with CLIP ViT-L/14 at 224 pixels",
    )

    def __init__(self, config: VideoConfig) -> None:
        """Raises RecipeError where the image encoder cannot be built, or its width not be divided among the heads."""
        super().__init__()
        self.config, self._most = config, config.frames
        self.encoder = build_encoder(config.encoder, "encoder", "image")
        self.width = self.encoder.width
        self.temporal: FramePositions | FrameTransformer | None = None
        if config.temporal == "positions":
            self.temporal = FramePositions(config.frames, self.width)
        elif config.temporal == "transformer":
            self.temporal = FrameTransformer(config.frames, self.width, config.heads, config.layers)

    def configure(self, config: VideoConfig) -> None:
        """Take other frames, or options of the image encoder. Raises RecipeError if frames would have no position."""
        if self.temporal is not None and config.frames > self._most:
            raise RecipeError(
                f"video encoder: `temporal: {config.temporal}` has positions for {self._most} frames, not for "
                f"{config.frames}. Set the largest number in `model.inputs`, and smaller ones in stages."
            )
        configure_encoder(self.encoder, config.encoder, "encoder")
        self.config = config

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Frames, size, seconds and codec of a video. Raises MediaError."""
        return inspect(media)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """A small CLIP with a transformer over three frames, and videos of five, two and three."""
        shapes = ((5, 37, 41), (2, 33, 60), (3, 51, 35))
        config = {"encoder": INSIDE_EXAMPLES, "frames": 3, "sampling": "segment_random", "temporal": "transformer"}
        return EncoderExample(synthetic.clips(folder, "video", shapes), {**config, "heads": 2})

    def load(self) -> None:
        """Fill in the image encoder's weights."""
        self.encoder.load()

    def processor(self) -> VideoProcessor:
        """Prepares videos frame by frame."""
        config = self.config
        return VideoProcessor(self.encoder.processor(), config.chosen(), config.side, config.timestamps)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """Stacked items -> Features [M, T P, D], frame by frame, with the grid (t, y, x) where frames have (y, x)."""
        features = encode_images(self.encoder, without(items, TIMES), self.config.batch_size)
        if self.temporal is None:
            return features
        frames = next(value.shape[1] for key, value in items.items() if key not in (PICTURES, TIMES))
        shape = len(features.values), frames, -1, self.width
        mask = features.mask.reshape(shape[:3])
        values = self.temporal(features.values.reshape(shape), mask).flatten(1, 2)
        return replace(features, values=values.masked_fill(~features.mask[..., None], 0.0))
