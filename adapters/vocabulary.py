"""`vocabulary`: each token of a medium becomes a mixture of the LLM's input embeddings, by attention to the whole
embedding table.

The alignment module of Macaw-LLM (Lyu et al., arXiv 2306.09093): one cross-attention layer, whose queries
are the tokens of the medium and whose keys and values are the input embeddings of the vocabulary.

Shapes: M media, S tokens of a medium, D encoder width, V vocabulary, D_llm LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from omnivit.plugin import (
    Adapter,
    AdapterExample,
    Card,
    Encoder,
    Features,
    Instruction,
    LanguageModel,
    RecipeError,
    load_strictly,
    locate,
    read_state,
    require_weights,
    same_length,
)


@dataclass
class VocabularyConfig:
    """Options of `vocabulary`; the defaults are Macaw-LLM's."""

    heads: int = 16
    """Attention heads; a divisor of the LLM's width."""
    dropout: float = 0.1
    """Dropout probability of attention weights in training."""
    learned_row: bool = True
    """Add one learned key and value to those of the embedding table (`add_bias_kv` of torch)."""
    zero_row: bool = True
    """Add one key and value of zeros (`add_zero_attn` of torch), so that a token may attend to no embedding."""
    path: str | None = None
    """Pretrained weights: a file of Macaw-LLM (.safetensors, .bin, .pth)."""
    branch: Literal["image", "video", "audio"] = "image"
    """Which part of that file to load: `image_align_attention` and `transform_image_to_hidden`, or those of video or
    audio."""

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"heads ({self.heads}) must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and less than 1.")


class VocabularyAdapter(Adapter):
    """Tokens [M, S, D] -> linear -> attention to the embedding table [V, D_llm] -> [M, S, D_llm], places unchanged.

    The table is the LLM's and is read at every call, so that it may be loaded, trained, enlarged or moved in between;
    the adapter has no copy of it. It is used as stored: for Gemma without the scale of its embedding layer. If the LLM
    trains, the table gets gradients from this adapter too. Keys and values are computed once for a batch (in Macaw-LLM
    once for each sample): 2 V D_llm numbers, which are kept for the backward pass in training; 0.5 GB in bf16 for
    LLaMA-7B, 2.2 GB for Qwen2.5-7B.

    Parameters are `project.*` and `attention.*`, initialised by torch as in Macaw-LLM (`modeling.py`, `MM_LLMs`).
    """

    Config = VocabularyConfig
    contract = 1
    card = Card(
        paper="Lyu et al., Macaw-LLM: Multi-Modal Language Modeling with Image, Audio, Video, and Text Integration, "
        "arXiv 2306.09093",
        weights="none, unless `path` is set: then those of Macaw-LLM, by their authors' terms",
        tokens="as many as it receives",
    )
    length = staticmethod(same_length)

    def __init__(self, config: VocabularyConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError if the LLM's width is not a multiple of the number of heads."""
        super().__init__(config, width, llm_width)
        if llm_width % config.heads:
            raise RecipeError(
                f"vocabulary: the LLM's width ({llm_width}) is not a multiple of `heads` ({config.heads}). Set `heads` "
                f"to a divisor."
            )
        self.config = config
        require_weights(config.path)
        self.project = nn.Linear(width, llm_width)
        self.attention = nn.MultiheadAttention(
            llm_width,
            config.heads,
            dropout=config.dropout,
            add_bias_kv=config.learned_row,
            add_zero_attn=config.zero_row,
        )
        self._llm: tuple[LanguageModel, ...] = ()  # in a tuple, else its parameters would be the adapter's

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Four heads."""
        del folder
        return AdapterExample({"heads": 4})

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError if the branch is missing or does not fit."""
        if self.config.path is None:
            return
        path, branch = self.config.path, self.config.branch
        names = {f"{branch}_align_attention.": "attention.", f"transform_{branch}_to_hidden.": "project."}
        state = {
            ours + key.removeprefix(theirs): tensor
            for key, tensor in read_state(locate(path)).items()
            for theirs, ours in names.items()
            if key.startswith(theirs)
        }
        load_strictly(self, state, f"vocabulary adapter, path {path!r}, keys {' and '.join(f'{n}*' for n in names)}")

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        """Keep the LLM, whose table is read. The LLM does not change."""
        del encoder, slot
        self._llm = (llm,)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, S, D_llm].

        Raises:
            RuntimeError: it is not installed, so it has no table.
        """
        del instruction
        values = features.values.masked_fill(~features.mask[..., None], 0.0)  # padding may contain anything
        rows = self.project(values.to(self.project.weight.dtype))
        table = self._table().to(rows)
        mixed, _ = self.attention(rows.flatten(0, 1), table, table, need_weights=False)
        return features.with_values(mixed.view_as(rows))

    def _table(self) -> Tensor:
        """[V, D_llm]."""
        if not self._llm:
            raise RuntimeError(
                "vocabulary: the adapter has no embedding table, because it is not installed. Call `install(llm, "
                "encoder, slot)` first, as `load_model` and `complete` of omnivit.model.build do."
            )
        return self._llm[0].embedding()
