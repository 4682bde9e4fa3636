"""Examples for the page: samples of the recipe's evaluation data, and their media.

A medium is named by two numbers, so that nothing that these data do not name can be read.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from omnivit.contracts.sample import Frames, Media, Sample
from omnivit.data.mixture import Mixture
from omnivit.data.sources import open_mixture
from omnivit.errors import MediaError, OmniVitError
from omnivit.media import pages
from omnivit.media.locate import files_of
from omnivit.recipe import Recipe
from omnivit.run.trust import require as require_trust
from omnivit.serve.page.content import content_of
from omnivit.serve.page.files import type_of

SPREAD = 64
"""Samples that are looked at for another one to compare with, evenly over the data."""


@dataclass(frozen=True)
class MediumFile:
    """The content of a medium."""

    content: bytes
    type: str


class HeldOut:
    """The evaluation data of a recipe, opened at the first use."""

    def __init__(self, recipe: Recipe, folder: Path | None) -> None:
        self._recipe, self._folder = recipe, folder
        self._lock = threading.Lock()
        self._mixture: Mixture | None = None
        self._note: str | None = None

    def page(self, offset: int, limit: int) -> dict[str, Any]:
        """Samples from a number on, how many there are, and why there are none."""
        mixture = self._opened()
        if mixture is None:
            return {"total": 0, "samples": [], "note": self._note}
        numbers = range(min(offset, len(mixture)), min(offset + limit, len(mixture)))
        return {"total": len(mixture), "samples": [_shown(number, mixture[number]) for number in numbers], "note": None}

    def with_slot(self, slot: str) -> dict[str, Any]:
        """Samples from all over the data that have a medium for a slot."""
        mixture = self._opened()
        if mixture is None:
            return {"total": 0, "samples": [], "note": self._note}
        numbers = sorted({place * len(mixture) // SPREAD for place in range(SPREAD)})
        samples = (_shown(number, mixture[number]) for number in numbers)
        fitting = [sample for sample in samples if any(medium["slot"] == slot for medium in sample["media"])]
        return {"total": len(mixture), "samples": fitting, "note": None}

    def medium(self, index: int, number: int, file: int = 0) -> MediumFile:
        """The content of one file of a medium.

        Raises:
            MediaError: there is no such sample, medium or file, or it is too large.
        """
        mixture = self._opened()
        if mixture is None or not 0 <= index < len(mixture):
            raise MediaError(f"There is no sample {index} in the run's evaluation data.")
        media = _media(mixture[index])
        if not 0 <= number < len(media):
            raise MediaError(f"Sample {index} has {len(media)} media, so there is no medium {number}.")
        files = _files(media[number])
        if not 0 <= file < len(files):
            raise MediaError(f"Medium {number} of sample {index} has {len(files)} files, so there is no file {file}.")
        if pages.SELECTION.search(str(files[file].source)):
            return MediumFile(pages.content_of(files[file]), "application/octet-stream")
        content = content_of(files[file], f"Medium {number} of sample {index}")
        return MediumFile(content, type_of(str(files[file].source)))

    def _opened(self) -> Mixture | None:
        with self._lock:
            if self._mixture is None and self._note is None:
                try:
                    self._mixture = self._open()
                except OmniVitError as error:
                    self._note = f"The run's evaluation data cannot be read here: {error}"
            return self._mixture

    def _open(self) -> Mixture | None:
        evaluation = self._recipe.evaluation
        if evaluation is None:
            self._note = "The recipe has no `evaluation`, so there are no examples."
            return None
        if self._recipe.data.privacy:
            self._note = "The recipe sets `data.privacy`, so its evaluation data are not shown."
            return None
        if self._folder is not None:
            require_trust(self._recipe, False, self._folder)  # a reader may be Python code that the run names
        return open_mixture(evaluation.data, self._recipe.data.root, self._recipe.where("evaluation.data"))


def _shown(index: int, sample: Sample) -> dict[str, Any]:
    """The first question and answer of a sample."""
    question = next((turn.text for turn in sample.messages if turn.role == "user"), "")
    answer = next((turn.text for turn in sample.messages if turn.role == "assistant"), "")
    return {
        "index": index,
        "question": question.strip(),
        "answer": answer.strip(),
        "media": [
            {"slot": medium.slot, "number": number, "files": _names(medium)}
            for number, medium in enumerate(_media(sample))
        ],
    }


def _media(sample: Sample) -> list[Media]:
    """The media of the first question."""
    turn = next((turn for turn in sample.messages if turn.role == "user"), None)
    return [] if turn is None else list(turn.media())


def _files(medium: Media) -> list[Media]:
    """The files of a medium; none where it is an object in memory. Raises MediaError for a folder outside the root."""
    return files_of(medium) if isinstance(medium.source, (str, bytes, Frames, list, tuple)) else []


def _names(medium: Media) -> list[str]:
    """The names of its files, without folders; none where they cannot be read."""
    try:
        return [PurePath(str(file)).name for file in _files(medium)]
    except MediaError:
        return []
