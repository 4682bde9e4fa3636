"""What a stage says of its answers reaches the tokens: which are learnt, and which tokens they may hold."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import pytest

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Sample
from omnivit.data import prepare
from omnivit.data.collate import EncodedSample
from omnivit.data.records import messages_from
from omnivit.errors import DataError, RecipeError
from omnivit.model.blueprint import ModelBlueprint
from omnivit.model.build import preparer_of
from omnivit.recipe import Recipe
from omnivit.run.assistant import Assistant

TURNS = [
    {"role": "user", "content": "a<|reserved_0|>"},
    {"role": "assistant", "content": "b<|reserved_0|>"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d"},
]
SAMPLE = Sample("s", messages_from(TURNS, None, "test"))
RESERVED = 259
"""The id of `<|reserved_0|>`."""


def learnt(encoded: EncodedSample) -> list[int]:
    return encoded.labels[encoded.labels != IGNORE].tolist()


def test_supervise_and_markup_of_a_stage(
    load_recipe: Callable[..., Recipe], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_REPORTED", set())
    recipe = load_recipe("stages.align.supervise=last", "stages.instruct.markup=['<|reserved_0|>']")
    model = ModelBlueprint.of(recipe).build()
    align, instruct = (preparer_of(model, recipe, stage) for stage in recipe.stages)
    with caplog.at_level(logging.WARNING, "omnivit"):
        align(SAMPLE)
        plain = align(SAMPLE)
    assert learnt(plain) == [ord("d"), 258] and RESERVED not in plain.ids
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        "sample 's': an answer contains '<|reserved_0|>', which is a token of the tokenizer, but the model is trained"
    )
    declared = instruct(SAMPLE)
    assert learnt(declared) == [ord("b"), RESERVED, 258, ord("d"), 258]
    assert declared.ids.tolist().count(RESERVED) == 1  # the user's stays text
    assert len({align.fingerprint(), instruct.fingerprint(), preparer_of(model, recipe).fingerprint()}) == 2
    used = Assistant(model, preparer_of(model, recipe), recipe)
    assert used.preparer(SAMPLE, generate=True).ids.tolist().count(RESERVED) == 1
    with pytest.raises(DataError, match=r"more than 1024 tokens, .* the LLM's context is 1024 tokens"):
        used.ask("word " * 100_000)


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("stages.align.supervise=first", "'first' is not allowed"),
        ("stages.align.markup=['<loc>']", "stages.align.markup: the tokenizer has no token '<loc>'"),
        ("stages.align.markup=['<|im_end|>']", "stages.align.markup: '<|im_end|>' ends an answer"),
        ("stages.align.template=vicuna_1", "stages.align.template: There is no chat template"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_stage(
    load_recipe: Callable[..., Recipe], override: str, error: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(error)):
        recipe = load_recipe(override)
        preparer_of(ModelBlueprint.of(recipe).build(), recipe, recipe.stages[0])
