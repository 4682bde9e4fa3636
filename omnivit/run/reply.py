"""An answer with what the heads read off it: text, predictions, and the turn as a conversation goes on from it.

The heads are asked as they are trained: over the whole conversation, at the places of their tokens.

Shapes: T tokens of the prompt, n of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Message, Part, Target, Text, Token
from omnivit.data.box_codecs import Area
from omnivit.data.chat import Chat
from omnivit.data.collate import EncodedSample, collate, followed
from omnivit.data.head_targets import Trigger
from omnivit.model.omni import OmniModel
from omnivit.run.stopping import Answer


@dataclass(frozen=True)
class Prediction:
    """What a head gives at one of its tokens."""

    head: str
    """Its name in the recipe."""
    value: Any
    """As the head gives it for one occurrence: a tensor on the CPU, or a mapping of such."""

    def plain(self) -> Any:
        """The value as numbers, lists and mappings, which JSON can hold."""
        return _changed(self.value, lambda tensor: tensor.tolist())


@dataclass(frozen=True)
class Reply:
    """An answer of an assistant."""

    text: str
    """Without white space around it. Heads' tokens stand in it as text."""
    message: Message
    """The turn, for the history of the next question: tokens of heads and of the recipe stay tokens."""
    predictions: tuple[Prediction, ...]
    """In the order of the answer's tokens."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """The boxes (x0, y0, x1, y1) that the answer names, in pixels of the last image of the conversation (upright); by
    the codec of the recipe (`model.boxes`)."""
    points: tuple[tuple[float, float], ...] = ()
    """The points (x, y) that the answer names, in the same pixels."""
    areas: tuple[Area, ...] = ()
    """Boxes and points in the order of the text."""

    def with_areas(self, areas: Sequence[Area]) -> Reply:
        """The same with what `omnivit.data.prepare.Preparer.areas_in` found in its text."""
        boxes = tuple((area[0], area[1], area[2], area[3]) for area in areas if len(area) == 4)
        points = tuple((area[0], area[1]) for area in areas if len(area) == 2)
        return replace(self, boxes=boxes, points=points, areas=tuple(areas))


def message_of(answer: Answer, chat: Chat) -> Message:
    """An answer as the turn of an assistant; heads' tokens are targets that nobody knows, others stay tokens."""
    parts = list(_parts(answer.ids, chat))
    rest = answer.text[len(chat.decode(answer.ids)) :]  # of a token in which a stop text begins
    if rest and parts and isinstance(parts[-1], Text):
        parts[-1] = Text(parts[-1].text + rest)
    elif rest or not parts:
        parts.append(Text(rest))
    if isinstance(parts[0], Text):
        parts[0] = Text(parts[0].text.lstrip())
    if isinstance(parts[-1], Text):
        parts[-1] = Text(parts[-1].text.rstrip())
    return Message("assistant", tuple(parts))


@torch.inference_mode()
def read_heads(model: OmniModel, prompt: EncodedSample, ids: Sequence[int], chat: Chat) -> tuple[Prediction, ...]:
    """What the heads give for their tokens in an answer.

    Args:
        model: in `eval()`.
        prompt: [T] as it was continued.
        ids: [n] of the answer.
        chat: of the model.
    """
    names = {id: head for head, id in chat.token_ids().items()}
    places = [(names[id], len(prompt.ids) + number) for number, id in enumerate(ids) if id in names]
    if not places:
        return ()
    before = {name: head.reads_before for name, head in model.named_heads()}
    answered = replace(
        followed(prompt, torch.tensor(ids), torch.full((len(ids),), IGNORE)),
        triggers=tuple(Trigger(head, place - before[head], {}) for head, place in places),
    )
    batch = collate([answered], tuple(model.encoders), chat.pad_id).to(next(model.parameters()).device)
    asked = list(dict.fromkeys(head for head, _ in places))
    outputs = model(batch, batch.attention_mask & False, asked).heads
    predictions = {head: _entries(output.prediction) for head, output in outputs.items()}
    return tuple(Prediction(head, next(predictions[head])) for head, _ in places)


def _parts(ids: Sequence[int], chat: Chat) -> Iterator[Part]:
    parts: dict[int, Part] = {id: Token(token) for id, token in chat.content_ids().items()}
    parts |= {id: Target(head) for head, id in chat.token_ids().items()}
    start = 0  # of the characters that no part has yet
    for place, id in enumerate([*ids, None]):
        if id is not None and id not in parts:
            continue
        # the text of all tokens up to here: that of some tokens alone may lack the space before their first word
        text = chat.decode(ids[:place])[start:]
        if start and chat.inserts_space:
            text = text.removeprefix(" ")
        if text:
            yield Text(text)
        if id is not None:
            yield parts[id]
            start = len(chat.decode(ids[: place + 1]))


def _entries(prediction: Any) -> Iterator[Any]:
    """The prediction of each occurrence, one after the other; None for a head that predicts nothing."""
    number = 0
    while True:
        yield _entry(prediction, number)
        number += 1


def _entry(prediction: Any, number: int) -> Any:
    if prediction is None:
        return None
    if isinstance(prediction, Mapping):
        return {name: _entry(part, number) for name, part in prediction.items()}
    return _changed(prediction[number], lambda tensor: tensor.detach().cpu())


def _changed(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: _changed(part, change) for name, part in value.items()}
    return change(value) if isinstance(value, Tensor) else value
