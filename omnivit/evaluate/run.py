"""Ask a model every question of a file under each condition, and score the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from omnivit.console import Display, Pace, track
from omnivit.contracts.reader import Reader
from omnivit.contracts.sample import Sample
from omnivit.data import privacy
from omnivit.data.prepare import Preparer
from omnivit.data.sources import open_source, skips_allowed
from omnivit.errors import DataError, PluginError, RecipeError, suggest
from omnivit.evaluate.choosing import candidates_of, choose
from omnivit.evaluate.conditions import CONDITIONS, check_conditions, question, reference
from omnivit.evaluate.heads import head_losses
from omnivit.evaluate.probe import linear_probe
from omnivit.evaluate.score import ACCURACY, Answered, Score, metric_named, score
from omnivit.model.omni import OmniModel
from omnivit.recipe import DataSource, Evaluation, Recipe
from omnivit.recipe.convert import Where
from omnivit.recipe.schema import Choices

LINEAR_PROBE = "linear_probe"
GENERATE: Choices = "generate"
"""How questions are answered unless the recipe names another way."""


class Answerer(Protocol):
    """What is evaluated: `omnivit.run.assistant.Assistant`, or any object with the same methods."""

    @property
    def model(self) -> OmniModel: ...
    @property
    def preparer(self) -> Preparer: ...
    @property
    def recipe(self) -> Recipe: ...
    def answer(
        self, samples: Sequence[Sample], max_new_tokens: int, batch_size: int, answered: Callable[[int], None]
    ) -> list[str]: ...
    def score_samples(
        self, samples: Sequence[Sample], batch_size: int, scored: Callable[[int], None] | None = None
    ) -> list[Tensor]: ...


@dataclass(frozen=True)
class Questions:
    """The good samples of one file, and why the others were refused."""

    samples: tuple[Sample, ...]
    refused: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    """Of the samples in their file, from 0."""


def evaluate(assistant: Answerer, evaluation: Evaluation, data_root: str | Path) -> dict[str, Score]:
    """Score the model under each condition, and a linear probe on its features if the recipe gives its samples.

    Returns:
        Condition -> score, in the order of the recipe; then `linear_probe`.

    Raises:
        RecipeError: an unknown condition, no data, or an unknown option of a reader.
        DataError: a bad sample, or more of them than the recipe allows to be skipped.
    """
    check_evaluation(evaluation, data_root, assistant.recipe.where("evaluation"))
    files = [_open(source, data_root, assistant) for source in evaluation.data]
    scores: dict[str, Score] = {}
    for name in evaluation.conditions:
        answered = [_ask_file(assistant, evaluation, number, file, name) for number, file in enumerate(files)]
        everything = tuple(each for part in answered for each in part)
        total = score(everything, _refused(files), evaluation.metric)
        parts = {source.path: score(part) for source, part in zip(evaluation.data, answered, strict=True)}
        asked = [each.sample for each in everything]
        heads = head_losses(assistant.model, assistant.preparer, asked, _joined(files), evaluation.batch_size)
        by_file = parts if len(parts) > 1 else {}
        scores[name] = replace(total, by_file=by_file, heads=heads, choices=evaluation.choices, answers=everything)
    if evaluation.linear_probe:
        train = [_open(source, data_root, assistant) for source in evaluation.linear_probe]
        accuracy = linear_probe(
            assistant.model, assistant.preparer.slots, _joined(train), _joined(files), evaluation.batch_size,
            assistant.recipe.seed,
        )  # fmt: skip
        scores[LINEAR_PROBE] = Score({ACCURACY: accuracy}, _refused([*train, *files]))
    return scores


def check_evaluation(evaluation: Evaluation, data_root: str | Path, where: Where | None = None) -> None:
    """Check an evaluation as far as that needs no model, so that mistakes show before training.

    Args:
        evaluation: of a recipe.
        data_root: `data.root`.
        where: its place in the recipe, for errors.

    Raises:
        RecipeError: an unknown condition, or no data.
        PluginError: an unknown metric, or one that cannot be used.
        DataError: a data file is missing or lies outside the root, or questions lack the candidates that their answers
            are chosen from.
    """
    check_conditions(evaluation.conditions)
    if not evaluation.data:
        raise RecipeError("evaluation.data: the list is empty. Add a data source, or remove `evaluation`.")
    try:
        metric_named(evaluation.metric)
    except PluginError as error:
        raise PluginError(f"evaluation.metric: {error}") from error
    place = where or Where(("evaluation",))
    for name, sources in (("data", evaluation.data), ("linear_probe", evaluation.linear_probe)):
        for number, source in enumerate(sources):
            reader = open_source(source, data_root, place / name / number)
            if name == "data" and evaluation.choices != GENERATE:
                _check_choices(reader, source.limit)
            if name == "data" and evaluation.by is not None:
                _check_key(reader, evaluation.by, place / "by")


def _check_key(reader: Reader, key: str, where: Where) -> None:
    """Raise RecipeError where the first good record of a file lacks the key that answers are grouped by."""
    for number in range(len(reader)):
        try:
            keys = reader[number].extra
        except DataError:
            continue
        if key not in keys:
            raise RecipeError(f"{where}: the records have no key {key!r} beside their messages; {suggest(key, keys)}")
        return


def _check_choices(reader: Reader, limit: int | None) -> None:
    """Raise DataError where the questions of a file have no candidates; bad samples are left to `gather`."""
    samples, references = [], []
    for number in range(len(reader) if limit is None else min(limit, len(reader))):
        try:
            sample = reader[number]
            answer = reference(sample)
        except DataError:
            continue
        samples.append(sample)
        references.append(answer)
    if samples:
        candidates_of(samples, references)


def gather(reader: Reader, limit: int | None, assistant: Answerer) -> Questions:
    """Read a file's samples, and leave out bad ones where the recipe says `data.on_bad_sample: skip`.

    Raises:
        DataError: a bad sample, more of them than `data.skip_budget` allows, or no good one.
    """
    data = assistant.recipe.data
    skip = data.on_bad_sample == "skip"
    count = len(reader) if limit is None else min(limit, len(reader))
    samples, numbers, refused = [], [], []
    for i in track(range(count), "reading questions", "question", patient=True):
        try:
            samples.append(_checked(reader[i], assistant.preparer, media=skip))
            numbers.append(i)
        except DataError as error:
            if not skip:
                raise
            refused.append(privacy.reason(error, f"sample {i} of {count}", data.privacy, data.root))
    if len(refused) > skips_allowed(data, count):
        raise DataError(
            f"{len(refused)} of {count} samples are bad, more than `data.skip_budget: {data.skip_budget}` allows. The "
            f"last one: {refused[-1]}"
        )
    if not samples:
        why = f"All {count} are bad. The last one: {refused[-1]}" if refused else "`limit` is 0."
        raise DataError(f"There is no sample to evaluate. {why}")
    return Questions(tuple(samples), tuple(refused), tuple(numbers))


def ask(
    assistant: Answerer,
    samples: Sequence[Sample],
    condition: str,
    max_new_tokens: int,
    batch_size: int,
    choices: Choices = GENERATE,
) -> list[Answered]:
    """Ask the questions of one file's samples under a condition.

    Args:
        assistant: answers greedily.
        samples: with their last answer.
        condition: a key of `CONDITIONS`.
        max_new_tokens: longest answer.
        batch_size: questions that are answered together, or candidates that are scored together.
        choices: `generate`: the model writes its answers; `likelihood`: it chooses among candidates.
    """
    asked = CONDITIONS[condition]([question(sample) for sample in samples], assistant.recipe.seed)
    chat = assistant.preparer.chat
    tokens = {head: chat.decode([id]) for head, id in chat.token_ids().items()}  # as answers show them
    references = [reference(sample, tokens) for sample in samples]
    candidates = [] if choices == GENERATE else candidates_of(samples, references)
    count, noun = (sum(map(len, candidates)), "candidate") if candidates else (len(asked), "question")
    pace = Pace()
    with Display(f"asking ({condition})", count, noun) as display:

        def done(number: int) -> None:
            display.show(number, pace.text(number, count, noun))

        if candidates:
            answers = choose(assistant, asked, candidates, batch_size, done)
        else:
            answers = assistant.answer(asked, max_new_tokens, batch_size, done)
    return [Answered(*each) for each in zip(asked, references, answers, strict=True)]


def _ask_file(
    assistant: Answerer, evaluation: Evaluation, file_number: int, questions: Questions, condition: str
) -> list[Answered]:
    """Ask the questions of one file; each answer knows its place in the recipe's data."""
    settings = evaluation.max_new_tokens, evaluation.batch_size, evaluation.choices
    answered = ask(assistant, questions.samples, condition, *settings)
    return [
        replace(each, place=f"sample {number} of evaluation.data[{file_number}]")
        for each, number in zip(answered, questions.numbers, strict=True)
    ]


def _open(source: DataSource, data_root: str | Path, assistant: Answerer) -> Questions:
    return gather(open_source(source, data_root), source.limit, assistant)


def _checked(sample: Sample, preparer: Preparer, media: bool) -> Sample:
    """The sample with all words and boxes as text: under every condition they are those of its own media."""
    try:
        sample = preparer.resolved(sample)
    except DataError as error:
        raise type(error)(f"{sample}: {error}") from error
    asked = question(sample)
    if media:
        preparer(asked, generate=True)
        if preparer.heads:
            replace(preparer, reads_targets=True)(sample)
    return sample


def _joined(files: Sequence[Questions]) -> list[Sample]:
    return [sample for file in files for sample in file.samples]


def _refused(files: Sequence[Questions]) -> tuple[str, ...]:
    return tuple(reason for file in files for reason in file.refused)
