"""A run's model, asked the questions of a file under one condition and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from omnivit.contracts.reader import Reader
from omnivit.evaluate.heads import head_losses
from omnivit.evaluate.run import GENERATE, ask, gather
from omnivit.evaluate.score import ACCURACY, Answered, Score, metric_named, score
from omnivit.recipe.schema import Choices, Condition
from omnivit.run.assistant import Assistant


def metric_of(assistant: Assistant) -> str:
    """The metric that the recipe of a run names."""
    evaluation = assistant.recipe.evaluation
    return evaluation.metric if evaluation else ACCURACY


def measured(
    assistant: Assistant,
    reader: Reader,
    condition: Condition,
    limit: int | None,
    batch_size: int,
    max_new_tokens: int,
    choices: Choices | None = None,
    answered: Callable[[Sequence[Answered]], None] | None = None,
) -> Score:
    """Ask all questions of a file, and score the answers, which the score contains.

    Args:
        assistant: of the run.
        reader: of the file.
        condition: the media with which each question is asked.
        limit: ask only this number of questions, from the start of the file.
        batch_size: questions that are answered together.
        max_new_tokens: answers are cut there.
        choices: `generate` or `likelihood`; default: as the run's recipe says.
        answered: is given all answers before anything else is computed, so that they can be kept.

    Raises:
        OmniVitError: as `omnivit.evaluate.run.gather` and `ask`.
    """
    metric, evaluation = metric_of(assistant), assistant.recipe.evaluation
    chosen = choices or (evaluation.choices if evaluation else GENERATE)
    metric_named(metric)  # one that is missing is an error before the questions are asked, not after
    questions = gather(reader, limit, assistant)
    answers = ask(assistant, questions.samples, condition, max_new_tokens, batch_size, chosen)
    if answered is not None:
        answered(answers)
    asked = [each.sample for each in answers]
    heads = head_losses(assistant.model, assistant.preparer, asked, questions.samples, batch_size)
    total = score(answers, questions.refused, metric)
    return replace(total, heads=heads, choices=chosen, answers=tuple(answers))
