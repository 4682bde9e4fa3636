"""Media in vLLM's prompts: read and prepared by the processors of OmniViT, counted by the rules of its adapters.

The modalities of a model are its input slots. A medium is given as a path, bytes, a PIL image or an array; over HTTP
vLLM itself decodes what it knows (image, audio, video).
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omnivit.run.input_side import InputSide
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import MultiModalDataParser, ProcessorBatchItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

TOKENS = "number of tokens"
"""A field of every medium, beside those of its processor."""


def key(slot: str, name: str) -> str:
    """The name of a field in vLLM, where those of all inputs stand side by side."""
    return f"{slot}:{name}"


@functools.lru_cache(maxsize=1)
def preparing(folder: Path, width: int, trust: bool) -> InputSide:
    """The processors of an export, without weights."""
    return InputSide.open(folder, width, trust)


def folder_of(model_config: Any) -> Path:
    """The folder of a model, which may be a repository of the hub."""
    if Path(model_config.model).is_dir():
        return Path(model_config.model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model_config.model, revision=model_config.revision))


class SlotItems(ProcessorBatchItems):
    """The media of one input in a prompt."""

    def get_processor_data(self) -> Mapping[str, object]:
        """They go to the processor under the name of the input."""
        return {self.modality: self.get_all()}

    def get_item_for_hash(self, index: int) -> Any:
        """What identifies a medium in vLLM's caches: of files the time of their last change, too."""
        item = self.data[index]
        if not isinstance(item, (str, os.PathLike)):
            return item
        path = Path(item)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return repr([(str(file), *_changed(file)) for file in files])


def _changed(file: Path) -> tuple[int, int]:
    try:
        facts = file.stat()
    except OSError:  # the reader says what is wrong with it
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


class SlotParser(MultiModalDataParser):
    """Takes media of every input slot."""

    def __init__(self, slots: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.slots = tuple(slots)

    def _get_subparsers(self) -> Mapping[str, Any]:
        return {slot: functools.partial(_items, slot) for slot in self.slots}


def _items(slot: str, media: Any) -> SlotItems | None:
    if media is None:
        return None
    return SlotItems(media if isinstance(media, list) else [media], slot)


class Info(BaseProcessingInfo):
    """What vLLM asks of a model's inputs."""

    @property
    def slots(self) -> Mapping[str, int]:
        """Input slot -> id of its token."""
        inputs: Mapping[str, int] = self.get_hf_config().inputs
        return inputs

    @property
    def side(self) -> InputSide:
        """What prepares media."""
        model_config = self.ctx.model_config
        width = model_config.get_hidden_size()
        return preparing(folder_of(model_config), width, bool(model_config.trust_remote_code))

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Any number of each."""
        return dict.fromkeys(self.slots)

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        """None: the recipe says how media are prepared."""
        return {}

    def get_data_parser(self) -> MultiModalDataParser:
        """Takes media of every input slot."""
        return SlotParser(tuple(self.slots), expected_hidden_size=self._get_expected_hidden_size())


class DummyInputs(BaseDummyInputsBuilder[Info]):
    """Media that vLLM measures memory with: examples of the encoders."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """The tokens of all media."""
        names = self.info.get_tokenizer().convert_ids_to_tokens(list(self.info.slots.values()))
        tokens = dict(zip(self.info.slots, names, strict=True))
        return "".join(tokens[slot] * count for slot, count in mm_counts.items())

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        """One example for each medium."""
        del seq_len, mm_options
        return {slot: [self.info.side.example(slot)] * count for slot, count in mm_counts.items() if count}


class Processor(BaseMultiModalProcessor[Info]):
    """Media -> tensors, and the number of their tokens in the prompt."""

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        del hf_kwargs
        side, fields = self.info.side, dict[str, list[torch.Tensor]]()
        for slot, media in hf_data.items():
            for source in media:  # type: ignore[attr-defined]
                item = side.prepare(slot, _source(source))
                item = item | {TOKENS: torch.tensor(side.tokens(slot, item))}
                for name, tensor in item.items():
                    fields.setdefault(key(slot, name), []).append(tensor)
        return BatchFeature(fields)

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        del hf_processor_mm_kwargs
        return {name: MultiModalFieldConfig.batched(name.partition(":")[0]) for name in hf_inputs}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        del hf_processor_mm_kwargs
        updates = []
        for slot in mm_items:
            token, items = self.info.slots[slot], out_mm_kwargs.get(slot, [])
            counts = [int(item[key(slot, TOKENS)].data) for item in items]
            replacement = functools.partial(_repeated, token, counts)
            updates.append(PromptReplacement(modality=slot, target=[token], replacement=replacement))
        return updates


def _repeated(token: int, counts: Sequence[int], number: int) -> list[int]:
    return [token] * counts[number]


def _source(source: Any) -> Any:
    """A medium as OmniViT reads it; vLLM gives audio that came over HTTP as samples with their rate."""
    if not isinstance(source, tuple):
        return source
    import soundfile

    samples, rate = source
    file = io.BytesIO()
    soundfile.write(file, samples, int(rate), format="WAV", subtype="FLOAT")
    return file.getvalue()
