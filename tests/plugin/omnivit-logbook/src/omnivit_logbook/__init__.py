"""`logbook`: entries of media, questions and answers, a line each.

Opening a file notes where its entries begin; an entry is read and parsed when it is asked for.

N: entries of a file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omnivit.plugin import DataError, Media, Message, Part, Reader, ReaderExample, Sample, Text

NAME = re.compile(rb"^\[(.+)\][ \t\r]*$", re.MULTILINE)
MEDIUM = re.compile(rb"^(?![QA]:)[A-Za-z][\w-]*:", re.MULTILINE)
LINE = re.compile(r"([A-Za-z][\w-]*): *(.*)")


class LogbookReader(Reader):
    """Entries of one logbook."""

    contract = 1

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = Path(path), str(root)
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}. Check `data.root` and the path.") from error
        starts = [match.start() for match in NAME.finditer(content)]
        for number, line in enumerate(content[: starts[0] if starts else None].split(b"\n"), start=1):
            if not starts or (line.strip() and not line.startswith(b"#")):
                raise DataError(f"{path}:{number}: expected an entry's name in brackets, such as [pump-0001].")
        self._bounds = np.array([*starts, len(content)], dtype=np.int64)
        newlines = [content.count(b"\n", start, end) for start, end in pairwise([0, *starts])]
        self._lines = 1 + np.cumsum(newlines)
        media = [len(MEDIUM.findall(content, start, end)) for start, end in pairwise([*starts, len(content)])]
        self._media = np.array(media, dtype=np.int64)
        self._hash = hashlib.sha256(content).hexdigest()

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path} has {len(self)} entries, there is no entry {i}")
        with self.path.open("rb") as file:
            file.seek(int(self._bounds[i]))
            raw = file.read(int(self._bounds[i + 1] - self._bounds[i]))
        try:
            name, *lines = raw.decode("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where(i)}: is not UTF-8: {error.reason}. Save the logbook in UTF-8.") from error
        messages = tuple(self._messages(i, lines))
        return Sample(name.strip()[1:-1], messages, self.where(i))

    def _messages(self, i: int, lines: list[str]) -> Iterator[Message]:
        """The turns of an entry, whose lines after the first are given."""
        shown: list[Part] = []
        asked = False
        for number, line in enumerate(lines, start=int(self._lines[i]) + 1):
            if not line.strip() or line.startswith("#"):
                continue
            found = LINE.fullmatch(line.rstrip())
            key = found[1] if found else ""
            if found is None or not found[2] or (key == "A") != asked:
                wanted = "`A: ...`, the answer" if asked else "`Q: ...` or `SLOT: PATH`"
                raise DataError(f"{self.path}:{number}: {line[:60]!r} stands where {wanted} is expected.")
            if key == "A":
                yield Message("assistant", (Text(found[2]),))
            elif key == "Q":
                yield Message("user", (*shown, Text(found[2])))
                shown = []
            else:
                shown.append(Media(key, found[2], self.root))
            asked = key == "Q"
        if asked or shown or not any(line.startswith("A:") for line in lines):
            raise DataError(f"{self.where(i)}: the entry ends before its question is asked and answered.")

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.diff(self._bounds), self._media

    def fingerprint(self) -> str:
        return f"sha256:{self._hash}"

    def where(self, i: int) -> str:
        return f"{self.path}:{self._lines[i]}"

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """Three entries, one of them a conversation of two turns; and five logbooks that are none."""
        first = "# Monday\n\n[a]\nthermal: a.rad\nQ: Too hot?\nA: no\n\n"
        second = "[b]\nQ: Who?\nA: I\nthermal: b.rad\nQ: And now?\nA: yes\n"
        third = "[ü 3]\nQ: Größe?\nA: 3 m²\n"
        (folder / "good.log").write_text(first + second + third, encoding="utf-8")
        wrong = {
            "empty": b"",
            "no entry": b"Q: Too hot?\nA: no\n",
            "no answer": b"[a]\nQ: Too hot?\n[b]\nQ: Why?\nA: so\n",
            "no question": b"[a]\nA: no\n",
            "latin": "[a]\nQ: Größe?\nA: 3\n".encode("latin-1"),
        }
        for name, content in wrong.items():
            (folder / f"{name}.log").write_bytes(content)
        return ReaderExample(folder / "good.log", folder, bad=[folder / f"{name}.log" for name in wrong])
