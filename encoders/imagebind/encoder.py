"""`imagebind`: ImageBind's embeddings of images, videos, audio, depth maps, thermal images and motion (IMU).

One plugin and one model, with a slot for each medium: the first slot names the encoder, the others `share` it. The
medium of a slot is the slot's name, or is set by the option `media`:

    image: {encoder: {name: imagebind, path: imagebind_huge.pth, towers: [image, audio]}, adapter: {name: linear}}
    audio: {encoder: {share: image}, adapter: {share: image}}

Girdhar et al., ImageBind: One Embedding Space To Bind Them All, arXiv 2305.05665. The model is Meta's own code; it and
the weights are CC-BY-NC-SA 4.0: no commercial use.

Shapes: M media, S views of a medium (clips and crops), N tokens of a view, R tokens, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omnivit_encoders.imagebind import media as imagebind_media
from omnivit_encoders.imagebind import model as imagebind_model
from PIL import Image
from torch import Tensor

from omnivit.media import arrays, audio, images
from omnivit.media.video import read as video
from omnivit.plugin import (
    Card,
    Encoder,
    EncoderExample,
    Features,
    Media,
    MediaError,
    MediaFacts,
    RecipeError,
    load_strictly,
    locate,
    read_state,
    require_weights,
    suggest,
    synthetic,
    torch_dtype,
)

log = logging.getLogger(__name__)

TOWER_OF = {
    "image": "vision",
    "video": "vision",
    "audio": "audio",
    "depth": "depth",
    "thermal": "thermal",
    "imu": "imu",
}
"""Medium -> the part of the model that reads it."""
KINECT = 0.075 * 518.857901
"""Baseline (m) times focal length (pixels) of the Kinect that NYU Depth v2 and most of SUN RGB-D were taken with."""
NOTICE = (
    "ImageBind: the model code and Meta's weights are licensed CC-BY-NC-SA 4.0, for non-commercial use only (the "
    "metadata of the package imagebind-unofficial says MIT; the licence of the code's authors counts)."
)

_noticed: set[str] = set()


@dataclass
class ImageBindConfig:
    """Options of `imagebind`. Set `path`, or `sizes` for random weights."""

    path: str | None = None
    """Pretrained weights: a local `imagebind_huge.pth`, or the same weights as .safetensors."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes that differ from the published model: `out_embed_dim`, and `TOWER_embed_dim`, `TOWER_num_blocks`,
    `TOWER_num_heads` with TOWER one of vision, audio, depth, thermal, imu."""
    towers: list[Literal["image", "video", "audio", "depth", "thermal", "imu"]] = field(
        default_factory=lambda: ["image", "video", "audio", "depth", "thermal", "imu"]
    )
    """The media that the encoder reads; only the parts of the model for these are built (`image` and `video` are one
    part)."""
    media: dict[str, Literal["image", "video", "audio", "depth", "thermal", "imu"]] = field(default_factory=dict)
    """Slot name -> medium, for slots that are not named after their medium, such as {photo: image}."""
    rows: Literal["embedding", "clips", "tokens"] = "embedding"
    """`embedding`: one token, the mean of the embeddings of all clips and crops (NExT-GPT, PandaGPT); `clips`: one
    token for each clip of an audio or a video (Video-LLaMA); `tokens`: all tokens of the trunk's last block, view by
    view, class token first (BuboGPT)."""
    scaled: bool = True
    """`true`: embeddings are multiplied by the model's fixed logit scale (audio 20, depth 5, thermal 10, imu 5), as the
    model returns them; `false`: all have length 1 (before the mean)."""
    audio_clips: int = 3
    """Number of clips of two seconds, evenly over an audio."""
    video_clips: int = 5
    """Number of clips of two seconds, evenly over a video."""
    video_crops: Literal[1, 3] = 3
    """Number of crops of each clip along its longer side."""
    depth_unit: float = 0.001
    """Unit of a depth map in metres: 0.001 for images in millimetres, 1.0 for arrays in metres."""
    depth_baseline_focal: float = KINECT
    """Baseline (metres) times focal length (pixels) of the depth camera; default: Kinect v1."""
    dtype: Literal["float32", "bfloat16", "float16", "fastest"] = "float32"
    """Dtype of the weights; `fastest`: bfloat16 if this machine is clearly faster with it, else float32."""

    def __post_init__(self) -> None:
        if self.path is None and not self.sizes:
            raise ValueError("set either `path` (pretrained weights) or `sizes` (random weights).")
        if not self.towers:
            raise ValueError("`towers` is empty. Add at least one medium, such as [image].")
        for name in ("audio_clips", "video_clips", "depth_unit", "depth_baseline_focal"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be above 0.")
        for slot, medium in self.media.items():
            if medium not in self.towers:
                raise ValueError(
                    f"`media` assigns {medium!r} to the slot {slot!r}, but {medium!r} is not among `towers`."
                )


@dataclass(frozen=True)
class ImageBindProcessor:
    """A medium -> one tensor under the name of its kind; picklable, no weights.

    `image` [3, 224, 224], `video` [S, 3, 2, 224, 224], `audio` [S, 1, 128, 204], `depth` and `thermal` [1, 224, 224],
    `imu` [6, 2000].
    """

    config: ImageBindConfig
    tokens: Mapping[str, int]
    """Tokens of a view, by medium."""

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare one medium.

        Raises:
            MediaError: it cannot be read.
            RecipeError: the slot is not the name of a medium, or its medium is not among `towers`.
        """
        medium = self._medium(media)
        return {medium: self._prepared(medium, media)}

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Tokens of a medium, by its kind and the number of its views."""
        (medium, value) = _only(item)
        views = len(value) if medium in ("audio", "video") else 1
        if self.config.rows == "tokens":
            return views * self.tokens[medium]
        if self.config.rows == "clips":
            return views // self._crops(medium)
        return 1

    def fingerprint(self) -> str:
        """The settings that preparing depends on, as text."""
        c = self.config
        settings = (c.media, c.audio_clips, c.video_clips, c.video_crops, c.depth_unit, c.depth_baseline_focal)
        return f"imagebind {settings}"

    def _prepared(self, medium: str, media: Media) -> Tensor:
        config = self.config
        if medium == "video":
            return imagebind_media.clip(media, config.video_clips, config.video_crops)
        if medium == "audio":
            return imagebind_media.sound(media, config.audio_clips)
        if medium == "depth":
            scale = imagebind_media.DepthScale(config.depth_unit, config.depth_baseline_focal)
            return imagebind_media.depth(media, scale)
        plain = {"image": imagebind_media.picture, "thermal": imagebind_media.thermal, "imu": imagebind_media.imu}
        return plain[medium](media)

    def _medium(self, media: Media) -> str:
        medium = self.config.media.get(media.slot, media.slot)
        if medium not in TOWER_OF:
            raise RecipeError(
                f"imagebind encoder: the slot {media.slot!r} is not the name of a medium; {suggest(medium, TOWER_OF)} "
                f"Rename the slot, or set its medium: `media: {{{media.slot}: image}}`."
            )
        if medium == "video" and isinstance(media.source, Image.Image):  # a frame that an encoder around this one made
            medium = "image"
        if medium not in self.config.towers:
            raise RecipeError(
                f"imagebind encoder: the medium of the slot {media.slot!r} is {medium!r}, which is not among `towers` "
                f"({self.config.towers}). Add it to `towers`."
            )
        return medium

    def _crops(self, medium: str) -> int:
        return self.config.video_crops if medium == "video" else 1


class ImageBindEncoder(Encoder):
    """ImageBind's embedding or tokens of a medium ([M, R, D])."""

    contract = 1
    Config = ImageBindConfig
    modality = "image"
    card = Card(
        paper="Girdhar et al., ImageBind: One Embedding Space To Bind Them All, arXiv 2305.05665",
        weights="ImageBind (Meta): CC-BY-NC-SA 4.0, for non-commercial use only, as is Meta's model code",
        tokens="1; `rows: tokens`: 257 an image, 3 x 229 an audio, 15 x 257 a video, 197 depth or thermal, 251 motion",
    )

    def __init__(self, config: ImageBindConfig) -> None:
        """Raises RecipeError for sizes that do not fit; PluginError where Meta's code is not installed."""
        super().__init__()
        self.config = config
        require_weights(config.path)
        self.towers = tuple(dict.fromkeys(TOWER_OF[medium] for medium in config.towers))
        with torch.device("meta") if config.path is not None else nullcontext():
            self.model = imagebind_model.build(self.towers, config.sizes).to(torch_dtype(config.dtype))
        self.model.modality_postprocessors.float()  # logit scales
        self.parts = imagebind_model.PARTS[:2] if config.rows == "tokens" else imagebind_model.PARTS
        self.width = self._width()
        for part in imagebind_model.PARTS[len(self.parts) :]:
            delattr(self.model, part)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """Towers of one block of 8 numbers, two images, two audio and two records of motion."""
        images = synthetic.pictures(folder, "image", ((31, 62), (60, 120)))
        media = images + synthetic.sounds(folder, "audio", (0.53, 2.5))
        for scale in (1, 3):
            np.save(folder / f"{scale}.npy", scale * synthetic.noise(6, 2000))
            media.append(Media("imu", f"{scale}.npy", str(folder)))
        towers = {"embed_dim": 8, "num_blocks": 1, "num_heads": 2}
        sizes = {f"{tower}_{key}": size for tower in ("vision", "audio", "imu") for key, size in towers.items()}
        return EncoderExample(media, {"sizes": {"out_embed_dim": 12, **sizes}, "towers": ["image", "audio", "imu"]})

    def load(self) -> None:
        """Load the weights of `path`, and log their licence.

        Raises:
            RecipeError: the file cannot be found or read, or does not fit.
        """
        _notice()
        config = self.config
        if config.path is None:
            return
        place = locate(config.path)
        ignored = imagebind_model.removed(self.towers, self.parts)
        model = self.model.to_empty(device="cpu")
        load_strictly(model, read_state(place), f"imagebind encoder, path {config.path!r}", ignored=ignored)
        self.model = model

    def processor(self) -> ImageBindProcessor:
        """Prepares media by the names of their slots."""
        towers: list[str] = [*self.config.towers]
        tokens = {medium: imagebind_model.tokens_of(self.model, TOWER_OF[medium]) for medium in towers}
        return ImageBindProcessor(self.config, tokens)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """The tensor of one medium [M, ...] or, of several views, [M, S, ...] -> Features [M, R, D]; no grid."""
        medium, stacked = _only(items)
        several = medium in ("audio", "video")
        dtype = next(self.model.modality_trunks.parameters()).dtype
        views = (stacked.flatten(0, 1) if several else stacked).to(dtype)
        shape = (len(stacked), stacked.shape[1] if several else 1)
        if self.config.rows == "tokens":
            found = imagebind_model.tokens(self.model, TOWER_OF[medium], views)
            values = found.reshape(shape[0], -1, found.shape[2])
        else:
            found = imagebind_model.embedding(self.model, TOWER_OF[medium], views, self.config.scaled)
            values = self._pooled(found.reshape(*shape, -1), medium)
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Features(values, mask)

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Facts of an image, video, audio, map or motion record. Raises MediaError."""
        if arrays.holds_array(media):
            (stored, *others) = arrays.list_arrays(media)
            shapes = (imagebind_media.IMU_CHANNELS, imagebind_media.IMU_STEPS)
            if not others and stored.shape in (shapes, shapes[::-1]):
                return _motion(stored.dtype)
            if not others and len(stored.shape) == 2:
                height, width = stored.shape
                imagebind_media.check_depth(media)
                return MediaFacts(
                    "map", {"height": height, "width": width}, details={"numbers": stored.dtype}, slot="depth"
                )
            raise MediaError(f"{media}: the arrays are neither a map [H, W] nor motion [6, 2000].")
        if arrays.is_table(media):
            imagebind_media.imu(media)
            return _motion("text")
        return _first_that_reads(media)

    def _pooled(self, views: Tensor, medium: str) -> Tensor:
        """[M, S, D] -> [M, 1, D] the mean of all views, or [M, C, D] that of each video's crops."""
        if self.config.rows == "embedding":
            return views.mean(dim=1, keepdim=True)
        crops = self.config.video_crops if medium == "video" else 1
        return views.reshape(len(views), -1, crops, views.shape[2]).mean(dim=2)

    def _width(self) -> int:
        if self.config.rows != "tokens":
            head = self.model.modality_heads[self.towers[0]]
            return int(head[len(head) - 1].out_features)
        widths = {tower: imagebind_model.width_of(self.model, tower) for tower in self.towers}
        if len(set(widths.values())) > 1:
            raise RecipeError(
                f"imagebind encoder: with `rows: tokens` the parts for {self.config.towers} return tokens of different "
                f"widths ({widths}). Use a separate encoder for each slot, with one medium in `towers`."
            )
        return widths[self.towers[0]]


def _only(items: Mapping[str, Tensor]) -> tuple[str, Tensor]:
    """The one medium of an item or a batch."""
    ((medium, value),) = items.items()
    return medium, value


def _notice() -> None:
    if NOTICE not in _noticed:
        _noticed.add(NOTICE)
        log.warning(NOTICE)


def _motion(numbers: str) -> MediaFacts:
    shape: dict[str, Any] = {"channels": imagebind_media.IMU_CHANNELS, "steps": imagebind_media.IMU_STEPS}
    return MediaFacts("motion", shape, details={"numbers": numbers}, slot="imu")


def _first_that_reads(media: Media) -> MediaFacts:
    """Read a file as image, audio or video; a video file with audio is read as video."""
    refusals = []
    for slot, facts_of in (("image", images.facts_of), ("video", video.inspect), ("audio", audio.facts_of)):
        try:
            return replace(facts_of(media), slot=slot)
        except MediaError as error:
            refusals.append(str(error))
    raise MediaError(f"{media}: this cannot be read as an image, a video or audio. The last error was: {refusals[-1]}")
