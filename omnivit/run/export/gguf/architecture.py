"""Architectures of LLMs that were proven in llama.cpp, and how their configs are written in GGUF.

Each was run: log-probabilities and greedy tokens are those of transformers (tests/bridges/test_llama_cpp.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnivit.errors import CheckpointError


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp wants the weights of a `model_type`."""

    name: str
    """In `general.architecture`."""
    interleaved: bool = False
    """Rotary positions turn neighbours instead of halves, so rows of queries and keys are reordered."""
    shifted_norms: bool = False
    """Norms multiply by 1 + weight in transformers, and by the weight in llama.cpp."""
    activation: tuple[str, ...] = ("silu",)
    """Activation functions that its graph computes."""


ARCHITECTURES = {
    "llama": Architecture("llama", interleaved=True),
    "mistral": Architecture("llama", interleaved=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma": Architecture("gemma", shifted_norms=True, activation=("gelu_pytorch_tanh", "gelu")),
}
"""`model_type` of transformers -> architecture."""


def architecture_of(config: Any) -> Architecture:
    """The architecture of a config.

    Raises:
        CheckpointError: there is none, or a setting has no place in its graph.
    """
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise CheckpointError(
            f"An LLM of type {config.model_type!r} was not proven in llama.cpp. Available: {', '.join(ARCHITECTURES)}. "
            "For others, `--to merged` writes a folder that llama.cpp's own convert_hf_to_gguf.py may read."
        )
    if problem := next((text for holds, text in _problems(config, architecture) if holds), None):
        raise CheckpointError(f"This LLM cannot be written as GGUF: {problem}")
    return architecture


def _problems(config: Any, architecture: Architecture) -> list[tuple[bool, str]]:
    act = getattr(config, "hidden_activation", None) or config.hidden_act
    kind = rope_of(config).get("rope_type", "default")
    window = getattr(config, "sliding_window", None)
    return [
        (
            act not in architecture.activation,
            f"its activation function is {act!r}; llama.cpp has {architecture.activation[0]!r}.",
        ),
        (bool(getattr(config, "mlp_bias", False)), "its MLP has biases (`mlp_bias`)."),
        (bool(getattr(config, "attention_bias", False)), "it has `attention_bias`."),
        (kind not in ("default", "linear", "llama3"), f"its rotary positions are of type {kind!r}."),
        (
            bool(getattr(config, "use_sliding_window", config.model_type == "mistral") and window),
            f"it attends to the last {window} tokens only (`sliding_window`), which llama.cpp does not do.",
        ),
    ]


def rope_of(config: Any) -> dict[str, Any]:
    """Settings of rotary positions: `rope_type`, `rope_theta`, ..."""
    return dict(getattr(config, "rope_parameters", None) or {})


def head_width(config: Any) -> int:
    """Width of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def write_settings(writer: Any, config: Any) -> None:
    """Write the sizes and constants of an LLM."""
    rope, width = rope_of(config), head_width(config)
    facts: list[tuple[Callable[[Any], None], Any]] = [
        (writer.add_context_length, config.max_position_embeddings),
        (writer.add_embedding_length, config.hidden_size),
        (writer.add_block_count, config.num_hidden_layers),
        (writer.add_feed_forward_length, config.intermediate_size),
        (writer.add_head_count, config.num_attention_heads),
        (writer.add_head_count_kv, getattr(config, "num_key_value_heads", None) or config.num_attention_heads),
        (writer.add_layer_norm_rms_eps, config.rms_norm_eps),
        (writer.add_rope_freq_base, float(rope.get("rope_theta", 10000.0))),
        (writer.add_rope_dimension_count, width),
        (writer.add_key_length, width),
        (writer.add_value_length, width),
    ]
    for add, value in facts:
        add(value)
    if rope.get("rope_type") == "linear":
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def rope_factors(config: Any) -> Tensor | None:
    """[width / 2] what the wave lengths of Llama 3.1's rotary positions are multiplied by; None: nothing.

    Formula: `_compute_llama3_parameters` of transformers. Short waves stay, long ones are stretched by `factor`, and
    between the two bounds it is a mixture.
    """
    rope = rope_of(config)
    if rope.get("rope_type") != "llama3":
        return None
    width, base = head_width(config), float(rope["rope_theta"])
    factor, low, high = float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    context = float(rope["original_max_position_embeddings"])
    rates = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    waves = 2 * math.pi / rates
    share = ((context / waves - low) / (high - low)).clamp(0, 1)
    return 1.0 / ((1 - share) / factor + share)


def converted(name: str, weight: Tensor, config: Any, architecture: Architecture) -> Tensor:
    """A weight as llama.cpp has it."""
    if architecture.shifted_norms and name.endswith("norm.weight"):
        return weight.float() + 1
    if not architecture.interleaved or ".self_attn." not in name:
        return weight
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = heads.get(name.split(".")[-2])
    return weight if count is None else interleaved(weight, count)


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """[heads * width, ...] -> the same rows; of each head, row i of the first half before row i of the second."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)
