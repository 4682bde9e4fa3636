"""A run as a LLaVA or LLaVA-NeXT of transformers: the inverse of `omnivit.run.importing.llava`.

Names of tensors on the disk are the classical ones (`vision_tower.vision_model.*`, `language_model.model.*`), which
every version of transformers since 4.36 and other programs read.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
)

from omnivit.run.export.chat_files import generation_settings, template_of, tokenizer_of
from omnivit.run.export.image_token import ImageToken
from omnivit.run.export.llava_parts import NotLlava, Parts, parts_of
from omnivit.run.export.opened import OpenRun
from omnivit.run.export.plain import PlainLLM, plain_llm, plain_state, with_rows, write_weights
from omnivit.run.importing.llava import ACTIVATIONS, CLASS_TOKEN, IDENTITY

PROJECTOR = ("linear_1", "linear_2")
NAMES = {name: kind for kind, name in reversed(ACTIVATIONS.items())}
"""Activation of the adapter `mlp` -> its name in transformers."""


@dataclass(frozen=True)
class Llava:
    """A run as transformers has it, in float32."""

    config: Any
    state: dict[str, Tensor]
    """Under the names on the disk."""
    settings: Any
    """Of the generation."""
    image: ImageToken
    parts: Parts

    @property
    def cls(self) -> Any:
        """The class of transformers."""
        return LlavaNextForConditionalGeneration if self.parts.grids else LlavaForConditionalGeneration

    def model(self) -> Any:
        """The model itself, in eval mode."""
        with torch.device("cpu"):
            model: Any = self.cls.from_pretrained(
                None, config=copy.deepcopy(self.config), state_dict=dict(self.state), dtype=torch.float32
            )
        model.generation_config = copy.deepcopy(self.settings)
        return model.eval()

    def save(self, folder: Path, dtype: torch.dtype, processor: Any) -> None:
        """Write everything that `from_pretrained` reads, and the files that older programs look for."""
        config = copy.deepcopy(self.config)
        config.dtype, config.architectures = dtype, [self.cls.__name__]
        config.save_pretrained(folder)
        self.settings.save_pretrained(folder)
        write_weights(folder, self.state, dtype)
        processor.save_pretrained(folder)
        processor.image_processor.save_pretrained(folder)


def llava_of(opened: OpenRun) -> Llava:
    """A run as a LLaVA.

    Raises:
        NotLlava: it is none; says why.
        OmniVitError: its LLM cannot be written.
    """
    parts = parts_of(opened)
    llm = plain_llm(opened.llm)
    image = ImageToken.of(opened.assistant.preparer.chat, opened.llm, parts.slot, _rows(llm))
    state = {f"language_model.{name}": value for name, value in _with_row(llm, image).items()}
    state |= _tower(parts.encoder)
    state |= _projector(parts.adapter)
    state |= {} if parts.newline is None else {"image_newline": parts.newline}
    settings = generation_settings(opened.assistant.preparer.chat, opened.llm.hf)
    if image.is_new_row:
        settings.suppress_tokens = [image.id]
    return Llava(_config(parts, llm, image), state, settings, image, parts)


def processor_of(opened: OpenRun, llava: Llava, bos: bool) -> Any:
    """The processor, its template and tokenizer included."""
    chat, parts = opened.assistant.preparer.chat, llava.parts
    processor: Any = LlavaNextProcessor if parts.grids else LlavaProcessor
    return processor(
        _image_processor(parts),
        tokenizer_of(llava.image.tokenizer, chat._prefix),
        patch_size=parts.encoder._settings.patch_size,
        vision_feature_select_strategy=_strategy(parts.encoder),
        image_token=llava.image.text,
        num_additional_image_tokens=int(CLASS_TOKEN[parts.encoder._settings.model_type]),
        chat_template=template_of(chat, parts.slot, llava.image.text, bos),
    )


def _image_processor(parts: Parts) -> Any:
    """What prepares images, as the run's encoder does."""
    process, encoder = copy.deepcopy(parts.encoder._process), parts.encoder
    if parts.grids:  # the one that resizes with Pillow, as `omnivit.media.tiling` does
        from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

        side = encoder._settings.image_size
        kept = {key: getattr(process, key) for key in ("image_mean", "image_std", "rescale_factor")}
        return LlavaNextImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=_pinpoints(parts),
            resample=Image.Resampling.BICUBIC,
            **kept,
        )
    if encoder.config.fit == "pad":
        from transformers.models.llava.image_processing_llava import LlavaImageProcessor

        return LlavaImageProcessor.from_dict(process.to_dict() | {"do_pad": True})
    return process


def _pinpoints(parts: Parts) -> list[list[int]]:
    """Height and width in pixels of every grid of tiles."""
    side = parts.encoder._settings.image_size
    return [[rows * side, columns * side] for rows, columns in parts.grids]


def _linears(adapter: nn.Module) -> list[str]:
    """Names of the linear layers of an adapter, whose LoRA is merged."""
    return [name.removesuffix(".weight") for name in plain_state(adapter) if name.endswith(".weight")]


def _projector(adapter: nn.Module) -> dict[str, Tensor]:
    """The tensors of LLaVA's projector, two linear layers with an activation between them.

    Of an adapter with one linear layer, the second is the identity, and so is the activation (`linear` in
    transformers): a sum of one number and zeros is that number in every dtype, so the result is the adapter's own.
    """
    plain, names = plain_state(adapter), _linears(adapter)
    state: dict[str, Tensor] = {}
    for layer, name in zip(PROJECTOR, names, strict=False):
        prefix = f"{name}."
        state |= {f"{layer}.{k.removeprefix(prefix)}": v for k, v in plain.items() if k.startswith(prefix)}
    if len(names) == 1:
        first = state["linear_1.weight"]
        state["linear_2.weight"] = torch.eye(len(first), dtype=first.dtype)
        if "linear_1.bias" in state:
            state["linear_2.bias"] = torch.zeros_like(state["linear_1.bias"])
    return {f"multi_modal_projector.{name}": value for name, value in state.items()}


def _rows(llm: PlainLLM) -> int:
    return int(llm.config.get_text_config().vocab_size)


def _with_row(llm: PlainLLM, image: ImageToken) -> dict[str, Tensor]:
    """The LLM's tensors, `model.*` and `lm_head.*`, with one row more where the token of images is new."""
    state = {}
    for name, value in llm.state.items():
        if not name.startswith(("model.", "lm_head.weight")):
            raise NotLlava(f"its LLM ({llm.config.model_type}) has {name}, which LLaVA has not")
        table = name in ("model.embed_tokens.weight", "lm_head.weight")
        state[name] = with_rows(value, image.id, value.mean(dim=0)[None]) if table and image.is_new_row else value
    return state


def _tower(encoder: Any) -> dict[str, Tensor]:
    """The tower's tensors. What the encoder has left out, because nothing depends on it, begins as it is created."""
    state = {name.removeprefix("vision_model."): value for name, value in plain_state(encoder.tower).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        created: Any = AutoModel.from_config(_vision_config(encoder))  # type: ignore[no-untyped-call]
    for name, value in created.state_dict().items():
        state.setdefault(name.removeprefix("vision_model."), value)
    return {f"vision_tower.vision_model.{name}": value for name, value in state.items()}


def _vision_config(encoder: Any) -> Any:
    config = copy.deepcopy(encoder._settings)
    if hasattr(config, "vision_use_head"):
        config.vision_use_head = False
    return config


def _strategy(encoder: Any) -> Literal["default", "full"]:
    drops = CLASS_TOKEN[encoder._settings.model_type] and encoder.config.class_token == "drop"
    return "default" if drops else "full"


def _config(parts: Parts, llm: PlainLLM, image: ImageToken) -> Any:
    """LLaVA's config. Configs are copies: a composite changes those that it is given."""
    text, encoder, adapter = copy.deepcopy(llm.config), parts.encoder, parts.adapter
    text.vocab_size = max(text.vocab_size, image.id + 1)
    settings: dict[str, Any] = {
        "vision_config": _vision_config(encoder),
        "text_config": text,
        "image_token_index": image.id,
        "image_seq_length": encoder.processor().rows,
        "projector_hidden_act": _activation(adapter),
        "vision_feature_layer": -1,  # the tower ends at the layer that is read
        "vision_feature_select_strategy": _strategy(encoder),
        "multimodal_projector_bias": f"{_linears(adapter)[0]}.bias" in plain_state(adapter),
        "tie_word_embeddings": text.tie_word_embeddings,
    }
    if parts.grids:
        return LlavaNextConfig(**settings, image_grid_pinpoints=_pinpoints(parts))
    return LlavaConfig(**settings)


def _activation(adapter: Any) -> str:
    """The adapter's activation, by transformers' name."""
    if len(_linears(adapter)) == 1:
        return IDENTITY
    known = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh"}
    for module in adapter.modules():
        if isinstance(module, nn.GELU):
            return NAMES["gelu" if module.approximate == "none" else "gelu_tanh"]
        if type(module) in known:
            return NAMES[known[type(module)]]
    raise NotLlava("its adapter has no activation between two layers")
