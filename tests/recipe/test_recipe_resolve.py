"""Interpolation: values, variables, circles and bombs."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_support import TINY, refusal, write

from omnivit.recipe import load


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_interpolation_of_values_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIVIT_TEST_SIZE", "24")
    monkeypatch.delenv("OMNIVIT_TEST_UNSET", raising=False)
    recipe = load(
        write(TINY + "trainer: {a: '${data.root}/x', b: '${oc.env:OMNIVIT_TEST_UNSET,no}', c: '${.b}!', d: '\\${x}'}"),
        ["stages.0.batch_size=${oc.env:OMNIVIT_TEST_SIZE}", "stages.1.batch_size=${stages[0].batch_size}",
         "stages.1.data=${stages.0.data}", "checkpoint_every=${data.workers}"],
    )  # fmt: skip
    assert recipe.trainer == {"a": f"{tmp_path}/x", "b": "no", "c": "no!", "d": "${x}"}
    assert [stage.batch_size for stage in recipe.stages] == [24, 24]
    assert recipe.stages[1].data == recipe.stages[0].data
    assert recipe.checkpoint_every == 2  # a default may be referred to


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "${data.rot}",
            "trainer.a (tiny.yaml:16): ${data.rot} refers to nothing: data has no 'rot'; did you mean 'root'? "
            "Available: root, max_length,",
        ),
        (
            "${oc.env:OMNIVIT_TEST_UNSET}",
            "trainer.a (tiny.yaml:16): the environment variable OMNIVIT_TEST_UNSET is not set.",
        ),
        ("${.a}", "trainer.a (tiny.yaml:16): interpolations refer to one another in a circle: trainer.a -> trainer.a."),
        (
            "${trainer}",
            "trainer (tiny.yaml:16): interpolations refer to one another in a circle: trainer -> trainer.a -> trainer.",
        ),
        ("${oc.create:x}", "trainer.a (tiny.yaml:16): '${oc.create:x}' contains an interpolation that is not valid."),
        ("${a.${b}}", "trainer.a (tiny.yaml:16): '${a.${b}}' contains an interpolation that is not valid."),
        ("${data.root", "trainer.a (tiny.yaml:16): '${data.root' contains an interpolation that is not valid."),
    ],
)
def test_an_interpolation_that_stands_for_nothing(said: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMNIVIT_TEST_UNSET", raising=False)
    assert refusal(write(TINY + f"trainer: {{a: '{said}'}}\n")).startswith(message)


def test_an_interpolated_value_has_the_wanted_type_too() -> None:
    message = refusal(write(TINY), "stages.0.batch_size=${data.root}")
    assert message.startswith("stages[0].batch_size (command line): ")
    assert message.endswith("is a str; expected int.")


def test_doublings_are_added_up_not_carried_out() -> None:
    lines = [f"  k{i}: '${{.k{i - 1}}}${{.k{i - 1}}}'" for i in range(1, 13)]
    text = "\n".join(["trainer:", "  k0: '" + "x" * 1000 + "'", *lines, ""])
    assert refusal(write(TINY + text)).startswith("trainer.k10 (tiny.yaml:27): expands to more than 1,000,000 char")


def test_long_chains_of_interpolations_are_refused() -> None:
    lines = [f"  k{i}: '${{.k{i + 1}}}'" for i in range(40)]
    text = "\n".join(["trainer:", *lines, "  k40: x", ""])
    assert refusal(write(TINY + text)).endswith("more than 16 interpolations refer to one another.")
