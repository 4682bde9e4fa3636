"""A model in two halves: encoders, adapters and the table of embeddings here, the layers of the LLM in vLLM."""

from __future__ import annotations

import warnings
from typing import Any, NoReturn

import torch
from torch import nn

from omnivit.errors import OmniVitWarning, RecipeError
from omnivit.model.causal import CausalLM
from omnivit.model.decoding import unusual_settings
from omnivit.run.assistant import Assistant
from omnivit.run.llm_side import llm_side

ADVICE = "Serve this run without `--backend vllm`."


class LayersElsewhere(nn.Module):
    """What remains of a transformers model whose layers run in another program: its table of embeddings.

    Attributes:
        table: the embeddings, with new tokens.
        config, generation_config: of the model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.table = model.get_input_embeddings()
        self.config, self.generation_config = model.config, model.generation_config

    def get_input_embeddings(self) -> nn.Module:
        """The table of embeddings."""
        table: nn.Module = self.table
        return table

    def get_output_embeddings(self) -> NoReturn:
        """Not here."""
        self._refuse()

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Not here."""
        self._refuse()

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        """Not here."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise RecipeError(
            "The layers of this LLM run in vLLM, so that only its engine can answer. Open the run once more for scores "
            "or predictions."
        )


def require_halves(assistant: Assistant) -> CausalLM:
    """The LLM of a model that can be divided; warns of settings that vLLM does not apply.

    Raises:
        RecipeError: vLLM could not answer as the model does; says what it would lack.
    """
    if reasons := llm_side(assistant):
        raise RecipeError(f"vLLM cannot answer as this run does: {'; '.join(reasons)}. {ADVICE}")
    llm = assistant.model.llm
    assert isinstance(llm, CausalLM)
    settings = llm.hf.generation_config
    names = unusual_settings(settings)
    if settings.repetition_penalty not in (None, 1.0):
        names.append("repetition_penalty")
    if names:
        listed = ", ".join(f"{name}: {getattr(settings, name)}" for name in names)
        warnings.warn(
            f"The LLM's generation_config.json asks for {listed}. vLLM cannot apply it to prompts of embeddings, so "
            f"that answers are generated without it.",
            OmniVitWarning,
            stacklevel=2,
        )
    return llm


def release_layers(llm: CausalLM, context: int | None) -> None:
    """Free the memory of the layers, which run in vLLM from now on.

    Args:
        llm: keeps its table of embeddings.
        context: the most tokens that vLLM attends to; None: not known.
    """
    llm.hf = LayersElsewhere(llm.hf)
    llm._patching = None
    known = [limit for limit in (llm.context, context) if limit is not None]
    llm.context = min(known) if known else None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
