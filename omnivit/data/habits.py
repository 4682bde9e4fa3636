"""What a chat template writes around an answer: measured on two short conversations, because Jinja does not say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from omnivit.contracts.sample import Message, Text
from omnivit.data.template import Template
from omnivit.errors import DataError, RecipeError


@dataclass(frozen=True)
class Habits:
    """What a template writes around an answer; empty where it requires more than a question and its answer."""

    opening: str = ""
    """It opens an answer in a prompt."""
    lead: str = ""
    """It comes between the opening and the answer, and is not in the prompt."""
    end: str = ""
    """It ends an answer, and is learnt."""
    open_end: str | None = None
    """All that follows an answer, if no end of it is taught; None: one is, or it is unknown."""


def habits_of(template: Template, end_of: Callable[[str], str]) -> Habits:
    """Measure a template.

    Args:
        template: the template.
        end_of: the template's text after an answer -> the part of it that ends the answer.

    Raises:
        RecipeError: the recipe says how an answer ends, and the template does not write it there.
    """
    question, answer = Message("user", (Text("a"),)), Message("assistant", (Text("b"),))
    try:
        prompt = "".join(segment.text for segment in template.render([question], generate=True))
        without_opening = "".join(segment.text for segment in template.render([question]))
        segments = template.render([question, answer])
    except DataError:  # a template may require more than this; then only the EOS is known
        return Habits()
    opening = prompt[len(without_opening) :] if prompt.startswith(without_opening) else ""
    place = next(index for index, segment in enumerate(segments) if segment.turn == 1)
    before = "".join(segment.text for segment in segments[:place])
    after = "".join(segment.text for segment in segments[place + 1 :])
    end = end_of(after)
    if template.style.stop not in end:
        raise RecipeError(
            f"{template.label}: `end` is {template.style.end!r}, but after an answer the template writes "
            f"{after[:40]!r}. Set `end` to the text that follows each answer."
        )
    lead = before[len(prompt) :] if before.startswith(prompt) else ""
    return Habits(opening, lead, end, None if end else after)
