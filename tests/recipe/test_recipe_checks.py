"""What a recipe must fulfil beyond its types."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import pytest
from recipe_support import TINY, refusal, write

from omnivit.errors import RecipeError
from omnivit.recipe.checks import TAKEN
from omnivit.recipe.convert import Where, convert, hints
from omnivit.recipe.ranges import Range
from omnivit.recipe.schema import Condition


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.1.name=Align"], "stages[1].name (command line): 'Align' is also the name of an earlier stage: sta"),
        (["stages.1.name=a/b"], "stages[1].name (command line): 'a/b' cannot name a folder: a name begins with a lett"),
        (["stages.1.name='..'"], "stages[1].name (command line): '..' cannot name a folder"),
        (["stages.1.name='0'"], "stages[1].name (command line): '0' cannot name a folder"),
        (["stages.0.accumulate=3"], "stages[0].batch_size (tiny.yaml:12): 8 is not divisible by accumulate, 3."),
        (["stages.0.accumulate=0"], "stages[0].accumulate (command line): 0 is not a finite number of at least 1."),
        (["stages.0.epochs=0"], "stages[0].epochs (command line): 0 is not"),
        (["stages.0.steps=-1"], "stages[0].steps (command line): -1 is not"),
        (["stages.1.train.llm.*=-1e-5"], "stages[1].train['llm.*'] (command line): -1e-05 is not a finite number"),
        (["stages.1.train.llm.*=.nan"], "stages[1].train['llm.*'] (command line): nan is not a finite number"),
        (["stages.1.train.llm.*=.inf"], "stages[1].train['llm.*'] (command line): inf is not a finite number"),
        (["stages.0.losses.lm=-1"], "stages[0].losses.lm (command line): -1.0 is not"),
        (["stages.0.schedule.name=cosin"], "stages[0].schedule.name (command line): 'cosin' is not allowed; did you m"),
        (["stages.0.schedule.warmup=-0.1"], "stages[0].schedule.warmup (command line): -0.1 is not"),
        (["stages.0.schedule.warmup=1.5"], "stages[0].schedule.warmup (command line): 1.5 is neither a fraction"),
        (["stages.0.schedule.minimum=2"], "stages[0].schedule.minimum (command line): 2.0 is not in [0, 1]."),
        (["stages.0.betas=[0.9, 1]"], "stages[0].betas[1] (command line): 1.0 is not in [0, 1)."),
        (["stages.0.data=[]"], "stages[0].data (command line): is empty"),
        (["stages.0.data.0.weight=0"], "stages[0].data[0].weight (command line): 0.0 is not a finite number above 0."),
        (["stages.0.data.0.limit=0"], "stages[0].data[0].limit (command line): 0 is not"),
        (["stages.0.validation={data: [], every: 1}"], "stages[0].validation.data (command line): is empty"),
        (["data.on_bad_sample=skipp"], "data.on_bad_sample (command line): 'skipp' is not allowed; did you mean 'skip"),
        (["data.skip_budget=1.1"], "data.skip_budget (command line): 1.1 is not in [0, 1]."),
        (["data.skip_budget=.nan"], "data.skip_budget (command line): nan is not in [0, 1]."),
        (["data.max_length=0"], "data.max_length (command line): 0 is not"),
        (["data.workers=-1"], "data.workers (command line): -1 is not"),
        (["seed=-1"], "seed (command line): -1 is not in [0, 4294967295]."),
        (["checkpoint_every=-1"], "checkpoint_every (command line): -1 is neither"),
        (
            ["evaluation={data: [{path: x}], conditions: [true, tru]}"],
            "evaluation.conditions[0] (command line): True is a bool; expected one of 'true', 'shuffled', 'none'. Qu",
        ),
        (
            ["evaluation={data: [{path: x}], conditions: ['true', tru]}"],
            "evaluation.conditions[1] (command line): 'tru' is not allowed; did you mean 'true'? Allowed: 'true', ",
        ),
        (
            ["model.inputs={a.b: {encoder: {name: x}, adapter: {name: y}}}"],
            "model.inputs['a.b'] (command line): the name of an input begins with a letter",
        ),
        (
            ["model.inputs={text: {encoder: {name: x}, adapter: {name: y}}}"],
            "model.inputs.text (command line): an input cannot have the name 'text', which has another meaning in da",
        ),
    ],
)  # fmt: skip
def test_values_out_of_range(overrides: list[str], message: str) -> None:
    assert refusal(write(TINY), *overrides).startswith(message)


def test_a_stage_must_train_something() -> None:
    path = write(TINY.replace('{"adapters.*": 1e-3}', "{}"))
    assert refusal(path).startswith("stages[0].train (tiny.yaml:11): is empty, so nothing would train.")


def test_every_problem_is_listed_at_once() -> None:
    lines = refusal(write(TINY), "data.workers=-1", "stages.0.epochs=0").splitlines()
    assert [line.split(" ")[0] for line in lines] == ["stages[0].epochs", "data.workers"]


def test_a_range_in_the_options_of_a_plugin_is_checked() -> None:
    @dataclass
    class Config:
        depth: Annotated[int, Range(ge=1)] = 2
        drop: Annotated[float, Range(ge=0, lt=1)] | None = None

    assert convert({"depth": 3, "drop": 0}, Config, Where(("model",))) == Config(3, 0.0)
    with pytest.raises(RecipeError, match=r"^model\.depth: 0 is not a finite number of at least 1\.$"):
        convert({"depth": 0, "drop": 1}, Config, Where(("model",)))
    with pytest.raises(RecipeError, match=r"^model\.drop: 1\.0 is not in \[0, 1\)\.$"):
        convert({"drop": 1}, Config, Where(("model",)))
    assert hints(Config) == {"depth": int, "drop": float | None}


def test_the_conditions_of_the_schema_are_those_of_the_evaluation() -> None:
    from omnivit.evaluate.conditions import CONDITIONS

    assert get_args(Condition) == tuple(CONDITIONS)


def test_no_input_takes_the_name_of_an_argument_of_ask() -> None:
    from omnivit.run.assistant import Assistant

    *arguments, media = inspect.signature(Assistant.ask).parameters
    assert media == "media" and set(arguments) <= TAKEN


def test_where_training_begins_is_one_place() -> None:
    path = write(TINY)
    said = refusal(
        path,
        "init_from=[{run: a, file: b.bin}, {parts: [x]}, {file: b.bin, checkpoint: best, merge: true}, "
        "{run: a, tokens: {x: 1}}]",
    )
    assert "init_from[0] (command line): expected exactly one of run, file and lora; given: run, file." in said
    assert "init_from[1] (command line): expected exactly one of run, file and lora; given: none." in said
    assert "init_from[2].checkpoint (command line): only a `run` has checkpoints." in said
    assert "init_from[2].merge (command line): only the LoRA of a `run` or `lora` can be merged." in said
    assert "init_from[3].tokens (command line): is for a `file`." in said
