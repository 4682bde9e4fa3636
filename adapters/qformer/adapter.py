"""`qformer`: learned queries that collect information from a medium, through a BERT with cross-attention.

The Querying Transformer of BLIP-2 (Li et al., arXiv 2301.12597, section 3.1) and, with the instruction as additional
input, of InstructBLIP (Dai et al., arXiv 2305.06500, section 2.3). The layers are those of transformers.

Shapes: M media, S tokens of a medium, D encoder width, Q queries, T instruction tokens, H hidden width, D_llm LLM
width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from omnivit_adapters.qformer.layouts import NORM, PLAIN_NORM, read_qformer
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, InstructBlipQFormerConfig, InstructBlipQFormerModel

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
    read_tokenizer,
    require_weights,
)


@dataclass
class QFormerConfig:
    """Options of `qformer`; the defaults are BLIP-2's."""

    queries: int = 32
    """Q, number of learned queries, which is the number of output tokens."""
    layers: int = 12
    """Transformer layers."""
    heads: int = 12
    """Attention heads."""
    hidden: int = 768
    """H, hidden size of the transformer."""
    intermediate: int = 3072
    """Hidden size of the feed-forward layers."""
    cross_attention_frequency: int = 2
    """Distance between layers with cross-attention to the medium; the first layer has it."""
    dropout: float = 0.1
    """Dropout probability of hidden states and attention weights in training."""
    path: str | None = None
    """Pretrained weights: a checkpoint of BLIP-2 or InstructBLIP (hub id, folder or file), or one with the keys of
    LAVIS."""
    projection: bool = True
    """Add a linear layer to the LLM's width at the end. `false`: return tokens of width H, for the next step of a
    chain."""
    input_norm: bool | None = None
    """Apply a LayerNorm to the encoder's tokens first (LAVIS's `ln_vision`). Set `false` if the encoder already ends
    with it. Default: no LayerNorm; if the checkpoint contains one, the option must be set."""
    input_norm_eps: float = 1e-5
    """Epsilon of this LayerNorm: 1e-5 in LAVIS, 1e-6 in BLIP-2's vision tower of transformers."""
    instruction_tokenizer: str | None = None
    """Read the user's instruction too (InstructBLIP): hub id or folder of its tokenizer, or `bytes`."""
    instruction_limit: int = 128
    """Most tokens of the instruction; a longer one is truncated."""
    vocabulary: int | None = None
    """Number of token embeddings; default: the tokenizer's size. InstructBLIP has 30523."""
    positions: int = 512
    """Number of position embeddings."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention implementation of transformers."""

    renamed: ClassVar[Mapping[str, str]] = {"every": "cross_attention_frequency"}

    def __post_init__(self) -> None:
        sizes = (self.queries, self.layers, self.heads, self.hidden, self.intermediate, self.cross_attention_frequency)
        if min(sizes) < 1:
            raise ValueError(
                "queries, layers, heads, hidden, intermediate and cross_attention_frequency must be at least 1."
            )
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) cannot be divided by {self.heads} heads.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and less than 1.")
        if not 1 <= self.instruction_limit <= self.positions:
            raise ValueError(
                f"instruction_limit ({self.instruction_limit}) must be between 1 and `positions` ({self.positions})."
            )
        if self.vocabulary is not None and self.instruction_tokenizer is None:
            raise ValueError("`vocabulary` is for the instruction only. Set `instruction_tokenizer` too.")


@dataclass(frozen=True)
class QueryLength:
    """As many tokens as queries, from any medium with at least one token."""

    queries: int

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError for a medium without tokens."""
        if layout.tokens < 1:
            raise RecipeError("qformer: the medium has no tokens. Put `qformer` before the step that removes them.")
        return Layout(self.queries)


class QFormerAdapter(Adapter):
    """Tokens [M, S, D] -> [M, Q, D_llm] (or [M, Q, H] without projection), without a grid.

    Parameters have the names of transformers' InstructBLIP or BLIP-2: `query_tokens`, `qformer.*`,
    `language_projection.*`; and `input_norm.*`. Initialised as in LAVIS (`Blip2Base.init_Qformer`): queries and layers
    from a normal distribution of deviation 0.02, the projection as torch does. (LAVIS then loads the self-attention and
    feed-forward layers of bert-base-uncased; here a trained Q-Former can be loaded.)
    """

    Config = QFormerConfig
    contract = 1
    card = Card(
        paper="Li et al., BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large "
        "Language Models, arXiv 2301.12597; Dai et al., InstructBLIP: Towards General-purpose Vision-Language "
        "Models with Instruction Tuning, arXiv 2305.06500",
        weights="none, unless `path` is set: then those of BLIP-2 or InstructBLIP (Salesforce), by the licence of the "
        "checkpoint",
        tokens="32 (`queries`), for any input",
    )

    def __init__(self, config: QFormerConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError if the instruction's tokenizer cannot be read, or has more tokens than `vocabulary`."""
        super().__init__(config, width, llm_width)
        self.config = config
        require_weights(config.path, folders=False)
        self.width = llm_width if config.projection else config.hidden
        self.length = QueryLength(config.queries)
        self.instruction_tokenizer = config.instruction_tokenizer
        self.instruction_limit = config.instruction_limit
        self.input_norm = nn.LayerNorm(width, config.input_norm_eps) if config.input_norm else nn.Identity()
        self.qformer: Any = (
            _plain(config, width) if config.instruction_tokenizer is None else _instructed(config, width)
        )
        deviation = self.qformer.config.initializer_range
        self.query_tokens = nn.Parameter(torch.empty(1, config.queries, config.hidden).normal_(std=deviation))
        self.language_projection = nn.Linear(config.hidden, llm_width) if config.projection else nn.Identity()

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """A small Q-Former that reads the instruction."""
        del folder
        sizes = {"queries": 3, "layers": 2, "heads": 2, "hidden": 16, "intermediate": 24}
        return AdapterExample({**sizes, "instruction_tokenizer": "bytes", "instruction_limit": 32})

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError if they do not fit, or a part is missing."""
        if self.config.path is None:
            return
        source = f"qformer adapter, path {self.config.path!r}"
        state = read_qformer(self.config.path)
        _check_parts(state, self.config, source)
        if self.instruction_tokenizer is None:
            state = {name.replace(NORM, PLAIN_NORM): tensor for name, tensor in state.items()}
        load_strictly(self, state, source, ignored=self._without_use())

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] (and the instruction [M, T]) -> Features [M, Q, D_llm].

        Raises:
            ValueError: the adapter reads the instruction, but none is given.
        """
        rows = features.values.to(self.query_tokens.dtype)
        # padding may contain infinities, and attention weight 0 times infinity is not 0
        rows = self.input_norm(rows.masked_fill(~features.mask[..., None], 0.0))
        inputs: dict[str, Tensor] = {
            "query_embeds": self.query_tokens.expand(rows.shape[0], -1, -1),
            "encoder_hidden_states": rows,
            "encoder_attention_mask": features.mask,
        }
        queries = features.mask.new_ones(rows.shape[0], self.config.queries)
        if self.instruction_tokenizer is not None:
            if instruction is None:
                raise ValueError("qformer: `instruction_tokenizer` is set, but no instruction is given.")
            inputs["input_ids"] = instruction.input_ids
            inputs["attention_mask"] = torch.cat([queries, instruction.attention_mask], dim=1)
        states: Tensor = self.qformer(**accepted(self.qformer, **inputs)).last_hidden_state
        values = self.language_projection(states[:, : self.config.queries])
        return Features(values, queries, memory=features.memory)

    def _without_use(self) -> list[str]:
        """Weights that a checkpoint may contain and the adapter does not use: parts of other settings, text in the last
        layer."""
        layers = range(self.config.layers) if self.instruction_tokenizer is None else [self.config.layers - 1]
        names = [f"qformer.encoder.layer.{n}.{part}" for n in layers for part in ("intermediate", "output")]
        if self.instruction_tokenizer is None:
            names += ["qformer.embeddings.word_embeddings", "qformer.embeddings.position_embeddings"]
        return (
            names
            + ["language_projection"] * (not self.config.projection)
            + ["input_norm"] * (not self.config.input_norm)
        )


class _KeepResidual(nn.Module):
    """Replaces a BERT output layer: returns the residual around the feed-forward layer, [M, T, H]."""

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        del states
        return residual


def _plain(config: QFormerConfig, width: int) -> Blip2QFormerModel:
    return Blip2QFormerModel(Blip2QFormerConfig(**_settings(config, width)))


def _instructed(config: QFormerConfig, width: int) -> InstructBlipQFormerModel:
    """Without the feed-forward layer for text in the last layer: no output depends on it, and DDP would wait for its
    gradients."""
    assert config.instruction_tokenizer is not None
    tokenizer = read_tokenizer(config.instruction_tokenizer)
    rows = len(tokenizer) if config.vocabulary is None else config.vocabulary
    if rows < len(tokenizer):
        raise RecipeError(
            f"qformer: `vocabulary` ({rows}) is smaller than the tokenizer {config.instruction_tokenizer!r} "
            f"({len(tokenizer)} tokens). Remove it, or set it to the number of token embeddings in the checkpoint."
        )
    text = {"vocab_size": rows, "max_position_embeddings": config.positions, "pad_token_id": tokenizer.pad_token_id}
    model = InstructBlipQFormerModel(InstructBlipQFormerConfig(**_settings(config, width), **text))
    last = model.encoder.layer[-1]
    last.intermediate, last.output = nn.Identity(), _KeepResidual()
    return model


def _settings(config: QFormerConfig, width: int) -> dict[str, Any]:
    return {
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "cross_attention_frequency": config.cross_attention_frequency,
        "encoder_hidden_size": width,
        "attn_implementation": config.attention,
    }


def _check_parts(state: dict[str, Tensor], config: QFormerConfig, source: str) -> None:
    """Raise RecipeError if a part is missing in the checkpoint, or the recipe must decide about it."""
    problem = None
    if config.projection and "language_projection.weight" not in state:
        problem = (
            "the checkpoint contains no projection to an LLM, as after BLIP-2's first stage. Set `projection: false` "
            "and train a projection after it: {name: chain, steps: [{name: qformer, ...}, {name: linear}]}."
        )
    elif config.instruction_tokenizer is not None and "qformer.embeddings.word_embeddings.weight" not in state:
        problem = "the checkpoint has no text branch to read an instruction. Remove `instruction_tokenizer`."
    elif config.input_norm and "input_norm.weight" not in state:
        problem = "the checkpoint contains no LayerNorm for the encoder's tokens (`ln_vision`). Remove `input_norm`."
    elif config.input_norm is None and "input_norm.weight" in state:
        problem = (
            "the checkpoint contains a LayerNorm before the Q-Former (`ln_vision`, or `post_layernorm` of the vision "
            "tower). Set `input_norm: true` to use it, or `input_norm: false` if the encoder already ends with it."
        )
    if problem:
        raise RecipeError(f"{source}: {problem}")
