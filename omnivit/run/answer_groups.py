"""Answers of an evaluation in groups: by class or by a key of the records, and which class is taken for which.

Read without torch, so that the report, the desk and `compare` share it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from omnivit.contracts.metric import Interval
from omnivit.evaluate.intervals import wilson
from omnivit.evaluate.normalise import normalise
from omnivit.run.answers import Answer

MAX_CLASSES = 40
"""More different references than this are no classes."""
MAX_LABEL = 40
"""Characters of the longest reference that can be a class."""
PER_CLASS = 2
"""Questions that a class has on average, at least; else references are answers of their own."""
OTHER, EMPTY = "(other)", "(empty)"
"""Columns of the confusion matrix for answers that are no class."""


@dataclass(frozen=True)
class Group:
    """The questions of one class, or with one value of a key."""

    name: str
    accuracy: Interval
    confused: str | None = None
    """Its most frequent wrong answer, as the model wrote it; None: no answer is wrong."""


@dataclass(frozen=True)
class Confusion:
    """How often the answer `columns[j]` was given where `rows[i]` was right."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    """The rows, then what is no class, where there is such an answer."""
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Frequent:
    """A text and how often it occurs."""

    text: str
    count: int
    n: int

    @property
    def share(self) -> float:
        return self.count / self.n


def first_condition(answers: Sequence[Answer]) -> list[Answer]:
    """The answers with the true media; where these were not asked, those of the first condition."""
    names = {answer.condition for answer in answers}
    condition = "true" if "true" in names else next((answer.condition for answer in answers), "")
    return [answer for answer in answers if answer.condition == condition]


def empty_count(answers: Sequence[Answer]) -> int:
    """How many answers contain nothing but white space."""
    return sum(not answer.prediction.strip() for answer in answers)


def frequent_answer(answers: Sequence[Answer]) -> Frequent:
    """What the model answers most often. There is at least one answer."""
    return _frequent([answer.prediction for answer in answers])


def frequent_reference(answers: Sequence[Answer]) -> Frequent:
    """The reference that is right most often: what a constant answer could reach."""
    return _frequent([answer.reference for answer in answers])


def classes_of(answers: Sequence[Answer]) -> list[str]:
    """The references where they are classes (few, short, repeated), in alphabetical order; else none."""
    spelling = _spellings([answer.reference for answer in answers])
    short = all(0 < len(name) <= MAX_LABEL for name in spelling.values())
    repeated = len(answers) >= PER_CLASS * len(spelling)
    return sorted(spelling.values()) if short and repeated and 2 <= len(spelling) <= MAX_CLASSES else []


def groups_of(answers: Sequence[Answer]) -> list[Group]:
    """The accuracy for each value of the key that answers are grouped by, else for each class; worst first."""
    if any(answer.group is not None for answer in answers):
        names = [answer.group or "" for answer in answers]
    elif classes_of(answers):
        spelling = _spellings([answer.reference for answer in answers])
        names = [spelling[normalise(answer.reference)] for answer in answers]
    else:
        return []
    members: dict[str, list[Answer]] = defaultdict(list)
    for name, answer in zip(names, answers, strict=True):
        members[name].append(answer)
    groups = [Group(name, _accuracy(each), _confused(each)) for name, each in members.items()]
    return sorted(groups, key=lambda group: (group.accuracy.mean, group.name))


def confusion_of(answers: Sequence[Answer]) -> Confusion | None:
    """Which class is taken for which; None where the references are no classes."""
    rows = classes_of(answers)
    if not rows:
        return None
    spelling = _spellings([answer.reference for answer in answers])
    counts: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        key = normalise(answer.prediction)
        given = spelling.get(key, OTHER if answer.prediction.strip() else EMPTY)
        counts[spelling[normalise(answer.reference)], given] += 1
    columns = [*rows, *(name for name in (OTHER, EMPTY) if any(given == name for _, given in counts))]
    table = tuple(tuple(counts[row, column] for column in columns) for row in rows)
    return Confusion(tuple(rows), tuple(columns), table)


def _accuracy(answers: Sequence[Answer]) -> Interval:
    return wilson(sum(answer.right for answer in answers), len(answers))


def _confused(answers: Sequence[Answer]) -> str | None:
    wrong = [answer.prediction.strip() for answer in answers if not answer.right]
    return _frequent(wrong).text if wrong else None


def _frequent(texts: Sequence[str]) -> Frequent:
    spelling = _spellings(texts)
    key, count = Counter(map(normalise, texts)).most_common(1)[0]
    return Frequent(spelling[key], count, len(texts))


def _spellings(texts: Sequence[str]) -> dict[str, str]:
    """Normalised text -> its most frequent spelling."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        counts[normalise(text)][text.strip()] += 1
    return {key: max(sorted(spellings), key=spellings.__getitem__) for key, spellings in counts.items()}
