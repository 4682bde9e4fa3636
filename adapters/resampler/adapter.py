"""`resampler`: a fixed number of learned queries collects information from all tokens of a medium.

Three kinds: the perceiver of Flamingo (Alayrac et al., arXiv 2204.14198) and its followers OpenFlamingo, Otter and
AnyMAL; the query attention with 2-D positions of Qwen-VL (Bai et al., arXiv 2308.12966); the visual abstractor of
mPLUG-Owl (Ye et al., arXiv 2304.14178), mPLUG-DocOwl and mPLUG-Owl2.

Shapes: M media, S tokens of a medium, D encoder width, D_llm LLM width, Q queries, L tokens out.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from omnivit_adapters.resampler.kinds import Abstractor, AbstractorLayer, Perceiver, PerceiverBlock, too_many_frames
from omnivit_adapters.resampler.query import PositionedQuery
from omnivit_adapters.resampler.weights import read_resampler
from torch import nn

from omnivit.plugin import (
    Adapter,
    AdapterExample,
    Card,
    Features,
    Instruction,
    Layout,
    RecipeError,
    load_strictly,
    require_weights,
)

T = TypeVar("T")
QUERIES = {"perceiver": 64, "query": 256, "abstractor": 64}
COMMON = ("kind", "queries", "heads", "projection", "path")
OPTIONS = {
    "perceiver": (*COMMON, "depth", "hidden", "head_width", "activation", "qk_norm", "frames"),
    "query": COMMON,
    "abstractor": (*COMMON, "depth", "hidden", "positions", "end", "dropout"),
}
"""Kind -> the options that it reads."""


@dataclass
class ResamplerConfig:
    """Options of `resampler`. An option that the kind does not read is an error."""

    kind: Literal["perceiver", "query", "abstractor"] = "perceiver"
    """The architecture. `perceiver`: Flamingo, Otter, AnyMAL; `query`: Qwen-VL; `abstractor`: mPLUG-Owl, DocOwl."""
    queries: int | None = None
    """Number of learned queries, which is the number of output tokens. For `query` it is a square number, for each
    image or frame; for `abstractor` the end vector is added. Default: 64; `query`: 256."""
    heads: int | None = None
    """Attention heads. Default: 8; `query`: one for each 128 of the LLM's width; `abstractor`: 16."""
    projection: bool = True
    """Add the projection to the LLM's width at the end: a linear layer, for `query` a norm and a matrix. `false`:
    `perceiver` and `abstractor` return tokens of the encoder's width, as OpenFlamingo's cross-attention needs."""
    depth: int | None = None
    """Number of layers of `perceiver` and `abstractor`. Default: 6."""
    hidden: int | None = None
    """Hidden size of the feed-forward layers. Default: 4 times the encoder's width; `abstractor`: 8/3 times, rounded up
    to a multiple of 256."""
    head_width: int | None = None
    """For `perceiver`: width of an attention head. Default: 64."""
    activation: Literal["gelu", "relu"] | None = None
    """For `perceiver`: activation function of the feed-forward layers. Default: gelu, as OpenFlamingo; IDEFICS uses
    relu."""
    qk_norm: bool | None = None
    """For `perceiver`: add norms to the queries and keys of each head, as IDEFICS-80B. Default: false."""
    frames: int | None = None
    """For `perceiver`: number of learned frame embeddings, which is the largest number of frames of a video. Default:
    no frame embeddings."""
    positions: bool | None = None
    """For `abstractor`: add fixed sine positions to queries and keys, as mPLUG-Owl2. Default: false."""
    end: bool | None = None
    """For `abstractor`: add a learned vector after the tokens, which marks the end of the medium. Default: true."""
    dropout: float | None = None
    """For `abstractor`: dropout probability of attention weights in training. Default: 0; mPLUG-Owl uses 0.1."""
    path: str | None = None
    """Pretrained weights: a checkpoint file of OpenFlamingo or Otter (`perceiver`), Qwen-VL (`query`), mPLUG-Owl,
    DocOwl or mPLUG-Owl2 (`abstractor`). It does not contain the perceiver's projection, which is initialised
    randomly."""

    def __post_init__(self) -> None:
        given = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None]
        foreign = [name for name in given if name not in OPTIONS[self.kind]]
        if foreign:
            raise ValueError(
                f"kind {self.kind} has no option {', '.join(foreign)}. Available: {', '.join(OPTIONS[self.kind])}."
            )
        for name in ("queries", "heads", "depth", "hidden", "head_width", "frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} ({value}) must be at least 1.")
        if self.kind == "query" and self.queries is not None and math.isqrt(self.queries) ** 2 != self.queries:
            raise ValueError(
                f"queries ({self.queries}) must be a square number with `kind: query`, such as 64, 144 or 256."
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and below 1.")


@dataclass(frozen=True)
class ResamplerLength:
    """A fixed number of tokens for any medium; for `query` a square grid of tokens for each image or frame."""

    rows: int
    square: bool = False
    """The output tokens fill a grid, and the input tokens must fill one."""
    placed: bool = False
    """Each input token must have a place in an image; class tokens beside the grid need none."""
    frames: int | None = None
    """Most frames of a medium."""

    def __call__(self, layout: Layout) -> Layout:
        grid = layout.grid or ()
        if self.frames is not None and len(grid) == 3 and grid[0] > self.frames:
            raise RecipeError(too_many_frames(grid[0], self.frames))
        if self.square and (len(grid) not in (2, 3) or math.prod(grid) != layout.tokens):
            raise _no_grid("with `kind: query`", layout, "Use `kind: perceiver`")
        if self.placed and len(grid) not in (2, 3):
            raise _no_grid("with `positions: true`", layout, "Remove `positions`")
        if not self.square:
            return Layout(self.rows)
        side = math.isqrt(self.rows)
        return Layout(math.prod(grid[:-2]) * self.rows, (*grid[:-2], side, side))


def _no_grid(setting: str, layout: Layout, remedy: str) -> RecipeError:
    outside = layout.tokens - math.prod(layout.grid) if layout.grid else 0
    place = (
        f"a grid {layout.grid}{f' and {outside} tokens outside it' if outside else ''}" if layout.grid else "no grid"
    )
    return RecipeError(
        f"resampler: {setting} the tokens must fill a grid, (y, x) of an image or (t, y, x) of a video, but these "
        f"{layout.tokens} tokens have {place}. {remedy}, or use an encoder with such a grid (in image encoders, set "
        f"`class_token: drop`)."
    )


class ResamplerAdapter(Adapter):
    """Tokens [M, S, D] -> [M, L, D_llm] by learned queries, which do not attend to padding."""

    Config = ResamplerConfig
    contract = 1
    card = Card(
        paper="Alayrac et al., Flamingo: a Visual Language Model for Few-Shot Learning, arXiv 2204.14198; Bai et al., "
        "Qwen-VL: A Versatile Vision-Language Model for Understanding, Localization, Text Reading, and Beyond, "
        "arXiv 2308.12966; Ye et al., mPLUG-Owl: Modularization Empowers Large Language Models with "
        "Multimodality, arXiv 2304.14178",
        weights="none, unless `path` is set: then those of OpenFlamingo, Otter, Qwen-VL or mPLUG-Owl, by their "
        "authors' terms",
        tokens="64 (`queries`), for any input; `kind: query`: 256 for each image or frame; `kind: abstractor`: 64 "
        "and the end vector",
    )

    def __init__(self, config: ResamplerConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError if heads or positions do not fit the widths."""
        super().__init__(config, width, llm_width)
        self.config = config
        require_weights(config.path)
        queries = _or(config.queries, QUERIES[config.kind])
        out = llm_width if config.projection else None
        self.network: nn.Module
        if config.kind == "query":
            self.network = _query(config, width, llm_width, queries)
            self.length = ResamplerLength(queries, square=True)
            return
        if config.kind == "perceiver":
            self.network = _perceiver(config, width, out, queries)
            self.length = ResamplerLength(queries, frames=config.frames)
        else:
            self.network = _abstractor(config, width, out, queries)
            self.length = ResamplerLength(queries + _or(config.end, True), placed=_or(config.positions, False))
        self.width = llm_width if config.projection else width

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """A perceiver with frame embeddings."""
        del folder
        return AdapterExample({"queries": 4, "depth": 2, "heads": 2, "head_width": 8, "frames": 4})

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError if they are missing or do not fit."""
        config = self.config
        if config.path is None:
            return
        state = read_resampler(config.path, config.kind)
        if config.kind == "perceiver" and config.projection:
            state |= {k: v for k, v in self.network.state_dict().items() if k.startswith("projection.")}
        load_strictly(self.network, state, config.path, ignored=_left_out(config))

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, L, D_llm].

        Raises:
            RecipeError: the tokens have no grid, but the kind needs one, or there are too many frames.
        """
        del instruction
        values = features.values.to(next(self.parameters()).dtype)
        # padding may contain NaN, which an attention mask does not keep out
        resampled: Features = self.network(features.with_values(values.masked_fill(~features.mask[..., None], 0.0)))
        return replace(resampled, memory=features.memory)


def _left_out(config: ResamplerConfig) -> list[str]:
    """Weights that a checkpoint contains and this network does not: it computes them, or the recipe excludes them."""
    fixed = [f"layers.{n}.{side}_pos_embed" for n in range(_or(config.depth, 6)) for side in "qk"]
    return [
        "places",
        *(fixed if config.positions else ()),
        *(() if config.projection else ("post", "visual_fc")),
        *(() if _or(config.end, True) else ("end",)),
    ]


def _perceiver(config: ResamplerConfig, width: int, out: int | None, queries: int) -> Perceiver:
    heads, head_width = _or(config.heads, 8), _or(config.head_width, 64)
    hidden, activation = _or(config.hidden, 4 * width), _or(config.activation, "gelu")
    qk_norm = _or(config.qk_norm, False)
    blocks = [
        PerceiverBlock(width, heads, head_width, hidden, activation, qk_norm) for _ in range(_or(config.depth, 6))
    ]
    return Perceiver(width, out, queries, config.frames, blocks)


def _query(config: ResamplerConfig, width: int, llm_width: int, queries: int) -> PositionedQuery:
    heads = _or(config.heads, max(1, llm_width // 128))
    _divides(heads, llm_width, "the LLM's width", "heads")
    _divides(4, llm_width, "the LLM's width", "sines and cosines of y and x")
    return PositionedQuery(width, llm_width, math.isqrt(queries), heads, config.projection)


def _abstractor(config: ResamplerConfig, width: int, out: int | None, queries: int) -> Abstractor:
    heads, dropout = _or(config.heads, 16), _or(config.dropout, 0.0)
    hidden = _or(config.hidden, 256 * math.ceil(8 * width // 3 / 256))
    positions = _or(config.positions, False)
    _divides(heads, width, "the encoder's width", "heads")
    if positions:
        _divides(4, width, "the encoder's width", "sines and cosines of y and x")
    layers = [AbstractorLayer(width, heads, hidden, dropout) for _ in range(_or(config.depth, 6))]
    return Abstractor(width, out, queries, positions, _or(config.end, True), layers)


def _divides(parts: int, width: int, whose: str, what: str) -> None:
    if width % parts:
        raise RecipeError(
            f"resampler: {whose} ({width}) is not a multiple of {parts} ({what})."
            + (" Set `heads` to one of its divisors." if what == "heads" else "")
        )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
