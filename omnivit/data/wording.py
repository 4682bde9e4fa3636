"""Questions without words -> questions with words, drawn from the wordings of the recipe.

Many data sets have images and answers, but no questions; their papers draw the question from a list ("describe the
image", "what is in this photo?"), or put the question of a record into a sentence that is drawn. Here a reader leaves a
`Prompt` in the question, or the question stands as it is, and the recipe's `prompts` give the words:

- training draws one wording for each sample and epoch, as a function of (seed, epoch, sample id), so that a run that is
  resumed draws the same; evaluation and answers use the first;
- `{name}` in a wording is a field of the prompt; `{question}` is the question that the record has; `{media}`, or the
  name of an input, is the place of the question's media. `{{` and `}}` are braces. Without such a place, media stay
  where the record has them.

A field must be there for all wordings of a task, not only for the one that is drawn: a mistake shows at once.
The system text that a stage gives to a task is added here too. This module knows no tokenizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from omnivit.contracts.sample import Message, Prompt, Sample, Text
from omnivit.data.worded_turn import Turn, Wording, check_wordings, named, parsed
from omnivit.errors import DataError
from omnivit.recipe import Recipe, Stage
from omnivit.recipe.convert import Where
from omnivit.recipe.prompts import ANY_TASK, wordings
from omnivit.recipe.schema import Prompts
from omnivit.seeds import derive_seed

Bank = Mapping[str, Sequence[str]]
"""Task -> its wordings; `*`: of every task without its own."""


@dataclass(frozen=True)
class Wordings:
    """What a stage says about its samples' questions: their words, and the system text."""

    prompts: Bank | None = None
    """Wordings for samples whose data source has none."""
    system: Mapping[str, str] = field(default_factory=dict)
    """Task -> system text; `*`: of every other sample."""
    in_use: bool = False
    """True: a question of somebody who uses the model. It has the words of this person, and gets those of the stages
    only for a task that it names."""
    longest: bool = False
    """True: the longest wording in place of the first, to learn how long samples can become."""

    def __call__(self, sample: Sample, seed: int | None = None) -> Sample:
        """The sample with words for its questions, and with its system text.

        Args:
            sample: from a reader.
            seed: of (run, epoch); None: the first wording.

        Raises:
            DataError: there is no wording for a question, or it needs a field or a medium that the sample lacks.
        """
        if sample.worded or not (self.prompts or self.system or sample.prompts or _prompts_in(sample)):
            return sample
        messages = [self._message(sample, number, seed) for number in range(len(sample.messages))]
        return replace(sample, messages=(*self._system(sample), *messages), worded=True)

    def fingerprint(self) -> str:
        """Changes with every text; empty if there is none."""
        if not (self.prompts or self.system):
            return ""
        texts = repr((self.prompts and dict(self.prompts), dict(self.system)))
        return hashlib.sha256(texts.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def _message(self, sample: Sample, number: int, seed: int | None) -> Message:
        message = sample.messages[number]
        places = [place for place, part in enumerate(message.parts) if isinstance(part, Prompt)]
        if places:
            if len(places) > 1 or message.role != "user":
                raise DataError(
                    f"message {number + 1} ({message.role}) contains {len(places)} prompts; expected at most one, in a "
                    "turn of the user."
                )
            prompt = message.parts[places[0]]
            assert isinstance(prompt, Prompt)
            task = prompt.task or _task_of(sample)
            words = self._drawn(self._for_prompt(sample, task), sample, number, seed)
            return replace(
                message, parts=Turn.around(message, places[0], prompt.fields, task).worded(words, self.longest)
            )
        if number != _first_question(sample) or _prompts_in(sample):
            return message
        texts = self._for_question(sample)
        if texts is None:
            return message
        turn = Turn.of(message, _task_of(sample))
        return replace(message, parts=turn.worded(self._drawn(texts, sample, number, seed), self.longest))

    def _for_prompt(self, sample: Sample, task: str) -> Sequence[str]:
        """The wordings of a prompt."""
        banks = [bank for bank in (sample.prompts, self.prompts) if bank is not None]
        for bank in banks:
            if (texts := _of_task(bank, task)) is not None:
                return texts
        known = ", ".join(repr(name) for bank in banks for name in bank)
        raise DataError(
            f"the question has no words of its own, and there is no wording for {named(task)}. Available: "
            f"{known or 'none'}. Set `prompts` in the stage or at its data source: a list, or a mapping from tasks to "
            "lists."
        )

    def _for_question(self, sample: Sample) -> Sequence[str] | None:
        """The wordings of a question that has its own text; None: it stays as it is."""
        task = _task_of(sample)
        if sample.prompts is not None:
            texts = _of_task(sample.prompts, task)
            if texts is None:
                raise DataError(
                    f"the data source has `prompts`, but none for {named(task)}. Available: "
                    f"{', '.join(map(repr, sample.prompts))}. Add the task, or `{ANY_TASK}` for any task."
                )
            return texts
        if self.prompts is None:
            return None
        return self.prompts.get(task) if self.in_use else _of_task(self.prompts, task)

    def _drawn(self, texts: Sequence[str], sample: Sample, number: int, seed: int | None) -> list[Wording]:
        """All wordings, the one to use first."""
        first = 0 if seed is None else derive_seed(seed, sample.id, "prompt", number) % len(texts)
        return [parsed(text) for text in (texts[first], *texts[:first], *texts[first + 1 :])]

    def _system(self, sample: Sample) -> Iterator[Message]:
        if not self.system:
            return
        task = _task_of(sample)
        text = self.system.get(task, self.system.get(ANY_TASK))
        if text is None:
            if not task:
                return
            raise DataError(
                f"`system` has no text for {named(task)}. Available: {', '.join(map(repr, self.system))}. Add the "
                f"task, or `{ANY_TASK}` for all others."
            )
        if any(message.role == "system" for message in sample.messages):
            raise DataError(
                f"the record has a system text, and the stage's `system` has one for {named(task)}. Keep one of them."
            )
        yield Message("system", (Text(text),))


def bank_of(prompts: Prompts, root: str | Path, where: Where) -> dict[str, list[str]]:
    """Task -> wordings, of the `prompts` of a stage or of a data source at a place of the recipe.

    Raises:
        RecipeError: a file cannot be read, or a wording has a wrong placeholder.
    """
    bank = wordings(prompts, root, where)
    for task, texts in bank.items():
        check_wordings(texts, where if task == ANY_TASK else where / task)
    return bank


def wordings_of(recipe: Recipe, stage: Stage | None) -> Wordings:
    """The wordings of a stage; None, for a model in use: of all stages, of which the last with a task decides.

    Raises:
        RecipeError: a file of wordings cannot be read.
    """
    stages = recipe.stages if stage is None else [stage]
    prompts: dict[str, list[str]] = {}
    system: dict[str, str] = {}
    for each in stages:
        if each.prompts is not None:
            prompts |= bank_of(each.prompts, recipe.data.root, recipe.where("stages") / each.name / "prompts")
        system |= each.system
    return Wordings(prompts or None, system, in_use=stage is None)


def _task_of(sample: Sample) -> str:
    """The task of a sample: the one of its record, else that of its first prompt; empty: none."""
    task = sample.extra.get("task")
    if task is None or task == "":
        parts = (part for message in sample.messages for part in message.parts)
        return next((part.task for part in parts if isinstance(part, Prompt)), "")
    return str(task)


def _of_task(bank: Bank, task: str) -> Sequence[str] | None:
    return bank.get(task, bank.get(ANY_TASK))


def _prompts_in(sample: Sample) -> bool:
    return any(isinstance(part, Prompt) for message in sample.messages for part in message.parts)


def _first_question(sample: Sample) -> int:
    """The number of the first message of the user; -1: there is none."""
    return next((number for number, message in enumerate(sample.messages) if message.role == "user"), -1)
