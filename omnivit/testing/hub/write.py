"""Write a hub folder: small random models, or the settings of the published ones without weights.

The same id gives the same bits on every machine of the same kind: the weights are drawn with a seed from the id. The
classes are the real ones, so that what is written has the names and the layout of the published files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from omnivit.errors import RecipeError, suggest
from omnivit.files import appearing
from omnivit.testing.hub.published import PUBLISHED, Published
from omnivit.testing.hub.tokenizers import bert_tokenizer, llama_tokenizer

SMALL: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    "clip": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "projection_dim": 16},
    "blip2": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2},
    "instructblip": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2},
}
"""Kind -> the settings of the small models; all others are the published ones."""
QFORMER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
"""The Q-Former of the small BLIP-2 and InstructBLIP."""
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
"""Towers of text that recipes do not use."""


def write_hub(folder: Path, names: Iterable[str] | None = None, weights: bool = True) -> list[str]:
    """Write models at `folder/organisation/name`; one that is there already is left as it is.

    Args:
        folder: created if it does not exist.
        names: hub ids of `PUBLISHED`; default: all.
        weights: False: the published settings, tokenizers and preprocessors alone, and an empty file of weights; enough
            for `omnivit check --without-data`, which counts parameters without memory.

    Returns:
        The names of what was written.

    Raises:
        RecipeError: a name is unknown.
    """
    written = []
    for name in names if names is not None else PUBLISHED:
        if name not in PUBLISHED:
            raise RecipeError(f"The hub folder has no model {name!r}: {suggest(name, PUBLISHED)}")
        place = folder / name
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        model = PUBLISHED[name]
        with appearing(place) as partial, torch.random.fork_rng([]):
            torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big"))
            _MAKERS[model.kind](model, partial, weights)
        written.append(name)
    return written


def _settings(model: Published, small: bool) -> dict[str, Any]:
    return {**model.config, **({**SMALL[model.kind], **model.small} if small else {})}


def _save(config: Any, cls: Any, folder: Path, weights: bool) -> None:
    """A model of the config with random weights, or the config beside an empty file of weights."""
    if weights:
        cls(config).save_pretrained(folder)
    else:
        config.save_pretrained(folder)
        (folder / "model.safetensors").touch()


def _llama(model: Published, folder: Path, weights: bool) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = llama_tokenizer()
    settings = _settings(model, weights)
    if weights:
        settings["vocab_size"] = len(tokenizer)
    _save(LlamaConfig(**settings, bos_token_id=1, eos_token_id=2, pad_token_id=0), LlamaForCausalLM, folder, weights)
    tokenizer.save_pretrained(folder)


def _clip(model: Published, folder: Path, weights: bool) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    settings = _settings(model, weights)
    width = settings.pop("projection_dim")
    text = TEXT | {"vocab_size": 64, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    vision = settings | {"hidden_act": "quick_gelu", "projection_dim": width}
    _save(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width), CLIPModel, folder, weights)
    side = settings["image_size"]
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(folder)


def _blip2(model: Published, folder: Path, weights: bool) -> None:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, BlipImageProcessor

    vision = _settings(model, weights)
    text = {"model_type": "t5", "d_model": 16, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_layers": 1, "vocab_size": 64}
    qformer = (QFORMER if weights else {}) | {"encoder_hidden_size": vision["hidden_size"]}
    config = Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=32)
    _save(config, Blip2ForConditionalGeneration, folder, weights)
    side = {"height": vision["image_size"], "width": vision["image_size"]}
    BlipImageProcessor(size=side).save_pretrained(folder)


def _instructblip(model: Published, folder: Path, weights: bool) -> None:
    from transformers import BlipImageProcessor, InstructBlipConfig, InstructBlipForConditionalGeneration

    vision, tokenizer = _settings(model, weights), bert_tokenizer()
    text = {"model_type": "llama", **SMALL["llama"], "vocab_size": 64}
    qformer = (QFORMER | {"vocab_size": len(tokenizer)} if weights else {}) | {
        "encoder_hidden_size": vision["hidden_size"]
    }
    config = InstructBlipConfig(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=32)
    _save(config, InstructBlipForConditionalGeneration, folder, weights)
    side = {"height": vision["image_size"], "width": vision["image_size"]}
    BlipImageProcessor(size=side).save_pretrained(folder)
    tokenizer.save_pretrained(folder / "qformer_tokenizer")


def _bert(model: Published, folder: Path, weights: bool) -> None:
    del model, weights
    bert_tokenizer().save_pretrained(folder)


_MAKERS: Mapping[str, Callable[[Published, Path, bool], None]] = {
    "llama": _llama,
    "clip": _clip,
    "blip2": _blip2,
    "instructblip": _instructblip,
    "bert": _bert,
}
