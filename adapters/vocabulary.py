"""`vocabulary`: media rows said in the LLM's own words: each looks at the whole table of input embeddings.

The alignment module of Macaw-LLM (Lyu et al., arXiv 2306.09093): one cross-attention layer, whose queries
are the rows and whose keys and values are the embeddings of all tokens.

Shapes: M media, S rows a medium, D encoder width, V vocabulary, D_llm LLM width.
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
    """What a recipe may say to `vocabulary`; the defaults are Macaw-LLM's."""

    heads: int = 16
    """Attention heads; the LLM's width is divided among them."""
    dropout: float = 0.1
    """While training, on attention."""
    learned_row: bool = True
    """One learned key and value beside those of the table (`add_bias_kv` of torch)."""
    zero_row: bool = True
    """One key and value of zeros beside them (`add_zero_attn` of torch), so that a row may choose no word."""
    path: str | None = None
    """Pretrained: a file of Macaw-LLM's weights (.safetensors, .bin, .pth)."""
    branch: Literal["image", "video", "audio"] = "image"
    """Whose part of that file: `image_align_attention` and `transform_image_to_hidden`, or those of the others."""

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"heads ({self.heads}) must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and less than 1.")


class VocabularyAdapter(Adapter):
    """Rows [M, S, D] -> linear -> attention to the embedding table [V, D_llm] -> [M, S, D_llm], places unchanged.

    The table is the LLM's: it is read at every call, so that it may be loaded, trained, enlarged or moved meanwhile,
    and none of the adapter's parameters is a copy of it. It is taken as stored: Gemma's without the scale that
    it has where words are embedded. Where the LLM trains, gradients reach the table from here too.
    Keys and values are made of it once for all rows of the batch (Macaw-LLM makes them once a sample): 2 V D_llm
    numbers, kept for the backward pass while training; 0.5 GB in bf16 for LLaMA-7B, 2.2 GB for Qwen2.5-7B.

    Parameters are `project.*` and `attention.*`, initialised by torch as in Macaw-LLM (`modeling.py`, `MM_LLMs`).
    """

    Config = VocabularyConfig
    contract = 1
    card = Card(
        paper="Lyu et al., Macaw-LLM: Multi-Modal Language Modeling with Image, Audio, Video, and Text Integration, "
        "arXiv 2306.09093",
        weights="none, unless `path` is said: then those of Macaw-LLM, by their authors' terms",
        tokens="as many as come in",
    )
    length = staticmethod(same_length)

    def __init__(self, config: VocabularyConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError where the LLM's width cannot be divided among the heads."""
        super().__init__(config, width, llm_width)
        if llm_width % config.heads:
            raise RecipeError(f"vocabulary: the LLM's width {llm_width} cannot be divided among {config.heads} heads.")
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
        """Load the weights of `path`. Raises RecipeError where the branch is not in it, or does not fit."""
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
        """Note whose table to read. Nothing of the LLM changes."""
        del encoder, slot
        self._llm = (llm,)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D] -> Features [M, S, D_llm].

        Raises:
            RuntimeError: it is not installed, hence has no table.
        """
        del instruction
        values = features.values.masked_fill(~features.mask[..., None], 0.0)  # padding may hold anything
        rows = self.project(values.to(self.project.weight.dtype))
        table = self._table().to(rows)
        found, _ = self.attention(rows.flatten(0, 1), table, table, need_weights=False)
        return features.with_values(found.view_as(rows))

    def _table(self) -> Tensor:
        """[V, D_llm]."""
        if not self._llm:
            raise RuntimeError(
                "vocabulary: there is no embedding table to look at. Call `install(llm, encoder, slot)` first, as "
                "`load_model` and `complete` of omnivit.model.build do."
            )
        return self._llm[0].embedding()
