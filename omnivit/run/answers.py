"""RUN/answers.jsonl: every question of a run's evaluation with the model's answer, one line a question and condition.

It is read without torch. Paths of media are relative to `data.root`, so that the file does not name folders of the
machine. With `data.privacy`, a sample is named by its number, and texts and paths are replaced by hashes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.data.privacy import hidden, without_root
from omnivit.errors import CheckpointError
from omnivit.files import write_text

if TYPE_CHECKING:
    from omnivit.contracts.sample import Media
    from omnivit.evaluate.score import Answered, Score

ANSWERS = "answers.jsonl"
UNKNOWN = "(not given)"
"""The group of a question whose record lacks the key that answers are grouped by."""


@dataclass(frozen=True)
class Medium:
    """A medium that a question was asked with."""

    slot: str
    source: str
    """Its path, relative to `data.root`."""


@dataclass(frozen=True)
class Answer:
    """A question of the evaluation and what the model answered."""

    condition: str
    """`true`, `shuffled` or `none`."""
    id: str
    """Of the sample."""
    origin: str
    """File and line of the record."""
    question: str
    media: tuple[Medium, ...]
    reference: str
    prediction: str
    right: bool
    """Whether the prediction equals the reference, as `accuracy` compares them."""
    group: str | None = None
    """The value of the key that the recipe names in `evaluation.by`."""


def answers_of(scores: Mapping[str, Score], root: str, by: str | None = None) -> list[Answer]:
    """The answers of all conditions.

    Args:
        scores: condition -> score.
        root: `data.root`.
        by: `evaluation.by`.
    """
    return [_answer(condition, each, root, by) for condition, score in scores.items() for each in score.answers]


def write_answers(folder: Path, answers: Sequence[Answer], places: Sequence[str], private: bool) -> None:
    """Write `answers.jsonl` into a run folder, whole or not at all.

    Args:
        folder: of the run.
        answers: of `answers_of`.
        places: number and data source of each.
        private: as `data.privacy`.
    """
    pairs = zip(answers, places, strict=True)
    records = [_withheld(answer, place) if private else answer for answer, place in pairs]
    lines = (json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in records)
    write_text(folder / ANSWERS, "".join(lines))


def read_answers(folder: Path) -> Iterator[Answer]:
    """The answers of a run's evaluation; none where it has not been evaluated.

    Raises:
        CheckpointError: the file is damaged; names the line.
    """
    path = folder / ANSWERS
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record: dict[str, Any] = json.loads(line)
                media = tuple(Medium(**medium) for medium in record.pop("media"))
                yield Answer(media=media, **record)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise CheckpointError(
                    f"{path}, line {number}: this is not an answer ({error}). Evaluate the run again with "
                    f"`omnivit train --resume {folder}`."
                ) from error


def _answer(condition: str, answered: Answered, root: str, by: str | None) -> Answer:
    from omnivit.evaluate.metrics import exact_match

    sample, reference, prediction = answered.sample, answered.reference, answered.prediction
    return Answer(
        condition,
        sample.id,
        without_root(sample.origin, root),
        sample.messages[-1].text,
        tuple(Medium(media.slot, _path(media, root)) for media in sample.media()),
        reference,
        prediction,
        exact_match(prediction, reference),
        None if by is None else str(sample.extra.get(by, UNKNOWN)),
    )


def _path(media: Media, root: str) -> str:
    """A path relative to the data root where it lies inside; a description of what is no path."""
    if not isinstance(media.source, str) or media.root is None:
        return str(media)
    path, base = os.path.join(media.root, media.source), os.path.realpath(root)  # noqa: PTH118
    relative = os.path.relpath(path, base)
    return media.source if relative.startswith("..") else relative


def _withheld(answer: Answer, place: str) -> Answer:
    """The answer without content of its record: equal texts have equal hashes."""
    media = tuple(Medium(medium.slot, hidden(medium.source)) for medium in answer.media)
    texts = hidden(answer.question), media, hidden(answer.reference), hidden(answer.prediction)
    return Answer(
        answer.condition, place, "", *texts, answer.right, None if answer.group is None else hidden(answer.group)
    )
