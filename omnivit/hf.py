"""OmniViT in Hugging Face transformers: `import omnivit.hf`, and folders of `omnivit export --to hf` load.

Of use for folders of model_type `omnivit`, which hold a model that transformers has no class for. Without this import
they load with `trust_remote_code=True`, which runs two lines that import this module.

    import omnivit.hf
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    model, processor = (auto.from_pretrained("folder") for auto in (AutoModelForMultimodalLM, AutoProcessor))
    turn = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]}
    inputs = processor.apply_chat_template([turn], add_generation_prompt=True)
    print(processor.decode(model.generate(**inputs, max_new_tokens=32)[0][inputs["input_ids"].shape[1] :]))

Shapes: B samples, T tokens, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput

from omnivit.contracts.batch import IGNORE, Batch
from omnivit.contracts.sample import Sample
from omnivit.data.records import messages_from
from omnivit.errors import OmniVitError
from omnivit.run.assistant import Assistant
from omnivit.run.export.reading import open_folder

__all__ = ["OmniViTConfig", "OmniViTForConditionalGeneration", "OmniViTProcessor"]
_opened: weakref.WeakValueDictionary[Path, Assistant] = weakref.WeakValueDictionary()
"""Folder -> the assistant of a model that is in use: its processor needs no second one."""


class OmniViTConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Says that a folder is OmniViT's. What the model is stands in its recipe.yaml."""

    model_type = "omnivit"


class OmniViTForConditionalGeneration(PreTrainedModel):  # type: ignore[no-untyped-call]
    """A run of OmniViT as a model of transformers. Its inputs are those that `OmniViTProcessor` makes.

    Attributes:
        assistant: the same model as `omnivit.load` gives it.
    """

    config_class = OmniViTConfig
    main_input_name = "input_ids"

    def __init__(self, config: OmniViTConfig, assistant: Assistant) -> None:
        super().__init__(config)
        self.assistant, self.model = assistant, assistant.model

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, *arguments: Any, **options: Any
    ) -> OmniViTForConditionalGeneration:
        """Open a folder, or a repository of the hub.

        Args:
            pretrained_model_name_or_path: the folder or the repository.
            *arguments: not taken.
            **options: `config`; `trust` (run code that the recipe names); `device_map` with one device; `revision`,
                `cache_dir`, `token` and `local_files_only` of repositories. Those that change nothing here are taken.

        Raises:
            OmniVitError: an option that would change the model, which its recipe describes.
        """
        if arguments:
            raise OmniVitError("from_pretrained takes a folder and options by name.")
        config, trust = options.pop("config", None), options.pop("trust", False)
        device = _device(options.pop("device_map", None))
        folder = _folder(pretrained_model_name_or_path, options)
        _refuse(options)
        assistant = open_folder(folder, trust)
        model = cls(config or OmniViTConfig.from_pretrained(folder), assistant)
        _opened[folder] = assistant
        nn.Module.eval(model)
        if device is not None:
            nn.Module.to(model, device)
        return model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        batch: Batch | None = None,
        labels: Tensor | None = None,
    ) -> CausalLMOutput:
        """Logits [B, T, V] of all tokens, zeros on padding; the loss where the batch or `labels` [B, T] has answers."""
        del input_ids, attention_mask
        given = _given(batch).to(self.device)
        mask = given.attention_mask
        kept = self.model(given, keep=mask).logits
        logits = kept.new_zeros((*mask.shape, kept.shape[-1]))
        logits[mask] = kept
        targets = given.labels if labels is None else labels.to(self.device)
        loss = None
        if bool((targets[:, 1:] != IGNORE).any()):
            flat = logits[:, :-1].flatten(0, 1).float()
            loss = torch.nn.functional.cross_entropy(flat, targets[:, 1:].flatten(), ignore_index=IGNORE)
        return CausalLMOutput(loss=loss, logits=logits)

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        batch: Batch | None = None,
        max_new_tokens: int = 256,
        **options: Any,
    ) -> Tensor:
        """Prompts and what follows them, [B, T + new]; greedily unless `do_sample=True`. Options as transformers'."""
        del input_ids, attention_mask
        given, chat = _given(batch).to(self.device), self.assistant.preparer.chat
        defaults: dict[str, Any] = {"do_sample": False, "num_beams": 1}
        if chat.stop_texts:
            defaults["stop"] = chat.stop_texts
        if not options.get("do_sample"):
            defaults |= {"temperature": None, "top_p": None, "top_k": None}
        embeds, context = self.model.embed(given)
        new = self.model.llm.generate(
            embeds,
            given.attention_mask,
            given.position_ids,
            context,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(chat.stop_ids) or None,
            pad_token_id=chat.pad_id,
            **(defaults | options),
        )
        return torch.cat([given.input_ids, new], dim=1)

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Not available: copy the folder, or export the run again."""
        raise OmniVitError("A model of OmniViT is written by `omnivit export RUN --to hf`. Copy its folder instead.")


class OmniViTProcessor:
    """Messages with media -> the inputs of `OmniViTForConditionalGeneration`.

    Attributes:
        assistant: prepares samples as in training.
    """

    _auto_class: str | None = None

    def __init__(self, assistant: Assistant) -> None:
        self.assistant = assistant
        self.tokenizer = assistant.model.llm.tokenizer()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> OmniViTProcessor:
        """Open the folder of a model. Options as of `OmniViTForConditionalGeneration.from_pretrained`."""
        trust = options.pop("trust", False)
        folder = _folder(pretrained_model_name_or_path, options)
        return cls(_opened.get(folder) or open_folder(folder, trust, weights=False))

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """What transformers calls after it has run the code of a folder."""
        cls._auto_class = auto_class

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        add_generation_prompt: bool = False,
        **options: Any,
    ) -> BatchFeature:
        """Prepare one conversation or several.

        Args:
            conversation: `{"role": ..., "content": "text" or [parts]}`; a part is `{"type": "text", "text": ...}`, or
                `{"type": SLOT, SLOT: source}` for any input of the model.
            add_generation_prompt: end with the opening of an answer.
            **options: `tokenize`, `return_dict` and `return_tensors`, which must be as they are by default here: True,
                True and "pt".

        Raises:
            OmniVitError: unreadable media, a malformed conversation, or another option.
        """
        for name, expected in {"tokenize": True, "return_dict": True, "return_tensors": "pt"}.items():
            if options.pop(name, expected) != expected:
                raise OmniVitError(f"{name} must be {expected!r}: media and text are prepared together.")
        if options:
            raise OmniVitError(f"apply_chat_template has no option {next(iter(options))!r} here.")
        several = [conversation] if conversation and isinstance(conversation[0], Mapping) else conversation
        samples = []
        for number, messages in enumerate(several):
            name = f"conversation {number}"
            samples.append(Sample(name, messages_from(messages, None, name)))  # type: ignore[arg-type]
        encoded = [self.assistant.preparer(sample, generate=add_generation_prompt) for sample in samples]
        batch = self.assistant._collate(encoded, pad_left=add_generation_prompt)
        return BatchFeature(
            {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long(), "batch": batch}
        )

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Token ids -> text, as the assistant shows it."""
        return self.assistant.preparer.chat.decode(ids)

    def batch_decode(self, ids: Sequence[Any] | Tensor) -> list[str]:
        """`decode` of several."""
        return [self.decode(each) for each in ids]


def _given(batch: Batch | None) -> Batch:
    if batch is None:
        raise OmniVitError("Pass the inputs that the processor makes: `model(**processor.apply_chat_template(...))`.")
    return batch


def _device(placement: Any) -> Any:
    """The one device of a `device_map`; None: the CPU."""
    if isinstance(placement, Mapping):
        placement = next(iter(placement.values())) if set(placement) == {""} else "auto"
    if placement == "auto":
        return "cuda" if torch.cuda.is_available() else None
    return placement


def _folder(name: str | Path, options: dict[str, Any]) -> Path:
    """The folder of a model: itself, or a copy of a repository of the hub."""
    hub = {key: options.pop(key, None) for key in ("revision", "cache_dir", "token", "local_files_only")}
    if Path(name).is_dir():
        return Path(name).resolve()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(name), **{key: value for key, value in hub.items() if value is not None}))


def _refuse(options: Mapping[str, Any]) -> None:
    """Refuse options that would change the model."""
    for name in ("dtype", "torch_dtype", "quantization_config", "attn_implementation", "state_dict", "key_mapping"):
        if options.get(name) not in (None, "auto"):
            raise OmniVitError(f"{name} cannot be set here: the folder's recipe.yaml says how the model is built.")


AutoConfig.register(OmniViTConfig.model_type, OmniViTConfig, exist_ok=True)
for _auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto.register(OmniViTConfig, OmniViTForConditionalGeneration, exist_ok=True)
AutoProcessor.register(OmniViTConfig, OmniViTProcessor, exist_ok=True)  # type: ignore[no-untyped-call]
