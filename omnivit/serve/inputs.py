"""The inputs of a model as the API names them: which types of content parts go to which input slot.

A part's type is the name of a slot (`points`), or one of OpenAI's for the kind of media that the slot's encoder reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from omnivit.contracts.sample import Media
from omnivit.errors import OmniVitError

if TYPE_CHECKING:
    from omnivit.run.assistant import Assistant  # imports torch, which the desk does without

ALIASES: Mapping[str, tuple[str, ...]] = {
    "image": ("image_url", "input_image"),
    "audio": ("input_audio", "audio_url"),
    "video": ("video_url",),
}
"""What an encoder reads -> OpenAI's types of parts for it."""
FILE = "file"
"""OpenAI's type for any file; its name decides which input reads it."""
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    "audio": (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".aac", ".webm"),
    "video": (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif"),
    "points": (".ply", ".pcd", ".obj", ".stl", ".off", ".glb", ".xyz", ".pts", ".npy", ".npz"),
    "volume": (".nii", ".nii.gz", ".dcm"),
    "page": (".pdf", ".png", ".jpg", ".jpeg", ".tif", ".tiff"),
    "features": (".npy", ".npz", ".safetensors"),
}
"""What an encoder reads -> suffixes of its files, the usual ones first; the decoder looks at the content."""


@dataclass(frozen=True)
class Input:
    """An input slot."""

    slot: str
    modality: str
    types: tuple[str, ...]
    """The types of parts that go to it; the slot's name is the first."""
    suffixes: tuple[str, ...]
    tokens: int | None
    """The number of a medium's tokens; None: it depends on the medium."""

    def record(self) -> dict[str, Any]:
        """For `/v1/models`."""
        return {
            "slot": self.slot,
            "modality": self.modality,
            "types": list(self.types),
            "suffixes": list(self.suffixes),
            "tokens": self.tokens,
        }


def inputs_of(assistant: Assistant) -> tuple[Input, ...]:
    """The inputs of a model, in the order of its recipe."""
    inputs: list[Input] = []
    for slot in assistant.slots:
        modality = assistant.model.slot_encoders(slot)[0].modality
        first = all(before.modality != modality for before in inputs)
        types = (slot, *(ALIASES.get(modality, ()) if first else ()), FILE)
        inputs.append(Input(slot, modality, types, SUFFIXES.get(modality, ()), _tokens(assistant, slot, modality)))
    names = {given.slot for given in inputs}
    # a slot that has the name of another one's alias (an input called `video_url`) takes the parts of this type
    return tuple(_without(given, names - {given.slot}) for given in inputs)


def _without(given: Input, names: set[str]) -> Input:
    types = tuple(kind for kind in given.types if kind not in names)
    return Input(given.slot, given.modality, types, given.suffixes, given.tokens)


def _tokens(assistant: Assistant, slot: str, modality: str) -> int | None:
    """The tokens of an image, where images of two shapes have the same number."""
    if modality != "image":
        return None
    from PIL import Image

    prepare = assistant.preparer.slots[slot]
    try:
        counts = {
            prepare.tokens(prepare(Media(slot, Image.new("RGB", size)))) for size in ((448, 448), (900, 300), (40, 60))
        }
    except OmniVitError:  # the encoder reads no ordinary image, such as one of thermal images
        return None
    return counts.pop() if len(counts) == 1 else None


def types_of(inputs: Sequence[Input]) -> dict[str, str]:
    """Type of a part -> slot, `file` excepted."""
    return {kind: given.slot for given in inputs for kind in given.types if kind != FILE or given.slot == FILE}


def slot_of_file(inputs: Sequence[Input], name: str, mime: str) -> str | None:
    """The slot that reads a file; by its name, then by its media type, then the only slot that there is."""
    lowered = PurePath(name).name.lower()
    for given in inputs:
        if any(lowered.endswith(suffix) for suffix in given.suffixes):
            return given.slot
    kind = {"application/pdf": "page"}.get(mime, mime.partition("/")[0])
    for given in inputs:
        if given.modality == kind:
            return given.slot
    return inputs[0].slot if len(inputs) == 1 and not lowered else None
