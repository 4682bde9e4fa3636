"""`video_transformer`: vision transformers with attention over time (TimeSformer, ViViT, VideoMAE, V-JEPA 2), from
transformers.

The tokens are a hidden state of the patches, always in the order (t, y, x); a class token is removed. The number of
frames is the model's. The checkpoint's own video processor prepares them.

Shapes: M videos, F frames, H x W pixels, t x y x patches, S = t y x tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoVideoProcessor

from omnivit.contracts.options import require_within
from omnivit.media.video.read import SIDE, inspect
from omnivit.model.hf_tower import Dtype, Tower, all_tokens, patch_grid, require_one_source
from omnivit.model.unused import remove, sketching, unused
from omnivit.plugin import (
    Card,
    Encoder,
    EncoderExample,
    Features,
    Media,
    MediaFacts,
    RecipeError,
    Sampling,
    explained,
    processor_fingerprint,
    read_frames,
    require_weights,
    suggest,
    synthetic,
    torch_dtype,
)


@dataclass
class VideoTransformerConfig:
    """Options of `video_transformer`. Either `path` or `config`."""

    path: str | None = None
    """Pretrained weights: a hub id or folder of one of the four, such as facebook/vjepa2-vitl-fpc64-256."""
    config: dict[str, Any] | None = None
    """Random weights instead of `path`: a transformers config with its `model_type`, such as {model_type: videomae}."""
    layer: int | None = None
    """Hidden state that is returned: -1 after the last layer, -2 after the one before, 3 after the third; without the
    final norm. Default: the model's output, with its final norm if it has one."""
    sampling: Literal["uniform", "fps", "segment_random", "head_tail"] = "uniform"
    """Frames that are used, as for `video`. If a video has fewer frames than the model needs, frames are repeated."""
    fps: float | None = None
    """Frames per second, for `sampling: fps`."""
    side: int = SIDE
    """Largest short side of a frame, in pixels; larger frames are resized while they are decoded."""
    dtype: Dtype = "float32"
    """Dtype of the weights; `fastest`: bfloat16 if this machine is clearly faster with it, else float32."""

    def __post_init__(self) -> None:
        require_one_source(self.path, self.config, "videomae")
        require_within(self, 1, None, "side")
        self.chosen(1)

    def chosen(self, frames: int) -> Sampling:
        """Which frames. Raises ValueError for numbers that make no sense."""
        return Sampling(self.sampling, frames, self.fps, repeat=True)


@dataclass(frozen=True)
class Kind:
    """How one family of models is laid out."""

    frames: str
    """The setting that says how many frames it sees."""
    side: str
    """The setting that says how many pixels a side has."""
    processor: str
    """Its video processor, for random weights."""
    space_first: bool = False
    """Whether its patches lie in the order (y, x, t)."""


KINDS = {
    "timesformer": Kind("num_frames", "image_size", "TimesformerVideoProcessor", space_first=True),
    "vivit": Kind("num_frames", "image_size", "VivitVideoProcessor"),
    "videomae": Kind("num_frames", "image_size", "VideoMAEVideoProcessor"),
    "vjepa2": Kind("frames_per_clip", "crop_size", "VJEPA2VideoProcessor"),
}


@dataclass(frozen=True)
class VideoTransformerProcessor:
    """One video -> `pixels` [F, 3, H, W], by the checkpoint's video processor; picklable, no weights."""

    process: Any
    """A transformers video processor."""
    sampling: Sampling
    side: int
    patches: tuple[int, int, int]

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare one video. Raises MediaError."""
        clip = read_frames(media, self.sampling, self.side)
        pixels = _pixels(self.process, torch.from_numpy(clip.frames).permute(0, 3, 1, 2))
        return {"pixels": pixels, "times": torch.tensor(clip.times, dtype=torch.float32)}

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Tokens of a video: the same for all."""
        del item
        t, y, x = self.patches
        return t * y * x

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, int, int]:
        """The grid (t, y, x) of patches: the same for all."""
        del item
        return self.patches

    def fingerprint(self) -> str:
        """Changes with the settings. 16 hex digits."""
        return processor_fingerprint(self.process, self.sampling, self.side)


class VideoTransformerEncoder(Encoder):
    """A hidden state of a transformer over space and time ([M, S, D])."""

    contract = 1
    Config = VideoTransformerConfig
    modality = "video"
    card = Card(
        paper="Bertasius et al., TimeSformer, arXiv 2102.05095; Arnab et al., ViViT, arXiv 2103.15691; Tong et al., "
        "VideoMAE, arXiv 2203.12602; Assran et al., V-JEPA 2, arXiv 2506.09985",
        weights="TimeSformer (Meta) and VideoMAE (MCG-NJU): CC-BY-NC 4.0; ViViT (Google) and V-JEPA 2 (Meta): MIT",
        tokens="1568 (TimeSformer base, VideoMAE base) to 8192 (V-JEPA 2 ViT-L of 64 frames), the same for every clip",
    )

    def __init__(self, config: VideoTransformerConfig) -> None:
        """Raises RecipeError where the model cannot be found or built, is of another family, or has no such layer."""
        super().__init__()
        self.config = config
        self._source = Tower("video_transformer", config.path, config.config, config.dtype)
        self._settings = self._source.up_to_layer(_model_config(self._source), config.layer)
        require_weights(config.path)
        self._kind = KINDS[self._settings.model_type]
        self.frames, self.side = (
            int(_first(getattr(self._settings, key))) for key in (self._kind.frames, self._kind.side)
        )
        self.patches = _patches(self._settings, self.frames, self.side)
        self._process = _video_processor(self._source, self._kind, self.side)
        with sketching():
            tower = self._source.build(self._settings, **self._extra())
            with explained(f"video_transformer encoder: {type(tower).__name__} cannot be run"):
                output = self._run(tower, torch.empty(1, self.frames, 3, self.side, self.side))
        self.prefix = self._count_prefix(output.shape[1])
        self.unused = unused(tower, output)
        self.width = int(output.shape[2])
        self.tower = tower if config.path is not None else self._source.build(self._settings, **self._extra())
        remove(self.tower, self.unused)

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Frames, size, seconds and codec of a video. Raises MediaError."""
        return inspect(media)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """A VideoMAE of four frames and two layers of 24 numbers, and videos of five, two and three frames."""
        sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = {"model_type": "videomae", **sizes, "image_size": 32, "patch_size": 16, "num_frames": 4}
        shapes = ((5, 37, 41), (2, 33, 60), (3, 51, 35))
        options = {"config": {**config, "tubelet_size": 2}, "sampling": "segment_random"}
        return EncoderExample(synthetic.clips(folder, "video", shapes), options)

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError where they do not fit."""
        if self.config.path is None:
            return
        self.tower = self._source.load(type(self.tower), self._settings, **self._extra())
        remove(self.tower, self.unused)

    def processor(self) -> VideoTransformerProcessor:
        """Prepares videos as the checkpoint's own video processor does."""
        return VideoTransformerProcessor(self._process, self.config.chosen(self.frames), self.config.side, self.patches)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """`pixels` [M, F, 3, H, W] -> Features [M, S, D] with the grid (t, y, x), time slowest."""
        values = self._run(self.tower, items["pixels"].to(torch_dtype(self.config.dtype)))[:, self.prefix :]
        t, y, x = self.patches
        if self._kind.space_first:
            values = values.reshape(len(values), y * x, t, self.width).transpose(1, 2).flatten(1, 2)
        return all_tokens(values, patch_grid(self.patches, values.device))

    def _extra(self) -> dict[str, Any]:
        """Options of the model's constructor. ViViT's pooler is in no checkpoint of a classifier."""
        return {"add_pooling_layer": False} if self._settings.model_type == "vivit" else {}

    def _run(self, tower: Any, pixels: Tensor) -> Tensor:
        """All tokens of the chosen hidden state, in the model's own order: [M, prefix + S, D]."""
        options = {"skip_predictor": True} if self._settings.model_type == "vjepa2" else {}
        output, state = self._source.run(tower, self._settings.num_hidden_layers, pixels, **options)
        return output.last_hidden_state if self.config.layer is None else state

    def _count_prefix(self, tokens: int) -> int:
        t, y, x = self.patches
        prefix = tokens - t * y * x
        if prefix not in (0, 1):
            raise RecipeError(
                f"video_transformer encoder: {self._settings.model_type!r} returns {tokens} tokens for {t} x {y} x {x} "
                f"patches. Check its config."
            )
        return prefix


def _model_config(source: Tower) -> Any:
    if source.config is not None:
        _check_kind(source.config["model_type"])  # before transformers looks for it
    settings = source.settings()
    _check_kind(settings.model_type)
    return settings


def _check_kind(name: str) -> None:
    if name not in KINDS:
        raise RecipeError(
            f"video_transformer encoder: the model type {name!r} is not supported; {suggest(name, KINDS)} For an image "
            f"model, use `video`: {{name: video, encoder: {{name: clip, ...}}}}."
        )


def _patches(settings: Any, frames: int, side: int) -> tuple[int, int, int]:
    """The grid (t, y, x). ViViT says [t, y, x] of a patch in `tubelet_size`, TimeSformer none of time."""
    tube = getattr(settings, "tubelet_size", 1)
    long, patch = (tube[0], tube[1]) if isinstance(tube, (list, tuple)) else (tube, _first(settings.patch_size))
    if frames % long or side % patch:
        raise RecipeError(
            f"video_transformer encoder: {frames} frames of {side} x {side} pixels cannot be divided into patches of "
            f"{long} frames and {patch} x {patch} pixels. Fix `config`."
        )
    return frames // long, side // patch, side // patch


def _video_processor(source: Tower, kind: Kind, side: int) -> Any:
    """The video processor; it has to make frames of `side` x `side`."""
    if source.path is None:
        import transformers

        process: Any = getattr(transformers, kind.processor)(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
    else:
        process = source.preprocessor(AutoVideoProcessor)
    made = _pixels(process, torch.zeros(1, 3, 90, 120, dtype=torch.uint8)).shape
    if tuple(made[2:]) != (side, side):
        raise RecipeError(
            f"video_transformer encoder: the video processor returns frames of {made[2]} x {made[3]} pixels, but the "
            f"model needs {side} x {side}. Fix the checkpoint's preprocessor_config.json."
        )
    return process


def _pixels(process: Any, frames: Tensor) -> Tensor:
    """[F, 3, H, W] uint8 -> [F, 3, H', W'] float32. All frames are given: none is sampled."""
    made = process(videos=[frames], return_tensors="pt", do_sample_frames=False)
    pixels: Tensor = next(made[key] for key in ("pixel_values_videos", "pixel_values") if key in made)[0]
    return pixels


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) else value
