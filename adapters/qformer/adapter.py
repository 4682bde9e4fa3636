"""`qformer`: learned queries that gather what matters of a medium, through a BERT with cross-attention.

The Querying Transformer of BLIP-2 (Li et al., arXiv 2301.12597, section 3.1) and, with the user's words among its
tokens, of InstructBLIP (Dai et al., arXiv 2305.06500, section 2.3). The layers are those of transformers.

Shapes: M media, S rows a medium, D encoder width, Q queries, T instruction tokens, H hidden width, D_llm LLM width.
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
    """What a recipe may say to `qformer`; the defaults are BLIP-2's."""

    queries: int = 32
    """Q, the rows that come out."""
    layers: int = 12
    """Transformer layers."""
    heads: int = 12
    """Attention heads."""
    hidden: int = 768
    """Width H inside."""
    intermediate: int = 3072
    """Width inside the feed-forward parts."""
    cross_attention_frequency: int = 2
    """The first layer, and every n-th after it, looks at the medium (cross-attention)."""
    dropout: float = 0.1
    """While training, on hidden states and attention."""
    path: str | None = None
    """Pretrained: a checkpoint of BLIP-2 or InstructBLIP (hub id, folder or file), or one with the keys of LAVIS."""
    projection: bool = True
    """End with a linear layer to the LLM. `false`: rows of width H, for the next step of a chain."""
    input_norm: bool | None = None
    """Begin with a LayerNorm of the encoder's rows (LAVIS's `ln_vision`). `false` where the encoder ends with it.
    Default: none, but a checkpoint that holds one asks for an answer."""
    input_norm_eps: float = 1e-5
    """Its epsilon; LAVIS's is 1e-5, that of BLIP-2's vision tower in transformers 1e-6."""
    instruction_tokenizer: str | None = None
    """Let the user's words in (InstructBLIP): their tokenizer's hub id or folder, or `bytes`."""
    instruction_limit: int = 128
    """Most tokens of them; longer ones are cut."""
    vocabulary: int | None = None
    """Rows of the token table; default: the tokenizer's size. InstructBLIP's has 30523."""
    positions: int = 512
    """Rows of the position table."""
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
            raise ValueError(f"hidden ({self.hidden}) cannot be divided among {self.heads} heads.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and less than 1.")
        if not 1 <= self.instruction_limit <= self.positions:
            raise ValueError(
                f"instruction_limit ({self.instruction_limit}) must be 1 to `positions` ({self.positions})."
            )
        if self.vocabulary is not None and self.instruction_tokenizer is None:
            raise ValueError("`vocabulary` is for the instruction: say `instruction_tokenizer`.")


@dataclass(frozen=True)
class QueryLength:
    """As many rows as there are queries, from any medium that has rows."""

    queries: int

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError for a medium without rows."""
        if layout.rows < 1:
            raise RecipeError("qformer: the medium has no rows to look at. Put it before a step that takes them away.")
        return Layout(self.queries)


class QFormerAdapter(Adapter):
    """Rows [M, S, D] -> [M, Q, D_llm] (or [M, Q, H] without projection), in no grid.

    Parameters have the names of transformers' InstructBLIP or BLIP-2: `query_tokens`, `qformer.*`,
    `language_projection.*`; beside them `input_norm.*`. Initialised as in LAVIS (`Blip2Base.init_Qformer`): queries
    and layers from a normal distribution of deviation 0.02, the projection as torch does. (LAVIS then takes the
    self-attention and feed-forward parts of bert-base-uncased; here the weights of a trained Q-Former are the start.)
    """

    Config = QFormerConfig
    contract = 1
    card = Card(
        paper="Li et al., BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large "
        "Language Models, arXiv 2301.12597; Dai et al., InstructBLIP: Towards General-purpose Vision-Language "
        "Models with Instruction Tuning, arXiv 2305.06500",
        weights="none, unless `path` is said: then those of BLIP-2 or InstructBLIP (Salesforce), by the licence of the "
        "checkpoint",
        tokens="32 (`queries`), whatever comes in",
    )

    def __init__(self, config: QFormerConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError where the instruction's tokenizer cannot be read, or has more tokens than the table."""
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
        """One that reads the instruction."""
        del folder
        sizes = {"queries": 3, "layers": 2, "heads": 2, "hidden": 16, "intermediate": 24}
        return AdapterExample({**sizes, "instruction_tokenizer": "bytes", "instruction_limit": 32})

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError where they do not fit, or lack a part that is wanted."""
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
            ValueError: it is made to read the instruction, and is given none.
        """
        rows = features.values.to(self.query_tokens.dtype)
        # attention gives padding the weight 0, but 0 times the infinities that it may hold is not 0
        rows = self.input_norm(rows.masked_fill(~features.mask[..., None], 0.0))
        inputs: dict[str, Tensor] = {
            "query_embeds": self.query_tokens.expand(len(rows), -1, -1),
            "encoder_hidden_states": rows,
            "encoder_attention_mask": features.mask,
        }
        queries = features.mask.new_ones(len(rows), self.config.queries)
        if self.instruction_tokenizer is not None:
            if instruction is None:
                raise ValueError("qformer: `instruction_tokenizer` is set, but no instruction is given.")
            inputs["input_ids"] = instruction.ids
            inputs["attention_mask"] = torch.cat([queries, instruction.mask], dim=1)
        states: Tensor = self.qformer(**accepted(self.qformer, **inputs)).last_hidden_state
        values = self.language_projection(states[:, : self.config.queries])
        return Features(values, queries, memory=features.memory)

    def _without_use(self) -> list[str]:
        """What a checkpoint may hold beside the adapter's own: parts of other settings, text in the last layer."""
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
    """In the place of a BERT output layer: what goes around the feed-forward part, [M, T, H]."""

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        del states
        return residual


def _plain(config: QFormerConfig, width: int) -> Blip2QFormerModel:
    return Blip2QFormerModel(Blip2QFormerConfig(**_settings(config, width)))


def _instructed(config: QFormerConfig, width: int) -> InstructBlipQFormerModel:
    """Without the last layer's feed-forward part for text: no output depends on it, and DDP would wait for it."""
    assert config.instruction_tokenizer is not None
    tokenizer = read_tokenizer(config.instruction_tokenizer)
    rows = len(tokenizer) if config.vocabulary is None else config.vocabulary
    if rows < len(tokenizer):
        raise RecipeError(
            f"qformer: vocabulary ({rows}) is less than the tokens of {config.instruction_tokenizer!r} "
            f"({len(tokenizer)}). Leave it out, or say the size of the checkpoint's table."
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
    """Say what to change in the recipe where a whole part is absent, or undecided."""
    problem = None
    if config.projection and "language_projection.weight" not in state:
        problem = (
            "holds no projection to an LLM, as after BLIP-2's first stage. Say `projection: false` and follow it "
            "with one that is trained: {name: chain, steps: [{name: qformer, ...}, {name: linear}]}."
        )
    elif config.instruction_tokenizer is not None and "qformer.embeddings.word_embeddings.weight" not in state:
        problem = "has no text branch to read an instruction by. Leave out `instruction_tokenizer`."
    elif config.input_norm and "input_norm.weight" not in state:
        problem = "holds no LayerNorm for the encoder's rows (`ln_vision`). Leave out `input_norm`."
    elif config.input_norm is None and "input_norm.weight" in state:
        problem = (
            "holds a LayerNorm that stands before the Q-Former (`ln_vision`, or `post_layernorm` of the vision tower). "
            "Say `input_norm: true` to use it here, or `false` where the encoder already ends with it."
        )
    if problem:
        raise RecipeError(f"{source}: {problem}")
