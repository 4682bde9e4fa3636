"""What an evaluation shares with the training data: its score on that says little about new questions and media.

A question is shared if a stage trains on it with the same media and answer. A medium is shared if a stage trains on a
file with the same bytes, under whatever name and with whatever question. Files of different sizes differ; of those of
equal size, the ends are compared, and then a hash of the content (blocks of files above 256 MiB). Members of tar
archives are compared by their names alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omnivit.contracts.sample import Boxes, Media, Points, Prompt, Sample, Target, Text, Token
from omnivit.data.mixture import Mixture
from omnivit.data.sources import open_mixture
from omnivit.errors import MediaError
from omnivit.media.locate import files_of
from omnivit.recipe import Recipe
from omnivit.stamps import content_hash, stamp_of


@dataclass
class Content:
    """The questions of samples, and the files of their media."""

    keys: set[bytes] = field(default_factory=set)
    """Of each sample, `key_of`."""
    files: set[str] = field(default_factory=set)
    """Paths, or hashes of what is no file."""

    def add(self, sample: Sample) -> None:
        """Note a sample."""
        self.keys.add(key_of(sample))
        for media in sample.media():
            self.files.update(_names(media))

    def __or__(self, other: Content) -> Content:
        return Content(self.keys | other.keys, self.files | other.files)


@dataclass(frozen=True)
class Overlap:
    """How many questions and media files of an evaluation there are, and how many of them a stage trains on too."""

    questions: int
    """Different ones."""
    trained_questions: int
    media: int
    """Different files."""
    trained_media: int

    @property
    def any(self) -> bool:
        """Whether there is an overlap."""
        return bool(self.trained_questions or self.trained_media)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """The same in words."""
        if not self.any:
            media = " and none of its media" if self.media else ""
            return [f"No question of the evaluation{media} is in the training data."]
        lines = []
        if self.trained_questions:
            lines.append(
                f"{self.trained_questions} of {self.questions} different questions are in the training data too, with "
                "the same media and answer."
            )
        if self.trained_media:
            lines.append(
                f"{self.trained_media} of {self.media} media files of the evaluation have the content of a file that a "
                "stage trains on, perhaps under another name or with another question."
            )
        return [*lines, "Scores on them say little about new data."]


def overlap_of(trained: Content, asked: Content) -> Overlap:
    """Compare an evaluation with the training data; reads only files that may be equal."""
    shared = shared_files(trained.files, asked.files)
    return Overlap(len(asked.keys), len(asked.keys & trained.keys), len(asked.files), len(shared))


def overlap_of_run(recipe: Recipe, mixtures: Mapping[str, Mixture]) -> Overlap | None:
    """The overlap of a recipe's evaluation with its stages; None without an evaluation.

    Args:
        recipe: of the run.
        mixtures: the data of its stages.
    """
    if recipe.evaluation is None:
        return None
    trained, asked = Content(), Content()
    for mixture in mixtures.values():
        for sample in _good(mixture):
            trained.add(sample)
    for sample in _good(open_mixture(recipe.evaluation.data, recipe.data.root, recipe.where("evaluation.data"))):
        asked.add(sample)
    return overlap_of(trained, asked)


def key_of(sample: Sample) -> bytes:
    """What a sample asks, shows and answers, as 16 bytes: two of equal keys are the same exercise."""
    parts: list[tuple[str, str]] = []
    for turn in sample.messages:
        for part in turn.parts:
            if isinstance(part, Text):
                parts.append((turn.role, part.text.strip()))
            elif isinstance(part, Token):
                parts.append((Token.__name__, part.token))
            elif isinstance(part, (Boxes, Points)):
                parts.append((turn.role, repr(part)))
            elif isinstance(part, (Media, Target)):
                parts.append((type(part).__name__, f"{part.root}/{part}"))
            elif isinstance(part, Prompt):
                parts.append((part.task, repr(sorted(part.fields.items()))))
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shared_files(trained: Iterable[str], asked: Iterable[str]) -> set[str]:
    """The files of `asked` that `trained` has too: the same path, or the same bytes."""
    known, asked = set(trained), set(asked)
    shared = asked & known
    # each step keeps the files that still may be equal, so that most files are never opened
    for compare in (_size, _ends, _whole):
        left = _by(asked - shared, compare)
        there = _by(known, compare, left)
        known = {path for paths in there.values() for path in paths}
        asked = shared | {path for key, paths in left.items() if key in there for path in paths}
    return asked


def _by(
    paths: Iterable[str], compare: Callable[[str], object], only: Mapping[object, list[str]] | None = None
) -> dict[object, list[str]]:
    """Paths by what `compare` gives; without those for which it gives None, or nothing that is in `only`."""
    groups: dict[object, list[str]] = {}
    if only is not None and not only:
        return groups
    for path in paths:
        try:
            key = compare(path)
        except OSError:  # no file of its own: absent, or a member of an archive
            continue
        if only is None or key in only:
            groups.setdefault(key, []).append(path)
    return groups


def _size(path: str) -> object:
    return os.stat(path).st_size  # noqa: PTH116  (for every medium: twice as fast)


def _ends(path: str) -> object:
    with Path(path).open("rb") as file:
        stamp = stamp_of(file.fileno())
    return stamp.size, stamp.edges


def _whole(path: str) -> object:
    return content_hash(Path(path))


def _names(media: Media) -> Iterator[str]:
    """The paths of a medium's files; of one that is in memory, a hash."""
    try:
        files = files_of(media)
    except MediaError:  # training meets it
        return
    for file in files:
        if isinstance(file.source, bytes):
            yield f"bytes {hashlib.blake2b(file.source, digest_size=16).hexdigest()}"
        elif isinstance(file.source, str | os.PathLike):
            yield os.path.normpath(os.path.join(file.root or "", os.fspath(file.source)))  # noqa: PTH118


def _good(mixture: Mixture) -> Iterator[Sample]:
    """The samples that can be read."""
    for index in range(len(mixture)):
        try:
            yield mixture[index]
        except Exception:  # whatever a stranger's reader raises: training has met it
            continue
