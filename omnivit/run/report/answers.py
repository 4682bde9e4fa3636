"""The part of a report about answers: constant and empty ones, accuracy by class, wrong ones with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.evaluate.confusion_plot import CONFUSION_PLOT
from omnivit.run.answer_groups import (
    Confusion,
    confusion_of,
    empty_count,
    first_condition,
    frequent_answer,
    frequent_reference,
    groups_of,
)
from omnivit.run.answers import Answer
from omnivit.run.markdown import as_code, as_table
from omnivit.run.scores import LABELS, between

if TYPE_CHECKING:
    from omnivit.evaluate.score import Answered

SHOWN = 12
"""Wrong answers that report.md shows."""
PICTURES = "pictures"
"""The folder of their images."""
MAX_GROUPS = 60
"""Groups that report.md lists; report.json has all of them."""
WITHHELD = (
    "`data.privacy` is true, so the report contains no answers, no classes and no pictures: they are content of the "
    "records. [answers.jsonl](answers.jsonl) tells by number which questions were answered correctly."
)


def draw_confusion(folder: Path, answers: Sequence[Answer]) -> Confusion | None:
    """Write confusion.png where references are classes, and return what it shows."""
    from omnivit.evaluate.confusion_plot import plot_confusion

    confusion = confusion_of(first_condition(answers))
    if confusion is not None:
        plot_confusion(folder, confusion.rows, confusion.columns, confusion.counts)
    return confusion


def draw_wrong(
    folder: Path, answers: Sequence[Answer], answered: Sequence[Answered], modalities: Mapping[str, str]
) -> list[tuple[Answer, str]]:
    """Write small images of the media of some wrong answers.

    Args:
        folder: of the run.
        answers: of the first condition.
        answered: the same answers with their media.
        modalities: slot -> modality.

    Returns:
        The wrong answers, spread over all of them, with the path of their image; empty where there is none.
    """
    from omnivit.files import replacing
    from omnivit.run.report.stills import still

    wrong = [number for number, answer in enumerate(answers) if not answer.right]
    chosen = [wrong[k * len(wrong) // SHOWN] for k in range(SHOWN)] if len(wrong) > SHOWN else wrong
    rows: list[tuple[Answer, str]] = []
    for position, number in enumerate(chosen, 1):
        media = next(answered[number].sample.media(), None)
        image = None if media is None else still(media, modalities.get(media.slot, media.slot))
        path = f"{PICTURES}/wrong-{position:02}.png" if image is not None else ""
        if image is not None:
            (folder / PICTURES).mkdir(exist_ok=True)
            with replacing(folder / path) as partial:
                image.save(partial, format="PNG")
        rows.append((answers[number], path))
    return rows


def answers_record(answers: Sequence[Answer], private: bool) -> dict[str, Any]:
    """`answers`, `groups` and `confusion` of report.json."""
    asked = first_condition(answers)
    if not asked:
        return {}
    counts: dict[str, Any] = {
        "condition": asked[0].condition,
        "questions": len(asked),
        "empty": empty_count(asked),
        "most_frequent_answer": frequent_answer(asked).count,
        "most_frequent_reference": frequent_reference(asked).count,
    }
    if private:
        return {"answers": counts}
    counts["most_frequent_answer_text"] = frequent_answer(asked).text
    counts["most_frequent_reference_text"] = frequent_reference(asked).text
    groups = [{"name": group.name, **asdict(group.accuracy), "confused": group.confused} for group in groups_of(asked)]
    confusion = confusion_of(asked)
    record: dict[str, Any] = {"answers": counts}
    record |= {"groups": groups} if groups else {}
    return record | ({"confusion": asdict(confusion)} if confusion is not None else {})


def answers_part(
    answers: Sequence[Answer], wrong: Sequence[tuple[Answer, str]], by: str | None, private: bool
) -> list[str]:
    """Paragraphs and tables of report.md."""
    asked = first_condition(answers)
    if not asked:
        return []
    parts = [_constants(asked, private)]
    if private:
        return [*parts, WITHHELD]
    parts += _groups_part(asked, by)
    if confusion_of(asked) is not None:
        parts.append(f"![Answers by reference]({CONFUSION_PLOT})")
    return parts + _wrong_part(asked, wrong)


def _constants(asked: Sequence[Answer], private: bool) -> str:
    """What a constant answer would reach, what the model says most often, and how many answers are empty."""
    reference, answer, empty = frequent_reference(asked), frequent_answer(asked), empty_count(asked)
    same, most = ("the same", "the same answer") if private else (as_code(reference.text), as_code(answer.text))
    sentences = [
        f"Asked with {LABELS.get(asked[0].condition, asked[0].condition)}: to answer {same} every time would be right "
        f"in {reference.share:.1%}, because it is the most frequent reference.",
        f"The model gives {most} in {answer.share:.1%} of its answers ({answer.count} of {answer.n}).",
        f"{empty} of {len(asked)} answers are empty ({empty / len(asked):.1%})." if empty else "No answer is empty.",
    ]
    return " ".join(sentences)


def _groups_part(asked: Sequence[Answer], by: str | None) -> list[str]:
    groups = groups_of(asked)
    if not groups:
        return []
    title = "Accuracy by class" if by is None else f"Accuracy by {as_code(by)}"
    rows = [
        (as_code(group.name), f"{group.accuracy.mean:.3f}", between(group.accuracy), str(group.accuracy.n),
         "" if group.confused is None else as_code(group.confused))
        for group in groups[:MAX_GROUPS]
    ]  # fmt: skip
    header = ("class" if by is None else by, "accuracy", "95% interval", "questions", "most frequent wrong answer")
    more = [f"and {len(groups) - MAX_GROUPS} more: see report.json."] if len(groups) > MAX_GROUPS else []
    return [f"### {title}", as_table(header, *rows), *more]


def _wrong_part(asked: Sequence[Answer], wrong: Sequence[tuple[Answer, str]]) -> list[str]:
    count = sum(not answer.right for answer in asked)
    if not wrong:
        return ["All answers are in [answers.jsonl](answers.jsonl)."]
    rows = [
        (_shown(answer, path), as_code(answer.question), as_code(answer.reference), as_code(answer.prediction))
        for answer, path in wrong
    ]
    some = f"{len(wrong)} of them" if len(wrong) < count else "all of them"
    return [
        "### Wrong answers",
        f"{count} of {len(asked)} answers are wrong. Here are {some}; [answers.jsonl](answers.jsonl) contains every "
        "answer.",
        as_table(("medium", "question", "reference", "answer"), *rows, left=4),
    ]


def _shown(answer: Answer, path: str) -> str:
    """The image, or the names of the media."""
    names = ", ".join(as_code(medium.source) for medium in answer.media)
    more = f" and {len(answer.media) - 1} more" if len(answer.media) > 1 else ""
    return f"![{answer.media[0].slot}]({path}){more}" if path else names
