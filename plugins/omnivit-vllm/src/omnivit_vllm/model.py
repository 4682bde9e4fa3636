"""The model that vLLM runs: encoders and adapters of OmniViT, and vLLM's own class of the LLM.

Shapes: N tokens of all running requests, L tokens of a medium, D width of the LLM, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from omnivit.run.input_side import InputSide
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.torch_utils import set_default_torch_dtype

from omnivit_vllm.processing import TOKENS, DummyInputs, Info, Processor, folder_of

LLM = "language_model."


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=DummyInputs)
class OmniViTForVllm(nn.Module, SupportsMultiModal):
    """An export of `omnivit export RUN --to vllm`."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        model_config = vllm_config.model_config
        config = self.config = model_config.hf_config
        self.folder = folder_of(model_config)
        width, trust = model_config.get_hidden_size(), bool(model_config.trust_remote_code)
        with self._mark_tower_model(vllm_config, set(config.inputs)), set_default_torch_dtype(torch.float32):
            side = InputSide.open(self.folder, width, trust)  # encoders keep the dtype of the recipe
            self.encoders, self.adapters = side.model.encoders, side.model.adapters
        self._side = (side,)  # in a tuple, else its modules would be here a second time
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=config.text_config.architectures,
            )
        # tokens of media may lie beyond the LLM's table: their embeddings are replaced
        self.configure_mm_token_handling(config.text_config.vocab_size, list(config.inputs.values()))
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """The text of the token of an input."""
        del i
        return f"<|omnivit_{modality}|>"

    def embed_multimodal(self, **fields: Any) -> list[Tensor]:
        """Prepared media -> embeddings [L, D] of each, in their order in the prompt."""
        embeddings = []
        weight = next(self.language_model.parameters())
        for slot in self.config.inputs:
            values = {name.partition(":")[2]: value for name, value in fields.items() if name.startswith(f"{slot}:")}
            values.pop(TOKENS, None)
            for number in range(len(next(iter(values.values()), ()))):
                item: Mapping[str, Tensor] = {name: value[number] for name, value in values.items()}
                embeddings.append(self._side[0].encode(slot, item, weight.device).to(weight.dtype))
        return embeddings

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Ids [N] or embeddings [N, D] at positions [N] -> hidden states [N, D]."""
        return self.language_model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Hidden states [N, D] -> logits [N, V]."""
        logits: Tensor | None = self.language_model.compute_logits(hidden_states)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Give each half its tensors; returns the names of the parameters that were loaded."""
        parts: dict[str, Tensor] = {}

        def of_the_llm() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                if name.startswith(LLM):
                    yield name, tensor
                else:
                    parts[name] = tensor

        loaded: set[str] = AutoWeightsLoader(self).load_weights(of_the_llm())
        self._side[0].fill(parts, self.folder)
        device = next(self.language_model.parameters()).device
        for module in (self.encoders, self.adapters):
            module.to(device).eval()
        return loaded | parts.keys()
