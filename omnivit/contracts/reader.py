"""The reader contract: a data file in, samples out (entry-point group `omnivit.readers`).

A reader has random access: sample `i` is read and parsed on request. It knows no tensor, no tokenizer and no content of
media; media are references.

N: samples of the file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.card import Plugin
from omnivit.contracts.examples import ReaderExample, no_example
from omnivit.contracts.sample import Sample
from omnivit.errors import RecipeError

Places = NDArray[np.int64] | slice
"""Some samples by their number, or those from one to another."""


class Reader(Plugin, ABC):
    """Samples of one file. Must pickle: a loader worker gets a copy.

    A reader with options has a dataclass `Config` and is constructed as `Reader(path, root, config)`; the options come
    from the recipe: `{path: a.jsonl, reader: NAME, options: {...}}`.
    """

    Config: ClassVar[type[Any] | None] = None
    """A dataclass with the options that a recipe may set, each followed by a docstring; None: there are none."""

    @abstractmethod
    def __init__(self, path: Path, root: Path) -> None:
        """Open a file.

        Args:
            path: the data file.
            root: the folder that the paths of media start from and must stay inside.

        Raises:
            DataError: the file is missing, damaged or empty.
        """

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def __getitem__(self, i: int) -> Sample:
        """Sample `i`, from 0.

        Raises:
            IndexError: there is no sample `i`.
            DataError: the record is invalid; names file and line, the value and what is expected.
        """

    @abstractmethod
    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Approximate bytes of text [N] and number of media [N] of each sample, without parsing one."""

    def lengths_of(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`lengths` of some samples alone; default: those of all are computed and the others left.

        A reader of very large files should compute no more than these: training asks for some thousand at a time.
        """
        text, media = self.lengths()
        return text[places], media[places]

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the content of the file changes."""

    def files(self) -> list[Path]:
        """The files that it reads, where they are not the one file that it was opened with; default: they are."""
        return []

    @abstractmethod
    def where(self, i: int) -> str:
        """The place of sample `i`, as `file:line`."""

    def ignoring(self, keys: Collection[str]) -> Reader:
        """The same reader, but it ignores these keys of turns and parts instead of refusing them.

        Raises:
            RecipeError: there are no such keys, which is the default.
        """
        raise RecipeError(
            f"`ignore: [{', '.join(keys)}]`: the reader {type(self).__name__} has no keys that it can ignore."
        )

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """A data file, and damaged ones, to test the contract with. Write files to `folder`, which is empty.

        Raises:
            PluginError: there is no example, which is the default.
        """
        raise no_example(cls, folder)
