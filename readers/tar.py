"""`tar`: shards of webdataset, in which the members of one stem are a sample: `000.jpg` and `000.txt`."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omnivit.data.questions import QuestionReader
from omnivit.data.records.qa import QAOptions
from omnivit.plugin import DataError, ReaderExample

MEMBERS = {
    "image": ("jpg", "jpeg", "png", "webp"),
    "audio": ("flac", "wav", "mp3", "ogg", "m4a"),
    "video": ("mp4", "mkv", "webm", "avi", "mov"),
}
"""Input slot -> suffixes of members that are its media."""
TEXTS = ("txt", "caption", "text")
"""Members that may be the caption of a sample, the first that there is; else it is `caption` in the member json."""


@dataclass
class TarConfig(QAOptions):
    """Options of the reader `tar`: those of `qa`, with other defaults."""

    slots: dict[str, str] = field(default_factory=dict)
    """Input slot -> its medium, such as `image: "{jpg}"`, a suffix of members. Default: by the suffixes of the members,
    image (jpg, jpeg, png, webp), audio (flac, wav, mp3, ogg, m4a) and video (mp4, mkv, webm, avi, mov)."""
    prompt: str | None = "caption"
    """The task whose wordings are in `prompts`; null: `question` is the question."""
    answer: str | None = None
    """The answer, such as `{json.caption}`. Default: the member txt, caption or text, or `caption` in the json."""
    id: str | None = "{__key__}"
    """The name of the sample: the stem of its members."""


class TarReader(QuestionReader):
    """Pairs of media and captions in tar shards, read in place: MiniGPT-4's first stage and its kin, WavCaps."""

    contract = 1
    Config = TarConfig
    keys = frozenset({"id", "__key__", *TEXTS, "json", *(suffix for many in MEMBERS.values() for suffix in many)})

    def options(self, record: Mapping[str, Any]) -> QAOptions:
        """The options, with what they leave to the members of the record."""
        slots = self.config.slots or _slots(record)
        answer = self.config.answer
        if answer is None:
            inner = record.get("json")
            texts = {name: record.get(name) for name in TEXTS}
            texts["json.caption"] = inner.get("caption") if isinstance(inner, Mapping) else None
            answer = next((f"{{{name}}}" for name, text in texts.items() if text), None)
        if answer is None:
            members = ", ".join(sorted(key for key in record if key not in ("id", "__key__")))
            raise DataError(
                f"the sample has the members {members}, and no caption in a member txt, caption, text or json. Name "
                "it in the option `answer`."
            )
        return replace(self.config, slots=slots, answer=answer)

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """A shard with three samples, and one with a sample that has no caption."""
        captions = ("A boat in the harbour.", "A gull above the water.", "A lighthouse at night.")
        files: dict[str, str] = {}
        for k, caption in enumerate(captions):
            files |= {f"{k:03}.jpg": "JPEG", f"{k:03}.txt": caption}
        _write_shard(folder / "shard.tar", files)
        _write_shard(folder / "no-caption.tar", files | {"003.jpg": "JPEG"})
        return ReaderExample(folder / "shard.tar", folder, [folder / "no-caption.tar"])


def _slots(record: Mapping[str, Any]) -> dict[str, str]:
    """Slot -> template, for the members that are media."""
    slots: dict[str, str] = {}
    for slot, suffixes in MEMBERS.items():
        present = [suffix for suffix in suffixes if suffix in record]
        if len(present) > 1:
            raise DataError(
                f"the sample has the members {' and '.join(present)}. Name the {slot} in the option `slots`."
            )
        if present:
            slots[slot] = f"{{{present[0]}}}"
    return slots


def _write_shard(path: Path, files: Mapping[str, str]) -> None:
    """Write an archive, without the zeros that would fill it up to 10 KiB."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode("ascii")))
        end = archive.offset
    path.write_bytes(content.getvalue()[: end + 2 * tarfile.BLOCKSIZE])
