"""Models of the surveyed systems as they are published: class, settings, number of parameters.

The settings are those of each `config.json`, as far as they decide about sizes. A small model keeps those that decide
how many tokens there are (sizes of images and patches, context), and the number of layers where recipes count layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Kind = Literal["llama", "clip", "blip2", "instructblip", "bert"]
"""What it is: a class of transformers, by its `model_type`; `bert` is its tokenizer alone."""


@dataclass(frozen=True)
class Published:
    """A model on the hub."""

    kind: Kind
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its config.json."""
    parameters: int | None = None
    """Of the part that recipes use: the LLM, the vision tower up to its last layer, or the Q-Former."""
    small: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the small model, in addition to those of its kind."""


def _llama(
    width: int, mlp: int, layers: int, heads: int, parameters: int, context: int = 4096, **more: Any
) -> Published:
    sizes = {"hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers}
    attention = {"num_attention_heads": heads, "num_key_value_heads": heads}
    rest = {"vocab_size": 32000, "max_position_embeddings": context, "rms_norm_eps": 1e-6 if context == 2048 else 1e-5}
    return Published("llama", sizes | attention | rest | more, parameters)


def _llama_7b(context: int = 4096, **more: Any) -> Published:
    return _llama(4096, 11008, 32, 32, 6_738_415_616, context, **more)


def _llama_13b(context: int = 4096, **more: Any) -> Published:
    return _llama(5120, 13824, 40, 40, 13_015_864_320, context, **more)


def _clip(image: int, parameters: int) -> Published:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    return Published("clip", {**sizes, "image_size": image, "patch_size": 14, "projection_dim": 768}, parameters)


VIT_G = {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
"""EVA-CLIP's ViT-g without its last block, as BLIP-2 published it."""

PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "lmsys/vicuna-7b-v1.1": _llama_7b(2048),
        "lmsys/vicuna-13b-v1.1": _llama_13b(2048),
        "lmsys/vicuna-7b-v1.3": _llama_7b(2048),
        "lmsys/vicuna-13b-v1.3": _llama_13b(2048),
        "lmsys/vicuna-7b-v1.5": _llama_7b(),
        "lmsys/vicuna-13b-v1.5": _llama_13b(),
        "Vision-CAIR/vicuna-7b": _llama_7b(2048),
        "vicuna-13b-v0": _llama_13b(2048),
        "llava-7b-v0": _llama_7b(2048),
        "stable-vicuna-13b": _llama_13b(2048),
        "mmaaz60/LLaVA-7B-Lightening-v1-1": _llama_7b(2048),
        "FlagAlpha/Llama2-Chinese-13b-Chat": _llama_13b(),
        "huggyllama/llama-7b": _llama_7b(2048),
        "huggyllama/llama-13b": _llama_13b(2048),
        "meta-llama/Llama-2-7b-hf": _llama_7b(),
        "meta-llama/Llama-2-7b-chat-hf": _llama_7b(),
        "openai/clip-vit-large-patch14": _clip(224, 303_179_776),
        "openai/clip-vit-large-patch14-336": _clip(336, 303_507_456),
        "Salesforce/blip2-flan-t5-xxl": Published("blip2", VIT_G, 985_952_256),
        "Salesforce/instructblip-vicuna-7b": Published("instructblip", VIT_G, 985_952_256),
        "google-bert/bert-base-uncased": Published("bert"),
    }
)
"""Hub id, or the name of a folder (weights that were merged first) -> the model. Those of `recipes/zoo`."""
