"""Speech with its words: the announcements of the Asterisk telephone system, one voice, 8 kHz."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from packages import Debian

LICENCE = "CC-BY-SA-3.0 (recorded by Allison Smith for Digium, Inc.): fetched, never vendored"
PACKAGES = (
    Debian(
        "asterisk-core-sounds-en-wav",
        "1.6.1-1",
        "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
        "18 MB",
    ),
    Debian(
        "asterisk-core-sounds-en",
        "1.6.1-1",
        "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    ),
)
VOICE = "usr/share/asterisk/sounds/en_US_f_Allison"
WORDS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
RATE = 8000
MAX_SECONDS = 10.0
"""Longer announcements (a few menus) are left out: one window of the small recipe's encoder holds so much."""
HELD_OUT = 0.25
"""Share of the transcripts of each kind."""
SEED = 4
TRANSCRIBE = "Transcribe."
KINDS = {
    "number": r"digits/(\d+|hundred|thousand|million|billion|oh)",
    "ordinal": r"digits/h-.*",
    "date": r"digits/(day-.*|mon-.*|today|tomorrow|yesterday)",
    "letter": r"letters/([a-z]|zed)",
    "symbol": r"letters/.*",
    "code": r"phonetic/.*",
    "voicemail": r"vm-.*",
    "conference": r"conf.*",
}
"""Kind -> names of its recordings; the first that fits counts."""
KIND_QUESTION = f"What is it: {', '.join(KINDS)}?"
MAX_OF_A_KIND = 36
"""Questions of one kind on both sides together: voicemail and conferences have many more."""
SENTENCES = ("voicemail", "conference")
"""Of these, only announcements of `MIN_WORDS` or more: `and` alone says nothing of voicemail."""
MIN_WORDS = 4
JOINED, PARTS, PAUSE, MAX_PART = 400, (2, 3, 4), 0.15, 1.5
"""So many training samples more are made of so many short recordings, with so many seconds of silence in between."""

_NOTE = re.compile(r"\[[^\]]*\]|\(note[^)]*\)|<[^>]*>")
_SPOKEN = re.compile(r"[a-z' ]+")
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_SPELLING = {
    "exclaimation": "exclamation", "fourtieth": "fortieth", "umute": "unmute", "represenatives": "representatives",
    "indentified": "identified", "witheld": "withheld",
}  # fmt: skip
"""Slips of the transcripts."""


class Clip(NamedTuple):
    """A recording and what it says."""

    name: str
    words: str
    seconds: float

    @property
    def path(self) -> str:
        return f"clips/{self.name}.wav"


def build(sources: list[Path], folder: Path) -> None:
    """Copy the recordings, join some of them, and write the samples. The two sides share no transcript."""
    voice = sources[0] / VOICE
    text = gzip.decompress((sources[1] / WORDS).read_bytes()).decode("utf-8")
    clips = list(found(text, voice))
    for clip in clips:
        target = folder / clip.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(voice / f"{clip.name}.wav", target)
    kept_back = set(held_out(clips))
    train = [clip for clip in clips if clip.words not in kept_back]
    others = [clip for clip in clips if clip.words in kept_back]
    write(folder / "train.jsonl", transcribed(train))
    write(folder / "heldout.jsonl", transcribed(others))
    write(folder / "joined.jsonl", transcribed(list(joined(train, folder))))
    chosen = questions(clips)
    write(folder / "kind.jsonl", [asked(clip) for clip in chosen if clip.words not in kept_back])
    write(folder / "heldout_kind.jsonl", [asked(clip) for clip in chosen if clip.words in kept_back])
    for name, side in (("train", train), ("heldout", others)):
        minutes = sum(clip.seconds for clip in side) / 60
        print(f"{name}: {len(side)} recordings, {len({c.words for c in side})} transcripts, {minutes:.1f} minutes")


def found(text: str, voice: Path) -> Iterator[Clip]:
    """The recordings whose transcript is known for certain. Each line is `name: text`; `;` begins a comment."""
    import soundfile

    for line in text.splitlines():
        name, colon, said = line.partition(":")
        file, words = voice / f"{name.strip()}.wav", spoken(said)
        if line.startswith(";") or not colon or not words or not file.is_file():
            continue
        seconds = soundfile.info(file).duration
        if 0.2 < seconds <= MAX_SECONDS:
            yield Clip(name.strip(), words, seconds)


def spoken(text: str) -> str:
    """Words in lower case, digits spelled out, without punctuation; nothing where it is not clear what is said."""
    text = _NOTE.sub(" ", text).lower()
    text = re.sub(r"[.,;:!?\"-]", " ", text)
    words = [_NUMBERS[int(word)] if re.fullmatch(r"\d", word) else _SPELLING.get(word, word) for word in text.split()]
    joined = " ".join(words)
    return joined if _SPOKEN.fullmatch(joined) else ""


def kind_of(clip: Clip) -> str | None:
    return next((kind for kind, names in KINDS.items() if re.fullmatch(names, clip.name)), None)


def held_out(clips: Sequence[Clip]) -> Iterator[str]:
    """Transcripts that are kept back, a share of each kind: all recordings that say them are."""
    kinds: dict[str, str | None] = {}
    for clip in clips:
        kinds.setdefault(clip.words, kind_of(clip))
    for kind in (*KINDS, None):
        transcripts = sorted(words for words, its in kinds.items() if its == kind)
        random.Random(f"{SEED} {kind}").shuffle(transcripts)
        yield from transcripts[: round(HELD_OUT * len(transcripts))]


def questions(clips: Sequence[Clip]) -> list[Clip]:
    """One recording of each transcript that has a kind, not too many of one kind."""
    unique = list({clip.words: clip for clip in clips if kind_of(clip)}.values())
    random.Random(SEED).shuffle(unique)
    chosen: list[Clip] = []
    for kind in KINDS:
        fitting = [clip for clip in unique if kind_of(clip) == kind]
        if kind in SENTENCES:
            fitting = [clip for clip in fitting if len(clip.words.split()) >= MIN_WORDS]
        chosen += fitting[:MAX_OF_A_KIND]
    return chosen


def joined(clips: Sequence[Clip], folder: Path) -> Iterator[Clip]:
    """Short recordings one after the other: words that no sentence foretells have to be heard."""
    import soundfile

    draw = random.Random(SEED)
    short = [clip for clip in clips if clip.seconds <= MAX_PART]
    pause = np.zeros(round(PAUSE * RATE), np.int16)
    for number in range(JOINED):
        parts = draw.sample(short, draw.choice(PARTS))
        sounds = [soundfile.read(folder / part.path, dtype="int16")[0] for part in parts]
        sound = np.concatenate([piece for one in sounds for piece in (one, pause)])
        made = Clip(f"joined/{number}", " ".join(part.words for part in parts), len(sound) / RATE)
        (folder / made.path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / made.path, sound, RATE)
        yield made


def transcribed(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    return [record(clip, TRANSCRIBE, clip.words) for clip in clips]


def asked(clip: Clip) -> dict[str, Any]:
    return record(clip, KIND_QUESTION, kind_of(clip) or "")


def record(clip: Clip, question: str, answer: str) -> dict[str, Any]:
    content = [{"type": "audio", "audio": clip.path}, {"type": "text", "text": question}]
    return {
        "id": clip.name,
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
    }


def write(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    print(f"{path.name}: {len(records)} samples")
