"""`ulip`: point clouds through Point-BERT, as ULIP, ULIP-2 and PointLLM trained it.

Xue et al., ULIP, arXiv 2212.05171; ULIP-2, arXiv 2305.08275; Xu et al., PointLLM, arXiv 2308.16911. A cloud is centred
at its centre of mass and scaled to radius 1; the centres of its groups are chosen by farthest point sampling. The
processor does both, in the workers of the data loader, because they need no weights.

Shapes: M clouds, N points, C channels (x, y, z, and optionally r, g, b), G groups, S tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from omnivit_encoders.ulip.point_bert import PointBert
from omnivit_encoders.ulip.weights import read_point_bert
from torch import Tensor

from omnivit.contracts.options import require_within
from omnivit.media.points.read import SEED, facts_of
from omnivit.media.points.sampling import farthest
from omnivit.plugin import (
    Card,
    Encoder,
    EncoderExample,
    Features,
    Media,
    MediaFacts,
    PointCloud,
    RecipeError,
    load_strictly,
    read_points,
    require_weights,
    synthetic,
)

Variant = Literal["ulip2", "ulip1", "pointllm_v1_2", "pointllm_v1_1"]
CANDIDATES = 4
"""Farthest point sampling chooses from this many times `points` points, which are drawn at random, because its time
grows with their number."""
BLIND = 1e-3
"""Squared distance from the centre within which ULIP's operator chooses no centre of a group."""


@dataclass(frozen=True)
class Sizes:
    """The published sizes of a variant; `UlipConfig` documents them."""

    points: int
    colours: bool
    groups: int
    group_size: int
    group_widths: tuple[int, int, int, int]
    width: int
    depth: int
    heads: int
    output: Literal["tokens", "pooled"]
    missing_colour: float
    blind: float


VARIANTS: dict[str, Sizes] = {
    "ulip2": Sizes(10000, True, 512, 32, (128, 256, 512, 256), 384, 18, 6, "pooled", 0.4, BLIND),
    "ulip1": Sizes(8192, False, 512, 32, (128, 256, 512, 256), 384, 12, 6, "pooled", 0.0, BLIND),
    "pointllm_v1_2": Sizes(8192, True, 512, 32, (128, 256, 512, 256), 384, 12, 6, "tokens", 0.0, 0.0),
    "pointllm_v1_1": Sizes(8192, True, 512, 48, (128, 256, 512, 512), 1152, 12, 12, "tokens", 0.0, 0.0),
}
"""From ULIP's and PointLLM's own configuration files; the colour of what has none from their data sets."""


@dataclass
class UlipConfig:
    """Options of `ulip`. The defaults of sizes are those of `variant`."""

    variant: Variant = "pointllm_v1_2"
    """The published model whose sizes are used: ULIP-2 (10 000 coloured points, 18 layers), ULIP (8192 points, no
    colours), PointLLM 1.2 or 1.1."""
    path: str | None = None
    """Pretrained weights: a file, a folder or a hub id (then set `file`, too); the key prefixes of ULIP's and
    PointLLM's checkpoints are recognised. Default: random weights."""
    file: str | None = None
    """File of the folder or hub repository, such as `point_bert_v1.2.pt`; default: its sharded weights."""
    output: Literal["tokens", "pooled"] | None = None
    """`tokens`: the class token and one token for each group; `pooled`: one token, the class token concatenated with
    the maximum over the groups."""
    points: int | None = None
    """Number of points of a cloud that are used; points of smaller clouds are repeated."""
    colours: bool | None = None
    """Whether points have red, green and blue in addition to x, y, z."""
    missing_colour: float | None = None
    """Value of the colours if a medium has none."""
    groups: int | None = None
    """Number of groups of a cloud; each group becomes one token."""
    group_size: int | None = None
    """Number of points of a group."""
    group_widths: tuple[int, int, int, int] | None = None
    """Widths of the four layers of the small PointNet that encodes each group."""
    width: int | None = None
    """Width of the transformer."""
    depth: int | None = None
    """Number of layers of the transformer."""
    heads: int | None = None
    """Number of attention heads."""
    drop_path: float = 0.1
    """Stochastic depth: probability in training that the last layer is skipped; it increases linearly from 0 at the
    first layer."""
    sampling: Literal["farthest", "random"] = "farthest"
    """How points of a larger cloud are sampled: `farthest` point sampling, as published, or `random`, which is
    faster."""
    augment: bool = False
    """In training, rotate clouds about the vertical axis, and scale, shift and jitter them."""
    up: Literal["x", "y", "z"] = "y"
    """The vertical axis, for `augment`."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"`variant` ({self.variant!r}) is unknown. Available: {', '.join(VARIANTS)}.")
        if self.file is not None and self.path is None:
            raise ValueError("`file` needs `path`: it names a file of the folder or hub repository `path`.")
        sizes = self.sizes
        require_within(sizes, 1, None, "points", "groups", "group_size", "group_widths", "width", "depth", "heads")
        if max(sizes.groups, sizes.group_size) > sizes.points:
            raise ValueError(
                f"{sizes.points} points are too few for {sizes.groups} groups of {sizes.group_size} points. Raise "
                f"`points`, or lower `groups` or `group_size`."
            )
        if sizes.width % sizes.heads:
            raise ValueError(f"`width` ({sizes.width}) must be a multiple of `heads` ({sizes.heads}).")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"`drop_path` ({self.drop_path}) must be at least 0 and below 1.")

    @property
    def sizes(self) -> Sizes:
        """The sizes of the variant, with those of the recipe."""
        base = VARIANTS[self.variant]
        options = {name: getattr(self, name, None) for name in Sizes.__dataclass_fields__}
        return Sizes(**{name: getattr(base, name) if value is None else value for name, value in options.items()})


@dataclass(frozen=True)
class UlipProcessor:
    """One cloud -> `points` [N, C] float32 and `centres` [G] int64 (indices of points); picklable, no weights."""

    sizes: Sizes
    sampling: Literal["farthest", "random"]
    augment: bool
    up: int
    """Axis of the vertical."""

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read, sample and normalise one cloud; augmented only where `media.seed` is set. Raises MediaError."""
        size = self.sizes.points
        cloud = read_points(media, CANDIDATES * size if self.sampling == "farthest" else size)
        xyz, rgb = self._sampled(cloud)
        xyz = normalised(xyz)
        if self.augment and media.seed is not None:
            xyz = augmented(xyz, self.up, media.seed)
        centres = farthest(xyz, self.sizes.groups, self.sizes.blind)
        points = np.concatenate([xyz, rgb], axis=1) if self.sizes.colours else xyz
        return {"points": torch.from_numpy(points), "centres": torch.from_numpy(centres)}

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Tokens of a cloud: the same for all."""
        del item
        return 1 if self.sizes.output == "pooled" else 1 + self.sizes.groups

    def fingerprint(self) -> str:
        """Every setting, as text."""
        return f"{self!r} {SEED}"

    def _sampled(self, cloud: PointCloud) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As many points as `points`: sampled from more, all in the order of the file, or repeated."""
        points, count = self.sizes.points, len(cloud.xyz)
        missing = np.float32(self.sizes.missing_colour)
        rgb = np.full_like(cloud.xyz, missing) if cloud.rgb is None else cloud.rgb
        chosen = farthest(normalised(cloud.xyz), points) if count > points else np.arange(points) % count
        return cloud.xyz[chosen], rgb[chosen]


class UlipEncoder(Encoder):
    """Tokens of a cloud ([M, S, D]): they have no order and no grid."""

    contract = 1
    Config = UlipConfig
    modality = "points"
    card = Card(
        paper="Xue et al., ULIP, arXiv 2212.05171, and ULIP-2, arXiv 2305.08275; Xu et al., PointLLM, arXiv 2308.16911",
        weights="PointLLM: CC-BY-NC-SA 4.0; ULIP and ULIP-2 (Salesforce): their repository states none for the weights",
        tokens="513 (512 groups and the class token), or 1 (`output: pooled`)",
    )

    def __init__(self, config: UlipConfig) -> None:
        super().__init__()
        self.config = config
        require_weights(config.path, folders=False)
        sizes = config.sizes
        channels = 6 if sizes.colours else 3
        self.model = PointBert(
            channels, sizes.group_size, sizes.group_widths, sizes.width, sizes.depth, sizes.heads, config.drop_path
        )
        self.pooled = sizes.output == "pooled"
        self.width = 2 * sizes.width if self.pooled else sizes.width

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError where they do not fit."""
        if self.config.path is None:
            return
        state, source = read_point_bert(self.config.path, self.config.file)
        found, depth = _layers(state), self.config.sizes.depth
        if found != depth:
            fitting = [name for name, sizes in VARIANTS.items() if sizes.depth == found]
            raise RecipeError(
                f"{source}: has {found} layers, but `variant: {self.config.variant}` has {depth}. "
                f"{f'It may be {fitting[0]!r}.' if fitting else 'Set `depth`.'}"
            )
        load_strictly(self.model, state, source)

    def processor(self) -> UlipProcessor:
        """Reads, samples, normalises and, in training, augments clouds."""
        config = self.config
        return UlipProcessor(config.sizes, config.sampling, config.augment, "xyz".index(config.up))

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """Three layers of 24 numbers on 48 points in 6 groups, and clouds of fewer and more points, with and without
        colours."""
        for points, channels in ((31, 3), (75, 6), (201, 3)):
            cloud = synthetic.noise(points, channels)
            cloud[:, 3:] = np.abs(cloud[:, 3:]) / 9  # colours
            np.save(folder / f"{points}.npy", cloud)
        media = [Media("points", path.name, str(folder)) for path in sorted(folder.iterdir())]
        sizes = {"points": 48, "groups": 6, "group_size": 5, "group_widths": [8, 16, 16, 12], "width": 24, "depth": 3}
        return EncoderExample(media, {**sizes, "heads": 4, "augment": True}, batch_statistics=True)

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Points or triangles of a file, its format, size and whether it has colours. Raises MediaError."""
        return facts_of(media)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """`points` [M, N, C] and `centres` [M, G] -> Features [M, S, D], the class token first; no grid."""
        rows = self.model(items["points"], items["centres"])
        if self.pooled:
            rows = torch.cat([rows[:, :1], rows[:, 1:].max(dim=1, keepdim=True).values], dim=2)
        mask = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        return Features(rows, mask)


def normalised(xyz: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, 3] moved to the centre of mass and scaled to radius 1 (points that all coincide: left at 0)."""
    exact = xyz.astype(np.float64)
    exact -= exact.mean(axis=0)
    radius = float(np.sqrt((exact * exact).sum(axis=1).max()))
    return (exact / (radius or 1.0)).astype(np.float32)


def augmented(xyz: NDArray[np.float32], up: int, seed: int) -> NDArray[np.float32]:
    """[N, 3] turned about the vertical, stretched by 2/3 to 3/2 an axis, shifted by up to 0.2 and jittered.

    As usual in the training of point networks (Qian et al., PointNeXt, arXiv 2206.04670, section 3.1). A function of
    `seed` alone.
    """
    draw = np.random.default_rng([seed, 1])  # not the draw that chose the points
    angle = draw.uniform(0, 2 * np.pi)
    turned = xyz.copy()
    first, second = (up + 1) % 3, (up + 2) % 3
    turned[:, first] = np.cos(angle) * xyz[:, first] - np.sin(angle) * xyz[:, second]
    turned[:, second] = np.sin(angle) * xyz[:, first] + np.cos(angle) * xyz[:, second]
    moved = turned * draw.uniform(2 / 3, 3 / 2, 3) + draw.uniform(-0.2, 0.2, 3)
    return (moved + np.clip(draw.normal(0, 0.01, xyz.shape), -0.05, 0.05)).astype(np.float32)


def _layers(state: Mapping[str, Tensor]) -> int:
    return sum(name.startswith("blocks.blocks.") and name.endswith("norm1.weight") for name in state)
