"""An encoder and an adapter for tests whose numbers are not finite for red pictures."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from omnivit_adapters.linear import LinearAdapter
from omnivit_encoders.clip import ClipEncoder
from torch import Tensor

from omnivit.contracts.adapter import Instruction
from omnivit.contracts.features import Features

SPOILT = "model.inputs.image.encoder={name: 'finite_support:SpoiltByRed'}"
"""Makes the shared recipe's losses NaN where a picture is red."""
HIDDEN = "model.inputs.image.adapter={name: 'finite_support:SpoiltBackward'}"
"""Beside it: the losses are finite, and only the gradients are not."""
CLIP = "model.inputs.image.encoder.config={model_type: clip_vision_model, hidden_size: 24, intermediate_size: 48, \
num_hidden_layers: 3, num_attention_heads: 2, image_size: 32, patch_size: 16}"


class SpoiltByRed(ClipEncoder):
    """CLIP, whose rows are NaN for red pictures."""

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        features = super().forward(items)
        red, _, blue = items["pixels"].mean((2, 3)).unbind(1)
        return features.with_values(features.values.masked_fill((red > blue + 1)[:, None, None], float("nan")))


class SpoiltBackward(LinearAdapter):
    """Hides NaN in the forward pass, and has infinite gradients where there was one."""

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        broken = bool(features.values.isnan().any())
        rows = super().forward(features.with_values(features.values.nan_to_num()), instruction)
        if broken and rows.values.requires_grad:
            rows.values.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
        return rows
