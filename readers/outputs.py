"""`outputs`: media in answers, as targets of heads (NExT-GPT's pairs of text and media, MosIT).

A tag in an answer stands for a medium that the model should produce. It becomes a `Target`, whose value is the stored
text embedding of the medium's caption; the tag is never learned as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnivit.data.records import fields
from omnivit.data.records.llava import TURNS
from omnivit.data.records.tags import check_tags
from omnivit.data.records.turns import Turn, turns_of
from omnivit.plugin import (
    Card,
    DataError,
    Media,
    Message,
    Part,
    ReaderExample,
    RecordOptions,
    RecordReader,
    Target,
    Text,
    values,
    written_example,
)

_TURN_KEYS = ("caption", "input_modality", "output_modality")


@dataclass
class OutputsConfig(RecordOptions):
    """Options of the reader `outputs`."""

    heads: dict[str, str] = field(
        default_factory=lambda: {kind: f"{{{kind}_caption_embeddings|}}" for kind in ("image", "video", "audio")}
    )
    """Head -> the path of its targets, such as `audio: "audio_states/{audio_caption_embeddings|}"`."""
    slots: dict[str, str] = field(
        default_factory=lambda: {kind: f"{{input_{kind}|}}" for kind in ("image", "video", "audio")}
    )
    """Input slot -> the path of its medium in questions."""
    tags: dict[str, str] = field(default_factory=dict)
    """Head or slot -> its tag in the texts; default: `<NAME>`."""

    def __post_init__(self) -> None:
        for option in ("heads", "slots"):
            for name, template in getattr(self, option).items():
                fields.check_template(template, f"{option}.{name}")

    def tag(self, name: str) -> str:
        """The tag of a head or slot."""
        return self.tags.get(name, f"<{name}>")


class OutputsReader(RecordReader):
    """Conversations whose answers contain media, each with the stored states that a head has to reach.

    `{image_captions, image_caption_embeddings, conversations}`: the k-th tag of the answers is the k-th embedding.
    """

    contract = 1
    card = Card(paper="Wu et al., NExT-GPT, arXiv 2309.05519")
    Config = OutputsConfig
    config: OutputsConfig
    mark = re.compile(rb'"input_(?:image|video|audio)"\s*:\s*"')
    keys = frozenset({"id", *TURNS})

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        key = next((key for key in TURNS if key in record), None)
        if key is None:
            raise DataError(f"the record has no key 'conversations'; it has {', '.join(sorted(map(str, record)))}.")
        turns = turns_of(_without_modalities(record, key), key, self.ignore)
        texts = [values.text(turn.content, turn.place) for turn in turns]
        heads = {name: self._values(template, record, f"heads.{name}") for name, template in self.config.heads.items()}
        slots = {name: self._values(template, record, f"slots.{name}") for name, template in self.config.slots.items()}
        for role, listed, option in (("assistant", heads, "heads"), ("user", slots, "slots")):
            said = [text for turn, text in zip(turns, texts, strict=True) if turn.role == role]
            for name, sources in listed.items():
                check_tags(said, name, sources, f"{option}.{name}", f"turns of the {role}", (self.config.tag(name),))
        _check_modalities(record[key], texts, turns, self.config)
        queues = {"assistant": _queues(heads), "user": _queues(slots)}
        return tuple(
            Message(turn.role, tuple(self._parts(text, turn.role, queues)), turn.learn, turn.thought)
            for turn, text in zip(turns, texts, strict=True)
        )

    def reads(self) -> frozenset[str]:
        return self.keys | fields.keys_of(*self.config.heads.values(), *self.config.slots.values()) | _OUTPUT_FILES

    def _values(self, template: str, record: Mapping[str, Any], option: str) -> tuple[object, ...]:
        return fields.sources(template, record, option)

    def _parts(self, text: str, role: str, queues: Mapping[str, Mapping[str, Iterator[object]]]) -> Iterator[Part]:
        names = {self.config.tag(name): name for name in queues.get(role, {})}
        pieces = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
        for k, piece in enumerate(pieces):
            if k % 2:
                source = next(queues[role][names[piece]])
                kind = Target if role == "assistant" else Media
                yield kind(names[piece], source, self.root)
            elif piece or piece == text:
                yield Text(piece)

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """A sound in an answer, an image in a question, and text alone; and files that lose a medium."""
        drawn = {
            "output_audio": "3.wav",
            "audio_captions": "rain",
            "audio_caption_embeddings": "3.npy",
            "conversations": [_turn("human", "Let me hear rain."), _turn("gpt", "Here it is. <audio>")],
        }
        seen = {
            "input_image": "boat.png",
            "conversations": [_turn("human", "<image> What is it?"), _turn("gpt", "A drawing of a boat.")],
        }
        text = {"conversations": [_turn("human", "What floats?"), _turn("gpt", "Wood, and all that is lighter.")]}
        bad: dict[str, dict[str, Any]] = {
            "no-states": {**drawn, "audio_caption_embeddings": None},
            "no-tag": {**drawn, "conversations": [_turn("human", "Rain?"), _turn("gpt", "Here it is.")]},
            "no-turns": {"output_audio": "3.wav"},
        }
        return written_example(folder, [drawn, seen, text], bad)


_OUTPUT_FILES = frozenset(f"output_{kind}" for kind in ("image", "video", "audio"))
"""The files themselves, which the stored states stand for."""


def _queues(listed: Mapping[str, Sequence[object]]) -> dict[str, Iterator[object]]:
    return {name: iter(sources) for name, sources in listed.items() if sources}


def _without_modalities(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The record, without what its turns say about modalities, which the tags say too."""
    turns = record[key]
    if not isinstance(turns, (list, tuple)):
        return dict(record)
    kept = [
        {name: value for name, value in turn.items() if name not in _TURN_KEYS} if isinstance(turn, Mapping) else turn
        for turn in turns
    ]
    return {**record, key: kept}


def _check_modalities(given: Any, texts: Sequence[str], turns: Sequence[Turn], config: OutputsConfig) -> None:
    """Refuse a turn that names a modality whose tag its text does not contain."""
    for turn, text, entry in zip(turns, texts, given, strict=True):
        kind = entry.get("output_modality" if turn.role == "assistant" else "input_modality") or "text"
        if kind != "text" and turn.role in ("assistant", "user") and config.tag(str(kind)) not in text:
            raise DataError(f"{turn.place} has no {config.tag(str(kind))}, but the turn's modality is {kind!r}.")


def _turn(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}
