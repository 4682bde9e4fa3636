"""Records of a Hugging Face data set: a folder from `save_to_disk`, or one on the hub (extra `omnivit[datasets]`).

A data set of the hub is written as `hf://OWNER/NAME`, or `hf://OWNER/NAME@REVISION`; the library downloads it once.
Images and audio are not decoded here: a record has their bytes or their path.

N: rows of the data set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit import stamps
from omnivit.contracts.reader import Places
from omnivit.data.containers.arrow import measure
from omnivit.data.containers.libraries import imported
from omnivit.errors import DataError, suggest

_HUB = "hf:"
SAVED = ({"dataset_info.json", "state.json"}, {"dataset_dict.json"})
"""A folder that `save_to_disk` wrote has the files of one of these."""
_BATCH = 1000


def is_on_hub(path: Path) -> bool:
    """Whether a path is `hf://OWNER/NAME`."""
    return path.parts[:1] == (_HUB,)


def is_saved(path: Path) -> bool:
    """Whether a path is a folder that `save_to_disk` wrote."""
    return any(all((path / name).is_file() for name in names) for names in SAVED)


class DatasetRecords:
    """See `omnivit.data.containers.base.Records`."""

    def __init__(self, path: Path, split: str | None, subset: str | None) -> None:
        """Open a data set.

        Args:
            path: of the folder, or `hf://OWNER/NAME`.
            split: of the data set; None: it has one.
            subset: its configuration on the hub; None: it has one.

        Raises:
            DataError: it is not there, cannot be read, or has several splits.
            PluginError: the library `datasets` is not installed.
        """
        self.place = f"hf://{'/'.join(path.parts[1:])}" if is_on_hub(path) else str(path)
        library = imported("datasets", "datasets", self.place)
        try:
            if is_on_hub(path):
                name, _, revision = "/".join(path.parts[1:]).partition("@")
                opened = library.load_dataset(name, subset, split=split, revision=revision or None)
            else:
                opened = library.load_from_disk(self.place)
        except Exception as error:  # of the library, of the network, of Arrow
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(f"{self.place} cannot be opened as a data set: {text[:300].rstrip('.')}.") from error
        if isinstance(opened, dict):
            opened = _chosen(opened, split, self.place)
        elif split is not None and not is_on_hub(path):
            raise DataError(f"{self.place} has no splits; remove the option `split`.")
        self._rows = opened.with_format("arrow")
        self._lengths: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, i: int) -> dict[str, Any]:
        try:
            record: dict[str, Any] = self._rows[i].to_pylist()[0]
        except Exception as error:
            raise DataError(f"the row cannot be read: {error}") from error
        return record

    def name(self, i: int) -> str | None:
        del i
        return None

    def where(self, i: int) -> str:
        """`folder:row`, from 1."""
        return f"{self.place}:{i + 1}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lengths": None}

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._lengths is None:
            parts = [measure(table) for table in self._rows.iter(batch_size=_BATCH)]
            text, media = ([part[number] for part in parts] for number in (0, 1))
            self._lengths = np.concatenate(text), np.concatenate(media)
        return self._lengths

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All rows are measured at the first call: Arrow has no index of their sizes."""
        text, media = self.lengths()
        return text[places], media[places]

    def fingerprint(self) -> str:
        files = [stamps.fingerprint(file) for file in self.files()]
        return stamps.joined([*files, str(len(self))]) if files else f"rows:{self._rows._fingerprint}"

    def files(self) -> list[Path]:
        return [Path(file["filename"]) for file in self._rows.cache_files]


def _chosen(splits: dict[str, Any], split: str | None, place: str) -> Any:
    """The split of a data set with several."""
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        given = "which one to read is not given" if split is None else f"it has no split {split!r}"
        raise DataError(f"{place}: {given}. Write `options: {{split: NAME}}`; {suggest(split or '', splits)}")
    return splits[split]
