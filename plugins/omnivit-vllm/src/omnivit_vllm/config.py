"""The config.json of an export for vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class OmniViTVllmConfig(PreTrainedConfig):
    """The LLM's config, and the token of each input.

    Attributes:
        text_config: of the LLM.
        inputs: input slot -> id of the token that stands for a medium.
    """

    model_type = "omnivit_vllm"

    def __init__(
        self, text_config: Mapping[str, Any] | None = None, inputs: Mapping[str, int] | None = None, **settings: Any
    ) -> None:
        text = dict(text_config or {"model_type": "llama"})
        self.text_config = AutoConfig.for_model(text.pop("model_type"), **text)
        self.inputs = dict(inputs or {})
        super().__init__(**settings)
