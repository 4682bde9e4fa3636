"""Closed questions answered by likelihood: which candidates there are, and which is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from assistant_support import make_run
from tests_support import COLOURS, picture_record, write_jsonl
from torch import Tensor

import omnivit
from omnivit.contracts.sample import Message, Sample, Text
from omnivit.data.collate import collate
from omnivit.errors import DataError
from omnivit.evaluate.choosing import candidates_of, choose
from omnivit.evaluate.run import check_evaluation, evaluate
from omnivit.recipe import DataSource, Evaluation, Recipe
from omnivit.run.report import as_record
from omnivit.run.scores import CHOSEN, notes


def asked(name: str, choices: object = None) -> Sample:
    extra = {} if choices is None else {"choices": choices}
    return Sample(name, (Message("user", (Text("Which?"),)),), "f.jsonl:1", extra)


class Rehearsed:
    """Scores answers by a table: text -> log-probabilities of its tokens."""

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.table = table

    def score_samples(
        self, samples: Sequence[Sample], batch_size: int, scored: Callable[[int], None] | None = None
    ) -> list[Tensor]:
        assert batch_size == 4 and scored is None and all(sample.messages[-1].role == "assistant" for sample in samples)
        return [torch.tensor(self.table[sample.messages[-1].text]) for sample in samples]


def test_candidates_are_the_choices_of_a_record_or_all_answers_of_the_file() -> None:
    assert candidates_of([asked("a", ["x ", "y"])], ["x"]) == [("x", "y")]
    assert candidates_of([asked("a"), asked("b"), asked("c")], ["y", "x ", "y"]) == [("x", "y")] * 3


@pytest.mark.parametrize(
    ("samples", "references", "problem"),
    [
        ([asked("a", ["x"]), asked("b")], ["x", "x"], r"'b' \(f.jsonl:1\): the record has no `choices`"),
        ([asked("a", "xy")], ["x"], "has an unusable `choices`"),
        ([asked("a", [])], ["x"], "has an unusable `choices`"),
        ([asked("a", ["y", "z"])], ["x"], "the answer 'x' is not in the `choices` of the record: 'y', 'z'"),
        ([asked(str(k)) for k in range(1001)], [str(k) for k in range(1001)], "1,001 different answers"),
    ],
)
def test_candidates_that_cannot_be_are_refused(samples: list[Sample], references: list[str], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        candidates_of(samples, references)


def test_the_sum_decides_and_the_first_of_equals() -> None:
    """Not the mean: `b` has the better token on average, `a` the better sum."""
    scorer = Rehearsed({"a": [-1.0], "b": [-0.6, -0.6], "c": [-1.0]})
    candidates = [("b", "a", "c"), ("c", "a"), ("b",)]
    assert choose(scorer, [asked("1"), asked("2"), asked("3")], candidates, 4) == ["a", "c", "b"]


@pytest.fixture
def assistant(load_recipe: Callable[..., Recipe], tmp_path: Path) -> omnivit.Assistant:
    return omnivit.load(make_run(load_recipe(), tmp_path / "run"), device="cpu")


def test_scores_are_the_losses_of_transformers(assistant: omnivit.Assistant, data_root: Path) -> None:
    """The loss of `LlamaForCausalLM` on the same embeddings is the mean over the answer's tokens and its end."""
    turn = assistant.turn("Which colour?", [("image", data_root / "red.png")])
    samples = [Sample(text, (turn, Message("assistant", (Text(text),)))) for text in ("red", "a dark green", "blue")]
    scores = assistant.score_samples(samples, batch_size=3)
    for sample, score in zip(samples, scores, strict=True):
        encoded = assistant.preparer(sample)
        batch = collate([encoded], assistant.slots, 0)
        with torch.no_grad():
            embeds = assistant.model.embed(batch)[0]
            loss = assistant.model.llm.hf(inputs_embeds=embeds, labels=batch.labels).loss
        assert float(score.sum()) == pytest.approx(-float(loss) * len(score), abs=1e-5 * len(score))


def test_an_evaluation_chooses_and_says_so(assistant: omnivit.Assistant, data_root: Path) -> None:
    records: list[dict[str, Any]] = [picture_record(name, f"{name}.png", name) for name in COLOURS]
    write_jsonl(data_root / "closed.jsonl", records)
    write_jsonl(data_root / "listed.jsonl", [record | {"choices": ["red", record["id"]]} for record in records])
    settings = {"conditions": ["true", "none"], "choices": "likelihood", "batch_size": 3}
    closed, listed = (
        evaluate(assistant, Evaluation([DataSource(name)], **settings), data_root)  # type: ignore[arg-type]
        for name in ("closed.jsonl", "listed.jsonl")
    )
    turn = assistant.turn("Which colour?", [("image", data_root / "blue.png")])
    sums = {}
    for name in COLOURS:
        answer = Sample(name, (turn, Message("assistant", (Text(name),))))
        sums[name] = float(assistant.score_samples([answer], batch_size=1)[0].sum())
    best = max(sums, key=sums.__getitem__)
    write_jsonl(data_root / "wrong.jsonl", [records[0] | {"choices": ["blue"]}])
    with pytest.raises(DataError, match="the answer 'red' is not in the `choices`"):
        check_evaluation(Evaluation([DataSource("wrong.jsonl")], choices="likelihood"), data_root)
    alone = Evaluation([DataSource("blue.jsonl")], conditions=["true"], choices="likelihood")
    write_jsonl(data_root / "blue.jsonl", [records[2] | {"choices": list(COLOURS)}])
    assert records[2]["id"] == "blue"
    assert evaluate(assistant, alone, data_root)["true"].accuracy.mean == float(best == "blue")
    assert notes(closed)[0] == CHOSEN and closed["none"].choices == "likelihood"
    assert as_record(listed, [], 0.0, {})["choices"] == "likelihood"
    assert json.dumps(as_record(evaluate(assistant, Evaluation([DataSource("closed.jsonl")], ["true"]), data_root),
                                [], 0.0, {})).count("likelihood") == 0  # fmt: skip
