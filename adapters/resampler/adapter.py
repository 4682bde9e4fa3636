"""`resampler`: learned queries gather the rows of a medium, however many, into a fixed number.

Three kinds: the perceiver of Flamingo (Alayrac et al., arXiv 2204.14198) and its followers OpenFlamingo, Otter and
AnyMAL; the query attention with 2-D positions of Qwen-VL (Bai et al., arXiv 2308.12966); the visual abstractor of
mPLUG-Owl (Ye et al., arXiv 2304.14178), mPLUG-DocOwl and mPLUG-Owl2.

Shapes: M media, S rows a medium, D encoder width, D_llm LLM width, Q queries, L rows out.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
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
"""Which options each kind knows."""


@dataclass
class ResamplerConfig:
    """What a recipe may say to `resampler`. An option that the chosen kind does not know is refused."""

    kind: Literal["perceiver", "query", "abstractor"] = "perceiver"
    """perceiver: Flamingo, Otter, AnyMAL. query: Qwen-VL. abstractor: mPLUG-Owl, DocOwl."""
    queries: int | None = None
    """Number of learned queries, which is the number of rows that come out (for `query` a square number, and of each
    frame; for `abstractor` the end vector follows). Default: 64; `query`: 256."""
    heads: int | None = None
    """Attention heads. Default: 8; `query`: one for each 128 of the LLM's width; `abstractor`: 16."""
    projection: bool = True
    """End with the map to the LLM's width: a linear layer; `query`: norm and matrix. Without it `perceiver` and
    `abstractor` give rows of the encoder's width, as OpenFlamingo's cross-attention takes them."""
    depth: int | None = None
    """Layers of `perceiver` and `abstractor`. Default: 6."""
    hidden: int | None = None
    """Width inside the feed-forward layers. Default: 4 times the encoder's; `abstractor`: 8/3 times, up to the next
    multiple of 256."""
    head_width: int | None = None
    """Width of each head of `perceiver`. Default: 64."""
    activation: Literal["gelu", "relu"] | None = None
    """In the feed-forward layers of `perceiver`. Default: gelu, as OpenFlamingo; IDEFICS has relu."""
    qk_norm: bool | None = None
    """`perceiver`: norms on each head's queries and keys, as IDEFICS-80B. Default: false."""
    frames: int | None = None
    """`perceiver`: give each frame of a video a learned embedding, for at most so many. Default: none of them."""
    positions: bool | None = None
    """`abstractor`: fixed sine positions on queries and keys, as mPLUG-Owl2. Default: false."""
    end: bool | None = None
    """`abstractor`: a learned vector after the rows, which says that the medium has ended. Default: true."""
    dropout: float | None = None
    """`abstractor`: of attention weights, while training. Default: 0; mPLUG-Owl has 0.1."""
    path: str | None = None
    """A checkpoint file with the weights of OpenFlamingo, Otter (`perceiver`), Qwen-VL (`query`), mPLUG-Owl, DocOwl or
    mPLUG-Owl2 (`abstractor`). The perceiver's projection is not in them and starts anew."""

    def __post_init__(self) -> None:
        given = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None]
        foreign = [name for name in given if name not in OPTIONS[self.kind]]
        if foreign:
            raise ValueError(
                f"kind: {self.kind} does not know {', '.join(foreign)}. Available: {', '.join(OPTIONS[self.kind])}."
            )
        for name in ("queries", "heads", "depth", "hidden", "head_width", "frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} ({value}) must be at least 1.")
        if self.kind == "query" and self.queries is not None and math.isqrt(self.queries) ** 2 != self.queries:
            raise ValueError(f"queries ({self.queries}) of `kind: query` stand on a square grid: 64, 144, 256, ...")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and below 1.")


@dataclass(frozen=True)
class ResamplerLength:
    """So many rows for any medium; `query`: a square grid of them for each picture or frame."""

    rows: int
    square: bool = False
    """The rows fill a grid, and so must those that come in."""
    placed: bool = False
    """The rows that come in must each have a place in a picture; a class token before a square grid may have none."""
    frames: int | None = None
    """Most frames of a medium."""

    def __call__(self, layout: Layout) -> Layout:
        grid = layout.grid or ()
        if self.frames is not None and len(grid) == 3 and grid[0] > self.frames:
            raise RecipeError(too_many_frames(grid[0], self.frames))
        if self.square and (len(grid) not in (2, 3) or math.prod(grid) != layout.rows):
            raise _no_grid("`kind: query` needs", layout, "Use `kind: perceiver`, or an encoder with such a grid")
        if self.placed and len(grid) not in (2, 3) and not _square_after_class_token(layout):
            raise _no_grid("`positions` need", layout, "Leave them off, or use an encoder with such a grid")
        if not self.square:
            return Layout(self.rows)
        side = math.isqrt(self.rows)
        return Layout(math.prod(grid[:-2]) * self.rows, (*grid[:-2], side, side))


def _square_after_class_token(layout: Layout) -> bool:
    return layout.grid is None and layout.rows > 1 and math.isqrt(layout.rows - 1) ** 2 == layout.rows - 1


def _no_grid(what: str, layout: Layout, remedy: str) -> RecipeError:
    beside = layout.rows - math.prod(layout.grid) if layout.grid else 0
    others = f", with {beside} beside it" if beside else ""
    theirs = f"fill the grid {layout.grid}{others}" if layout.grid else "fill none"
    return RecipeError(
        f"resampler: {what} rows that fill the grid (y, x) of a picture or (t, y, x) of a video, but these "
        f"{layout.rows} rows {theirs}. {remedy} (in the encoders of pictures: no class token among the rows)."
    )


class ResamplerAdapter(Adapter):
    """Rows [M, S, D] -> [M, L, D_llm] by learned queries; padded rows are never looked at."""

    Config = ResamplerConfig
    contract = 1
    card = Card(
        paper="Alayrac et al., Flamingo: a Visual Language Model for Few-Shot Learning, arXiv 2204.14198; Bai et al., "
        "Qwen-VL: A Versatile Vision-Language Model for Understanding, Localization, Text Reading, and Beyond, "
        "arXiv 2308.12966; Ye et al., mPLUG-Owl: Modularization Empowers Large Language Models with "
        "Multimodality, arXiv 2304.14178",
        weights="none, unless `path` is said: then those of OpenFlamingo, Otter, Qwen-VL or mPLUG-Owl, by their "
        "authors' terms",
        tokens="64 (`queries`), whatever comes in; `kind: query`: 256 a picture or frame; `kind: abstractor`: 64 and "
        "the end vector",
    )

    def __init__(self, config: ResamplerConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError for heads or positions that do not fit the widths."""
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
        """A perceiver that tells frames apart."""
        del folder
        return AdapterExample({"queries": 4, "depth": 2, "heads": 2, "head_width": 8, "frames": 4})

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError where they are not there or do not fit."""
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
            RecipeError: the rows have no places where they are needed, or too many frames.
        """
        del instruction
        values = features.values.to(next(self.parameters()).dtype)
        # what stands in padding may be anything, even not a number, which a mask of attention does not keep out
        cleaned: Features = self.network(features.with_values(values.masked_fill(~features.mask[..., None], 0.0)))
        return cleaned


def _left_out(config: ResamplerConfig) -> list[str]:
    """What a checkpoint holds and this network, by the recipe's wish or because it computes it, does not."""
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
    _divides(4, llm_width, "the LLM's width", "parts (sines and cosines of y and x)")
    return PositionedQuery(width, llm_width, math.isqrt(queries), heads, config.projection)


def _abstractor(config: ResamplerConfig, width: int, out: int | None, queries: int) -> Abstractor:
    heads, dropout = _or(config.heads, 16), _or(config.dropout, 0.0)
    hidden = _or(config.hidden, 256 * math.ceil(8 * width // 3 / 256))
    positions = _or(config.positions, False)
    _divides(heads, width, "the encoder's width", "heads")
    if positions:
        _divides(4, width, "the encoder's width", "parts (sines and cosines of y and x)")
    layers = [AbstractorLayer(width, heads, hidden, dropout) for _ in range(_or(config.depth, 6))]
    return Abstractor(width, out, queries, positions, _or(config.end, True), layers)


def _divides(parts: int, width: int, whose: str, what: str) -> None:
    if width % parts:
        raise RecipeError(
            f"resampler: {whose} ({width}) cannot be divided into {parts} {what}."
            + (" Choose `heads` so that it can." if what == "heads" else "")
        )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
