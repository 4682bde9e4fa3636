"""A run as a LlavaForConditionalGeneration of transformers: the inverse of `omnivit.run.importing.llava`.

Names of tensors on the disk are the classical ones (`vision_tower.vision_model.*`, `language_model.model.*`), which
every version of transformers since 4.36 and other programs read.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from omnivit.model.omni import Branch
from omnivit.run.export.chat_files import generation_settings, template_of, tokenizer_of
from omnivit.run.export.image_token import ImageToken
from omnivit.run.export.opened import OpenRun
from omnivit.run.export.plain import PlainLLM, plain_llm, plain_state, with_rows, write_weights
from omnivit.run.importing.llava import ACTIVATIONS, CLASS_TOKEN, IDENTITY

PROJECTOR = ("linear_1", "linear_2")
ADAPTERS = ("LinearAdapter", "MLPAdapter")
"""Classes of the adapters that LLaVA's projector can be."""
NOT_EXACT = {
    "WhisperEncoder": "Qwen2Audio computes something else: it averages pairs of tokens before the last norm of Whisper "
    "and hides the silence after the audio from the tokens before it"
}
"""Class of an encoder -> why the model of transformers that is nearest to it is not the same."""
NAMES = {name: kind for kind, name in reversed(ACTIVATIONS.items())}
"""Activation of the adapter `mlp` -> its name in transformers."""


class NotLlava(Exception):
    """Why a run is no LLaVA of transformers."""


@dataclass(frozen=True)
class Llava:
    """A run as transformers has it, in float32."""

    config: Any
    state: dict[str, Tensor]
    """Under the names on the disk."""
    settings: Any
    """Of the generation."""
    image: ImageToken

    def model(self) -> Any:
        """The model itself, in eval mode."""
        with torch.device("cpu"):
            model: Any = LlavaForConditionalGeneration.from_pretrained(
                None, config=copy.deepcopy(self.config), state_dict=dict(self.state), dtype=torch.float32
            )
        model.generation_config = copy.deepcopy(self.settings)
        return model.eval()

    def save(self, folder: Path, dtype: torch.dtype, processor: Any) -> None:
        """Write everything that `from_pretrained` reads, and the files that older programs look for."""
        config = copy.deepcopy(self.config)
        config.dtype, config.architectures = dtype, ["LlavaForConditionalGeneration"]
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
    slot, branch = _only_branch(opened)
    encoder, adapter = branch
    _check_encoder(encoder)
    _check_adapter(adapter, encoder.width, opened.llm.width)
    llm = plain_llm(opened.llm)
    image = ImageToken.of(opened.assistant.preparer.chat, opened.llm, slot, _rows(llm))
    state = {f"language_model.{name}": value for name, value in _with_row(llm, image).items()}
    state |= _tower(encoder)
    state |= _projector(adapter)
    settings = generation_settings(opened.assistant.preparer.chat, opened.llm.hf)
    if image.is_new_row:
        settings.suppress_tokens = [image.id]
    return Llava(_config(opened, encoder, adapter, llm, image), state, settings, image)


def processor_of(opened: OpenRun, llava: Llava, bos: bool) -> Any:
    """The processor, its template and tokenizer included."""
    chat, (slot, branch) = opened.assistant.preparer.chat, _only_branch(opened)
    encoder: Any = branch.encoder
    tokenizer = tokenizer_of(llava.image.tokenizer, chat._prefix)
    kind = encoder._settings.model_type
    images = copy.deepcopy(encoder._process)
    if encoder.config.fit == "pad":
        from transformers.models.llava.image_processing_llava import LlavaImageProcessor

        images = LlavaImageProcessor.from_dict(images.to_dict() | {"do_pad": True})
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        images,
        tokenizer,
        patch_size=encoder._settings.patch_size,
        vision_feature_select_strategy=_strategy(encoder),
        image_token=llava.image.text,
        num_additional_image_tokens=int(CLASS_TOKEN[kind]),
        chat_template=template_of(chat, slot, llava.image.text, bos),
    )


def _only_branch(opened: OpenRun) -> tuple[str, Branch]:
    model, recipe = opened.assistant.model, opened.recipe
    if list(model.heads):
        raise NotLlava(f"it has heads ({', '.join(model.heads)})")
    if len(model.encoders) != 1:
        raise NotLlava(f"it has {len(model.encoders)} inputs ({', '.join(model.encoders)}), not one")
    slot = next(iter(model.encoders))
    branches = model.branches(slot)
    if len(branches) != 1:
        raise NotLlava(f"its input {slot!r} has {len(branches)} branches")
    block = recipe.model.inputs[slot]
    if getattr(block, "combine", "tokens") != "tokens":
        raise NotLlava(f"its input {slot!r} combines the media of a turn")
    if opened.llm._patching is not None:
        raise NotLlava("an adapter changes layers of its LLM")
    return slot, branches[0]


def _check_encoder(encoder: Any) -> None:
    kind = getattr(getattr(encoder, "_settings", None), "model_type", None)
    config: Any = getattr(encoder, "config", None)
    if type(encoder).__name__ != "ClipEncoder" or kind not in CLASS_TOKEN:
        more = f". {NOT_EXACT[type(encoder).__name__]}" if type(encoder).__name__ in NOT_EXACT else ""
        raise NotLlava(
            f"its encoder is {type(encoder).__name__} ({kind}), and LLaVA takes {', '.join(CLASS_TOKEN)}{more}"
        )
    reasons = {
        "several layers are joined": config.join is not None,
        "`norm` is set": config.norm,
        "`class_token: only` is set": config.class_token == "only",
        f"`fit: {config.fit}` is set": config.fit not in ("crop", "pad"),
        "`fill: white` is set": config.fit == "pad" and config.fill == "white",
        "images have another size than the tower's": not _usual_size(encoder),
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise NotLlava(f"in its encoder {wrong[0]}")


def _usual_size(encoder: Any) -> bool:
    side, patch = encoder._settings.image_size, encoder._settings.patch_size
    return tuple(encoder.patches) == (side // patch, side // patch)


def _check_adapter(adapter: Any, width: int, llm_width: int) -> None:
    if type(adapter).__name__ not in ADAPTERS:
        raise NotLlava(f"its adapter is {type(adapter).__name__}, and LLaVA takes `linear`, and `mlp` of depth 1 or 2")
    shapes = [value.shape for name, value in plain_state(adapter).items() if name.endswith("weight")]
    if shapes not in ([(llm_width, width)], [(llm_width, width), (llm_width, llm_width)]):
        raise NotLlava("its adapter is no `mlp` of depth 1, or of depth 2 with the hidden width of the LLM")


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


def _config(opened: OpenRun, encoder: Any, adapter: Any, llm: PlainLLM, image: ImageToken) -> Any:
    """LLaVA's config. Configs are copies: a composite changes those that it is given."""
    text = copy.deepcopy(llm.config)
    text.vocab_size = max(text.vocab_size, image.id + 1)
    processor: Any = opened.assistant.preparer.slots[next(iter(opened.assistant.slots))].processors[0]
    return LlavaConfig(
        vision_config=_vision_config(encoder),
        text_config=text,
        image_token_index=image.id,
        image_seq_length=processor.rows,
        projector_hidden_act=_activation(adapter),
        vision_feature_layer=-1,  # the tower ends at the layer that is read
        vision_feature_select_strategy=_strategy(encoder),
        multimodal_projector_bias=f"{_linears(adapter)[0]}.bias" in plain_state(adapter),
        tie_word_embeddings=text.tie_word_embeddings,
    )


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
