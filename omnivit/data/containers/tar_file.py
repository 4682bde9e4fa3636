"""Records of a tar shard in the form of webdataset: members of one stem are a record; nothing is unpacked.

`000.jpg`, `000.txt` and `000.json` are the record `{"__key__": "000", "jpg": PATH, "txt": "...", "json": {...}}`. Text
and JSON are read; of every other member the record has the path, `shard.tar/000.jpg`, which is opened where it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit import stamps
from omnivit.contracts.reader import Places
from omnivit.data.containers.index import stamp_or_refuse
from omnivit.errors import DataError, MediaError
from omnivit.media.archive import SUFFIX, Archive, Member, archive_of
from omnivit.stamps import Stamp, cached, remove_stale, save

KEY = "__key__"
TEXTS = frozenset({"txt", "text", "caption", "cls", "json"})
"""Suffixes of members whose content is in the record."""
_FORMAT = 1  # increase it when the meaning of a saved table changes
_ROW = np.dtype([("first", "<u4"), ("count", "<u4"), ("text", "<u4"), ("media", "<u4")])
"""First member of a record, number of its members, bytes of text, number of other members."""
_LONGEST_TEXT = 64 << 20


class TarRecords:
    """See `omnivit.data.containers.base.Records`."""

    def __init__(self, path: Path, root: Path) -> None:
        """Open a shard.

        Args:
            path: the archive.
            root: the folder that paths of media start from; the archive is inside it.

        Raises:
            DataError: the archive is missing, damaged or outside the root.
        """
        self.path = path.absolute()
        self._stamp = stamp_or_refuse(self.path, (SUFFIX,))
        try:
            self._inside = self.path.relative_to(root.absolute()).as_posix()
        except ValueError:
            raise DataError(
                f"{path} is outside {root}, where paths of media start. Set `media_root` of the data source to a "
                "folder that contains the archives."
            ) from None
        self._file: int | None = None
        self._rows = self._table()

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_stamp": self._stamp, "_inside": self._inside}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._file = None
        self._check_unchanged(stamp_or_refuse(self.path, (SUFFIX,)))
        self._rows = self._table()

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]

    def read(self, i: int) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for member in self._members(i):
            stem, suffix = split(member.name)
            record.setdefault(KEY, stem)
            if suffix in record:
                raise DataError(f"there are two members {stem}.{suffix}. Make the archive again.")
            record[suffix] = self._text(member, suffix) if suffix in TEXTS else f"{self._inside}/{member.name}"
        return record

    def name(self, i: int) -> str | None:
        """`SHARD/STEM`: stems are unique in their shard only."""
        return f"{self.path.stem}/{split(self._members(i)[0].name)[0]}"

    def where(self, i: int) -> str:
        return f"{self.path}:{i + 1}"

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._rows["text"].astype(np.int64), self._rows["media"].astype(np.int64)

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = self._rows[places]
        return rows["text"].astype(np.int64), rows["media"].astype(np.int64)

    def fingerprint(self) -> str:
        return stamps.fingerprint(self.path)

    def files(self) -> list[Path]:
        return [self.path]

    def _members(self, i: int) -> list[Member]:
        archive, row = self._archive(), self._rows[i]
        first, count = int(row["first"]), int(row["count"])
        # hidden files may be between those of a record; they are not part of it
        members: list[Member] = []
        while len(members) < count:
            if not _is_hidden(archive.name(first)):
                members.append(archive[first])
            first += 1
        return members

    def _text(self, member: Member, suffix: str) -> Any:
        """The text of a member, or the value of a JSON member."""
        if member.size > _LONGEST_TEXT:
            raise DataError(f"{member.name} has {member.size:,} bytes; text is read up to {_LONGEST_TEXT:,} bytes.")
        raw = os.pread(self._opened(), member.size, member.start)
        try:
            text = raw.decode("utf-8")
            return json.loads(text) if suffix == "json" else text
        except (ValueError, RecursionError) as error:
            raise DataError(f"the member {member.name} is damaged: {error}.") from error

    def _opened(self) -> int:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
            self._check_unchanged(stamp_or_refuse(self.path, (SUFFIX,)))
        return self._file

    def _archive(self) -> Archive:
        try:
            return archive_of(self._opened(), self.path)
        except MediaError as error:
            raise DataError(str(error)) from error

    def _check_unchanged(self, stamp: Stamp) -> None:
        if stamp != self._stamp:
            raise DataError(f"{self.path} changed while it was in use. Start again, and do not change data files.")

    def _table(self) -> NDArray[Any]:
        """[N] of `_ROW`, from the cache where it is there."""
        kept = cached("index", (str(self.path), "tar records"), (_FORMAT, *self._stamp), ".npy")
        try:
            rows: NDArray[Any] = np.load(kept, mmap_mode="r", allow_pickle=False)
            if rows.dtype == _ROW and rows.ndim == 1 and len(rows):
                return rows
        except (OSError, ValueError, EOFError, SyntaxError):  # it is not there, or damaged: it is built again
            pass
        rows = np.array(list(self._grouped()), dtype=_ROW)
        if len(rows) and save(kept, lambda file: np.save(file, rows)):
            remove_stale(kept)
        return rows

    def _grouped(self) -> Iterator[tuple[int, int, int, int]]:
        """The values of each row. Members of one stem follow each other."""
        archive = self._archive()
        seen: set[str] = set()
        stem, values = "", [0, 0, 0, 0]
        for k in range(len(archive)):
            member = archive[k]
            if _is_hidden(member.name):
                continue
            key, suffix = split(member.name)
            if not values[1] or key != stem:
                if values[1]:
                    yield (values[0], values[1], values[2], values[3])
                if key in seen:
                    raise DataError(
                        f"{self.path}: the members of {key!r} do not follow each other. Sort the archive by name: "
                        "tar --sort=name."
                    )
                seen.add(key)
                stem, values = key, [k, 0, 0, 0]
            values[1] += 1
            is_text = suffix in TEXTS
            values[2] += min(member.size, 1 << 24) if is_text else 0
            values[3] += not is_text
        if values[1]:
            yield (values[0], values[1], values[2], values[3])


def split(name: str) -> tuple[str, str]:
    """Stem and suffix of a member: the suffix begins at the first dot of the last part, and is in lower case."""
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return str(path.with_name(stem)), suffix.lower()


def _is_hidden(name: str) -> bool:
    """Whether a member is a hidden file, such as those that macOS adds."""
    return PurePosixPath(name).name.startswith(".")
