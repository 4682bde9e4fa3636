"""What an export computes, compared with the run itself, before the export is kept.

Shapes: B = 1 sample, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.data.collate import EncodedSample
from omnivit.errors import DataError
from omnivit.run.assistant import Assistant

TOLERANCE = 1e-4
"""The largest difference of logits, as a share of the largest logit where that is above 1."""


def trial_picture() -> Image.Image:
    """An oblong picture with gradients: a wrong crop, size or colour shows in it."""
    red, green = Image.linear_gradient("L").resize((64, 48)), Image.radial_gradient("L").resize((64, 48))
    return Image.merge("RGB", (red, green, red.rotate(180)))


def conversations(slot: str, picture: Any) -> list[list[Message]]:
    """With an image, over several turns, and with a system message alone."""
    question = Message("user", (Media(slot, picture), Text("What is in the image? <b>1 + 1</b>")))
    later = [Message("assistant", (Text("A red car."),)), Message("user", (Text("And behind it?\nSay it shortly."),))]
    system = [Message("system", (Text("Be brief."),)), Message("user", (Text("Hello"),))]
    return [[question], [question, *later], system]


def as_hugging_face(messages: Sequence[Message], placeholder: str = "image") -> list[dict[str, Any]]:
    """Messages as processors of transformers take them."""
    turns = []
    for message in messages:
        parts: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, Media):
                parts.append({"type": placeholder, placeholder: part.source})
            elif isinstance(part, Text):
                parts.append({"type": "text", "text": part.text})
        turns.append({"role": message.role, "content": parts})
    return turns


def differing_prompt(assistant: Assistant, processor: Any, image_id: int) -> str | None:
    """Compare prompts: text and pictures in, ids out. Says where they differ; None where all are equal."""
    slot = assistant.slots[0]
    for messages in conversations(slot, trial_picture()):
        try:
            encoded = assistant.preparer(Sample("trial", tuple(messages)), generate=True)
        except DataError:  # a template that takes no system message, say
            continue
        inputs = prompt(processor, messages)
        ours = _with_image_id(encoded, image_id)
        theirs = inputs["input_ids"][0].tolist()
        if ours != theirs:
            place = next((k for k, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(ours))
            here = slice(place, place + 4)
            return f"token {place} of a prompt of {len(messages)} messages is {theirs[here]}, not {ours[here]}"
    return None


def prompt(processor: Any, messages: Sequence[Message]) -> dict[str, Tensor]:
    """The inputs of a model of transformers, its processor and chat template applied."""
    inputs: dict[str, Tensor] = processor.apply_chat_template(
        as_hugging_face(messages), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return inputs


@torch.inference_mode()
def largest_difference(assistant: Assistant, processor: Any, model: Any) -> float:
    """The largest difference of logits over a prompt with an image, as a share of the largest if that is above 1."""
    messages = conversations(assistant.slots[0], trial_picture())[0]
    encoded = assistant.preparer(Sample("trial", tuple(messages)), generate=True)
    batch = assistant._collate([encoded])
    ours = assistant.model(batch, keep=batch.attention_mask).logits
    theirs = model(**prompt(processor, messages)).logits[0]
    columns = min(ours.shape[-1], theirs.shape[-1])
    ours, theirs = ours[:, :columns].float(), theirs[:, :columns].float()
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1.0))


def _with_image_id(encoded: EncodedSample, image_id: int) -> list[int]:
    ids: list[int] = encoded.ids.tolist()
    for span in encoded.spans:
        ids[span.start : span.start + span.length] = [image_id] * span.length
    return ids
