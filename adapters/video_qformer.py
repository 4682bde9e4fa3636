"""`video_qformer`: learned queries that attend to all frames of a video, with a learned position for each frame.

The video Q-Former of Video-LLaMA (Zhang et al., arXiv 2306.02858, section 2.1.1), and its audio Q-Former (section
2.1.2): a learned embedding of the frame's number is added to the frame's tokens, then a BERT of two layers, each with
cross-attention, attends to the tokens of all frames, then a linear layer maps to the LLM. The layers are those of
transformers.

Shapes: M media, S tokens of a medium, T frames, D width of the tokens, Q queries, H hidden width, D_llm LLM width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from omnivit.model.arguments import accepted
from omnivit.plugin import (
    Adapter,
    AdapterExample,
    Card,
    Features,
    Instruction,
    Layout,
    RecipeError,
    load_strictly,
    locate,
    read_state,
    require_weights,
)

Branch = Literal["video", "audio"]

KEYS = (
    (r"{branch}_query_tokens", "query_tokens"),
    (r"{branch}(?:_frame)?_position_embedding\.(\w+)", r"frame_positions.\1"),
    (r"{branch}_Qformer\.bert\.embeddings\.LayerNorm\.(\w+)", r"qformer.layernorm.\1"),
    (r"{branch}_Qformer\.bert\.encoder\.(.+attention)\.self\.(.+)", r"qformer.encoder.\1.attention.\2"),
    (r"{branch}_Qformer\.bert\.encoder\.(.+)", r"qformer.encoder.\1"),
    (r"{projection}\.(\w+)", r"language_projection.\1"),
)
"""Keys of Video-LLaMA -> our names; the first pattern that matches a whole key counts."""
PROJECTIONS: dict[Branch, str] = {"video": "llama_proj", "audio": "audio_llama_proj"}


@dataclass
class VideoQFormerConfig:
    """Options of `video_qformer`; the defaults are Video-LLaMA's."""

    branch: Branch = "video"
    """`video`: tokens with a grid (t, y, x), one position for each frame; `audio`: one position for each token."""
    queries: int | None = None
    """Q, number of learned queries, which is the number of output tokens; default: 32, for `audio` 8."""
    frames: int | None = None
    """Largest number of frames (`audio`: of tokens), which is the number of learned positions; default: 32, for `audio`
    8."""
    layers: int = 2
    """Transformer layers; each has cross-attention."""
    heads: int = 12
    """Attention heads."""
    hidden: int = 768
    """H, hidden size of the transformer."""
    intermediate: int = 3072
    """Hidden size of the feed-forward layers."""
    dropout: float = 0.1
    """Dropout probability of hidden states and attention weights in training."""
    path: str | None = None
    """Pretrained weights: a file of Video-LLaMA (.pth); `branch` chooses the part of it."""

    def __post_init__(self) -> None:
        sizes = (self.query_count, self.frame_limit, self.layers, self.heads, self.hidden, self.intermediate)
        if min(sizes) < 1:
            raise ValueError("queries, frames, layers, heads, hidden and intermediate must be at least 1.")
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) cannot be divided by {self.heads} heads.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and less than 1.")

    @property
    def query_count(self) -> int:
        """Q, with the default of the branch."""
        return (32 if self.branch == "video" else 8) if self.queries is None else self.queries

    @property
    def frame_limit(self) -> int:
        """Largest number of frames, with the default of the branch."""
        return (32 if self.branch == "video" else 8) if self.frames is None else self.frames


@dataclass(frozen=True)
class VideoQFormerLength:
    """As many tokens as queries, for videos with at most as many frames as positions."""

    branch: Branch
    queries: int
    frames: int

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError if there is no token or no time axis, or there are too many frames."""
        if layout.tokens < 1:
            raise RecipeError("video_qformer: the medium has no tokens.")
        if self.branch == "audio":
            self._limit(layout.tokens, "tokens, which have one position each")
            return Layout(self.queries)
        if layout.grid is None or len(layout.grid) != 3 or layout.beside is None:
            place = "no grid" if layout.grid is None else f"a grid {layout.grid}"
            place += " and others that belong to no frame" if layout.beside is None else ""
            raise RecipeError(
                f"video_qformer: the tokens must have a grid (t, y, x), which tells the frame of each token, but these "
                f"{layout.tokens} tokens have {place}. Put the step before it inside `per_frame`, which keeps the time "
                f"axis: {{name: chain, steps: [{{name: per_frame, adapter: ...}}, {{name: video_qformer}}]}}. If every "
                f"token is a time step, set `branch: audio`."
            )
        self._limit(layout.grid[0], "frames")
        return Layout(self.queries)

    def _limit(self, count: int, what: str) -> None:
        if count > self.frames:
            raise RecipeError(
                f"video_qformer: the medium has {count} {what}, but there are only {self.frames} positions. Use at "
                f"most {self.frames}, or set `frames: {count}` and train the new positions."
            )


class VideoQFormerAdapter(Adapter):
    """Tokens [M, S, D] of up to T frames -> [M, Q, D_llm], without a grid.

    Parameters are `query_tokens`, `frame_positions.weight` [T, D], `qformer.*` (names of transformers' BLIP-2) and
    `language_projection.*`. Initialised as in Video-LLaMA (`VideoLLAMA.__init__`, `init_video_Qformer`): queries and
    layers from a normal distribution of deviation 0.02, positions and projection as torch does.
    """

    Config = VideoQFormerConfig
    contract = 1
    card = Card(
        paper="Zhang et al., Video-LLaMA: An Instruction-tuned Audio-Visual Language Model for Video Understanding, "
        "arXiv 2306.02858",
        weights="none, unless `path` is set: then those of Video-LLaMA, by their authors' terms",
        tokens="32 for each video (`queries`); 8 for each audio with `branch: audio`",
    )

    def __init__(self, config: VideoQFormerConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.config = config
        require_weights(config.path)
        self.length = VideoQFormerLength(config.branch, config.query_count, config.frame_limit)
        self.frame_positions = nn.Embedding(config.frame_limit, width)
        settings = Blip2QFormerConfig(
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            cross_attention_frequency=1,
            encoder_hidden_size=width,
        )
        self.qformer: Any = Blip2QFormerModel(settings)
        queries = torch.empty(1, config.query_count, config.hidden)
        self.query_tokens = nn.Parameter(queries.normal_(std=settings.initializer_range))
        self.language_projection = nn.Linear(config.hidden, llm_width)

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """For videos of at most four frames."""
        del folder
        sizes = {"queries": 3, "frames": 4, "heads": 2, "hidden": 16, "intermediate": 24}
        return AdapterExample(sizes, [Layout(24, (2, 3, 4)), Layout(12, (4, 1, 3)), Layout(3, (1, 1, 3))])

    def load(self) -> None:
        """Load the branch's weights from `path`. Raises RecipeError if they are missing or do not fit."""
        if self.config.path is None:
            return
        state: dict[str, Tensor] = {}
        for key, tensor in read_state(locate(self.config.path)).items():
            if name := _own_name(key, self.config.branch):
                state[name] = tensor
        source = f"video_qformer adapter, path {self.config.path!r} (keys of the {self.config.branch} branch)"
        load_strictly(self, state, source)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, Q, D_llm].

        Raises:
            ValueError: the tokens of a video have no grid. The length rule raises before.
        """
        del instruction
        # padding may contain infinities, and attention weight 0 times infinity is not 0
        values = features.values.masked_fill(~features.mask[..., None], 0.0).to(self.query_tokens.dtype)
        values = values + self.frame_positions(self._times(features))
        inputs = accepted(
            self.qformer,
            query_embeds=self.query_tokens.expand(values.shape[0], -1, -1),
            encoder_hidden_states=values,
            encoder_attention_mask=features.mask,
        )
        states = self.qformer(**inputs).last_hidden_state
        mask = features.mask.new_ones(states.shape[:2])
        return Features(self.language_projection(states), mask, memory=features.memory)

    def _times(self, features: Features) -> Tensor:
        """[M, S]: the number of each token's frame, 0 for padding."""
        if self.config.branch == "audio":
            return (features.mask.cumsum(dim=1) - 1).clamp(min=0)
        if features.grid is None:
            raise ValueError("video_qformer: the tokens have no grid, but their length rule promised one.")
        return features.grid[..., 0].masked_fill(~features.mask, 0).long()


def _own_name(key: str, branch: Branch) -> str | None:
    """Our name for a key of Video-LLaMA; None for a key of another part, or for position ids."""
    for pattern, name in KEYS:
        if match := re.fullmatch(pattern.format(branch=branch, projection=PROJECTIONS[branch]), key):
            return match.expand(name)
    return None
