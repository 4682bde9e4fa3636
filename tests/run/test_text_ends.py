"""Answers that end in text: cut in the text and in its ids, while it is written, each of a batch for itself; and D6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from assistant_support import make_run
from tests_support import COLOURS

import omnivit
from omnivit.contracts.sample import Message, Sample, Text
from omnivit.data.sources import open_mixture
from omnivit.errors import RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import ChatTemplate, Recipe
from omnivit.run.assistant import Assistant
from omnivit.run.check import check
from omnivit.run.listener import Listener
from omnivit.run.stopping import before_stop, cut

Load = Callable[..., Recipe]
TOKENS = 24
OPEN = (
    "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{{ p.text if p.type == 'text' else p.placeholder }}"
    "{% endfor %}{% if m.role == 'assistant' %}END{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""Writes `END` after each answer, and no control token."""


def recipe_with(load_recipe: Load, end: str) -> Recipe:
    recipe = load_recipe()
    recipe.model.llm["template"] = {"jinja": OPEN.replace("END", end), "end": end}
    return recipe


def assistant_of(load_recipe: Load, path: Path, end: str) -> Assistant:
    return omnivit.load(make_run(recipe_with(load_recipe, end), path), device="cpu")


def test_answers_are_cut_at_the_text_in_batches_streams_and_histories(load_recipe: Load, tmp_path: Path) -> None:
    free = assistant_of(load_recipe, tmp_path / "free", "<end>")
    root = Path(free.recipe.data.root)
    images = [root / f"{name}.png" for name in COLOURS]
    answers = [free.ask("Which?", image=image, max_new_tokens=TOKENS) for image in images]
    # two characters that stand inside an answer: what ends answers from now on
    pairs = [answer[k : k + 2] for answer in answers for k in range(2, len(answer) - 3)]
    stop = next(pair for pair in pairs if pair.isascii() and pair.isprintable() and " " not in pair)
    ends = assistant_of(load_recipe, tmp_path / "ends", stop)
    assert ends.preparer.chat.stop_texts == (stop,)
    # a prompt contains no answer, so it is the same, and so is what the model would say
    expected = [answer.split(stop)[0].strip() for answer in answers]
    assert expected != answers
    for image, answer, full in zip(images, expected, answers, strict=True):
        pieces: list[str] = []
        turn = ends.turn("Which?", [("image", image)])
        reply = ends.respond([turn], max_new_tokens=TOKENS, on_text=pieces.append)
        assert reply.text == "".join(pieces) == reply.message.text == answer
        encoded = ends.preparer(Sample("q", (turn,)), generate=True)
        ids = ends.generate([encoded], TOKENS)[0].tolist()
        assert stop in ends.preparer.chat.decode(ids) or answer == full
        assert len(ids) < TOKENS or answer == full, "generation itself stops"
    mixture = open_mixture(ends.recipe.stages[0].data, ends.recipe.data.root)
    samples = [mixture[number] for number in range(6)]
    together = ends.answer(samples, TOKENS, batch_size=6)
    assert together == [text.split(stop)[0].strip() for text in free.answer(samples, TOKENS, batch_size=6)]
    typed = ends.preparer(Sample("q", (ends.turn(f"a{stop}b"),)), generate=True)
    assert f"a{stop}b" in ends.preparer.chat.decode(typed.ids), "what a person types ends nothing"


class Letters:
    """A chat whose tokens are the pieces of `vocabulary`."""

    stop_ids = (0,)
    stop_texts = ("###",)
    vocabulary = ("", "a", "b", "#", "##", "###", "a#", "##b", " ")

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.vocabulary[id] for id in ids)


@pytest.mark.parametrize(
    ("ids", "kept", "text"),
    [
        ([1, 5, 2], [1], "a"),
        ([1, 4, 3, 2], [1], "a"),
        ([1, 2, 6, 7], [1, 2], "aba"),  # the stop text begins and ends inside a token
        ([1, 4, 2], [1, 4, 2], "a##b"),
        ([1, 4, 0, 3], [1, 4], "a##"),
        ([5], [], ""),
        ([], [], ""),
    ],
)
def test_where_an_answer_is_cut(ids: list[int], kept: list[int], text: str) -> None:
    answer = cut(ids, Letters())  # type: ignore[arg-type]
    assert (answer.ids, answer.text) == (kept, text)


def test_half_a_stop_text_is_held_back_until_it_is_known() -> None:
    chat, pieces = Letters(), list[str]()
    listener = Listener(lambda ids: cut(ids, chat).text.strip(), pieces.append, chat.stop_texts)  # type: ignore[arg-type]
    shown = []
    for id in (1, 8, 3, 3, 2, 6, 3, 3):  # "a ##b", "a#", "#", "#"
        listener.put(torch.tensor([id]))
        shown.append("".join(pieces))
    assert shown == ["a", "a", "a", "a", "a ##b", "a ##ba", "a ##ba", "a ##ba"]
    assert before_stop("x##", ("###", "b")) == "x" and before_stop("x##y", ("###",)) == "x##y"


def test_check_warns_of_a_template_that_teaches_no_end(load_recipe: Load, caplog: pytest.LogCaptureFixture) -> None:
    """D6: such a template trained in silence."""
    recipe = load_recipe()
    recipe.model.llm["template"] = OPEN.replace("END", "###\n")
    check(recipe)
    assert "model.llm.template: the template teaches no end of an answer" in caplog.text
    assert "after an answer comes '###\\n'" in caplog.text
    caplog.clear()
    recipe.stages[0].template = ChatTemplate(OPEN.replace("END", ""))
    recipe.stages[1].template = ChatTemplate(OPEN.replace("END", "###\n"), end="###")
    check(recipe)
    assert "stages.align.template: the template teaches no end" in caplog.text and "nothing comes" in caplog.text
    assert "stages.instruct" not in caplog.text


def test_an_end_that_the_template_does_not_write_is_refused(load_recipe: Load) -> None:
    recipe = load_recipe()
    recipe.model.llm["template"] = {"jinja": OPEN.replace("END", "#"), "end": "###"}
    with pytest.raises(RecipeError, match="`end` is '###', but after an answer the template writes '#'"):
        check(recipe)
    recipe.model.llm["template"] = {"jinja": OPEN, "stop": "###"}
    with pytest.raises(RecipeError, match=r"model.llm.template.stop.*unknown key.*Allowed: jinja .*, end .*, bos"):
        check(recipe)


def test_an_answer_that_holds_the_end_is_told_of(load_recipe: Load, caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipe_with(load_recipe, "@@")
    preparer = preparer_of(load_model(recipe), recipe)
    answer = Message("assistant", (Text("a @@ b"),))
    preparer(Sample("s", (Message("user", (Text("q @@"),)), answer), "f:1"))
    assert "an answer contains '@@', which ends answers in this template" in caplog.text
