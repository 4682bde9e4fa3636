"""Conditions, scores and bad samples, with an answerer whose answers are known; then a real small model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from assistant_support import make_run
from tests_support import COLOURS, picture_record, text_record, write_jsonl

from omnivit.contracts.sample import Sample
from omnivit.data.chat import Chat
from omnivit.data.prepare import Preparer
from omnivit.data.sources import open_source
from omnivit.data.wording import Wordings
from omnivit.errors import CheckpointError, DataError, OmniVitError, RecipeError
from omnivit.evaluate.run import check_evaluation, evaluate
from omnivit.model.omni import OmniModel
from omnivit.model.tokens import byte_tokenizer
from omnivit.recipe import DataSource, Evaluation, Recipe
from omnivit.run import folder
from omnivit.run.answers import Medium, answers_of, read_answers, write_answers
from omnivit.run.loading import load
from omnivit.run.train import train_and_report


class Looking:
    """Answers the colour that the picture's file is named after, and "grey" where there is no picture."""

    model = cast(OmniModel, None)

    def __init__(self, recipe: Recipe, broken: str = "nothing") -> None:
        self.recipe, self.preparer = recipe, cast(Preparer, Refusing(broken))
        self.sizes: list[int] = []

    def answer(
        self, samples: Sequence[Sample], max_new_tokens: int, batch_size: int, answered: Callable[[int], None]
    ) -> list[str]:
        assert (max_new_tokens, batch_size) == (16, 1)
        self.sizes.append(len(samples))
        answered(len(samples))
        assert all(sample.messages[-1].role == "user" for sample in samples)
        return [" ".join(Path(m.source).stem.title() for m in sample.media()) or "It is grey" for sample in samples]


class Refusing:
    """Prepares nothing, and refuses broken media."""

    heads: Mapping[str, object] = {}
    wordings = Wordings()
    chat = Chat(byte_tokenizer())

    def __init__(self, broken: str) -> None:
        self.broken = broken

    def resolved(self, sample: Sample) -> Sample:
        return self.wordings(sample)

    def __call__(self, sample: Sample, generate: bool) -> None:
        assert generate and sample.messages[-1].role == "user"
        if any(self.broken in m.source for m in sample.media()):
            raise DataError(f"{sample}: broken")


@pytest.fixture
def looking(load_recipe: Callable[..., Recipe]) -> Looking:
    return Looking(load_recipe())


def test_scores_by_condition(looking: Looking, data_root: Path) -> None:
    scores = evaluate(looking, Evaluation([DataSource("train.jsonl", limit=20)], batch_size=1), data_root)
    assert list(scores) == ["true", "shuffled", "none"]
    assert [score.accuracy.mean for score in scores.values()] == [1.0, 0.0, 0.0]
    assert all(score.accuracy.n == 20 and score.refused == () for score in scores.values())
    assert scores["none"].metrics["token_f1"].mean == pytest.approx(0.5 * 5 / 20)  # "it is grey" against 5 times "grey"
    assert looking.sizes == [20] * 3


def test_media_are_shuffled_inside_their_file(looking: Looking, data_root: Path) -> None:
    for name, colours in (("warm", ["red", "grey"]), ("cold", ["blue", "green"])):
        write_jsonl(data_root / f"{name}.jsonl", [picture_record(c, f"{c}.png", f"not {c}") for c in colours])
    swapped = {"red": "grey", "grey": "red", "blue": "green", "green": "blue"}
    records = [json.loads(line) for n in ("warm", "cold") for line in (data_root / f"{n}.jsonl").open()]
    for record in records:
        record["messages"][-1]["content"][0]["text"] = swapped[record["id"]]
    write_jsonl(data_root / "warm.jsonl", records[:2])
    write_jsonl(data_root / "cold.jsonl", records[2:])
    evaluation = Evaluation([DataSource("warm.jsonl"), DataSource("cold.jsonl")], ["shuffled"], batch_size=1)
    score = evaluate(looking, evaluation, data_root)["shuffled"]
    assert score.accuracy.mean == 1.0 and score.accuracy.n == 4
    assert {file: part.accuracy.n for file, part in score.by_file.items()} == {"warm.jsonl": 2, "cold.jsonl": 2}


@pytest.mark.parametrize(
    ("evaluation", "error", "message"),
    [
        (Evaluation([]), RecipeError, "evaluation.data: the list is empty"),
        (Evaluation([DataSource("train.jsonl")], ["tru"]), RecipeError, "no condition 'tru'; did you mean 'true'"),
        (Evaluation([DataSource("absent.jsonl")]), DataError, "absent.jsonl"),
        (Evaluation([DataSource("train.jsonl")], linear_probe=[DataSource("../x.jsonl")]), DataError, "outside"),
        (Evaluation([DataSource("train.jsonl", reader="lava")]), OmniVitError, "llava"),
    ],
)
def test_mistakes_are_found_without_a_model(
    evaluation: Evaluation, error: type[OmniVitError], message: str, data_root: Path
) -> None:
    with pytest.raises(error, match=message):
        check_evaluation(evaluation, data_root)


def test_a_good_evaluation_passes_the_check(data_root: Path) -> None:
    check_evaluation(Evaluation([DataSource("train.jsonl")], linear_probe=[DataSource("train.jsonl")]), data_root)


def spoilt(data_root: Path) -> Evaluation:
    """Four good questions; one without an answer, one that is no record."""
    records: list[dict[str, Any]] = [picture_record(c, f"{c}.png", c) for c in COLOURS]
    unanswered = text_record("unanswered", "Why?", "") | {"messages": [{"role": "user", "content": "Why?"}]}
    path = write_jsonl(data_root / "spoilt.jsonl", [*records, unanswered])
    with path.open("a", encoding="utf-8") as file:
        file.write("{not json\n")
    return Evaluation([DataSource("spoilt.jsonl")], ["true", "none"], batch_size=1)


def test_a_bad_sample_is_an_error(looking: Looking, data_root: Path) -> None:
    with pytest.raises(DataError, match=r"sample 'unanswered' \(.*spoilt.jsonl:5\): has no assistant message"):
        evaluate(looking, spoilt(data_root), data_root)


def test_bad_samples_are_left_out_and_reported(load_recipe: Callable[..., Recipe], data_root: Path) -> None:
    looking = Looking(load_recipe("data.on_bad_sample=skip", "data.skip_budget=0.5"), broken="blue")
    scores = evaluate(looking, spoilt(data_root), data_root)
    assert scores["true"].accuracy.n == 3
    places = [reason.partition(".jsonl:")[2][0] for reason in scores["none"].refused]
    assert places == ["3", "5", "6"]
    assert scores["true"].refused == scores["none"].refused


def test_the_budget_for_bad_samples(load_recipe: Callable[..., Recipe], data_root: Path) -> None:
    looking = Looking(load_recipe("data.on_bad_sample=skip", "data.skip_budget=0.2"))
    with pytest.raises(
        DataError, match=r"2 of 6 samples are bad, more than `data.skip_budget: 0.2`(.|\n)*spoilt.jsonl:6"
    ):
        evaluate(looking, spoilt(data_root), data_root)


def test_a_model_agrees_with_itself(load_recipe: Callable[..., Recipe], data_root: Path, tmp_path: Path) -> None:
    """With its own answers as references it is always right, but not when it is shown something else."""
    assistant = load(make_run(load_recipe(), tmp_path / "run"), "cpu")
    pictures = [picture_record(colour, f"{colour}.png", "") for colour in COLOURS]
    reader = open_source(DataSource(write_jsonl(data_root / "asked.jsonl", pictures).name), data_root)
    said = assistant.answer([reader[i] for i in range(4)], 16, 2)
    assert len(set(said)) == 4
    records = [picture_record(f"{c}{i}", f"{c}.png", s) for i in range(3) for c, s in zip(COLOURS, said, strict=True)]
    source = DataSource(write_jsonl(data_root / "own.jsonl", records).name)
    scores = evaluate(assistant, Evaluation([source], linear_probe=[source], batch_size=5), data_root)
    assert [scores[name].accuracy.mean for name in ("true", "shuffled", "none")] == [1.0, 0.0, 0.0]
    assert str(scores["linear_probe"].accuracy) == "1.000 [0.757, 1.000], n=12"


def test_training_ends_with_a_report(
    load_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = "{data: [{path: train.jsonl, limit: 4}], linear_probe: [{path: train.jsonl, limit: 8}], batch_size: 4}"
    recipe = load_recipe(f"evaluation={evaluation}", "stages.align.steps=3", "stages.instruct.steps=1")
    path = tmp_path / "run"
    folder.create(path, recipe)
    train_and_report(recipe, path, resume=False)
    assert "linear probe" in capsys.readouterr().out
    record = json.loads((path / "report.json").read_text())
    assert list(record["accuracy"]) == ["true", "shuffled", "none", "linear_probe"]
    assert [stage["steps"] for stage in record["stages"]] == [3, 1]
    assert record["stages"][0]["first_loss"] > 0 and record["seconds"] > 0
    assert (path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "| torch |" in (path / "report.md").read_text()
    answers = list(read_answers(path))
    assert [each.condition for each in answers] == ["true"] * 4 + ["shuffled"] * 4 + ["none"] * 4
    assert answers[0].question == "Which colour?" and answers[0].media == (Medium("image", "red.png"),)
    assert answers[0].origin == "train.jsonl:1" and [each.reference for each in answers[:2]] == ["red", "green"]
    assert sum(each.right for each in answers[:4]) == 4 * record["accuracy"]["true"]["mean"]
    assert str(tmp_path) not in (path / "answers.jsonl").read_text()
    assert "(train.jsonl:" in record["stages"][0]["slowest_media"][0]["sample"]
    assert "(train.jsonl:" in (path / "report.md").read_text().partition("The slowest media: ")[2].partition("\n")[0]


def test_answers_without_content_of_records(looking: Looking, data_root: Path, tmp_path: Path) -> None:
    scores = evaluate(looking, Evaluation([DataSource("train.jsonl", limit=3)], ["true"], batch_size=1), data_root)
    places = [each.place for each in scores["true"].answers]
    write_answers(tmp_path, answers_of(scores, str(data_root)), places, private=True)
    text = (tmp_path / "answers.jsonl").read_text()
    assert [each.id for each in read_answers(tmp_path)] == [f"sample {k} of evaluation.data[0]" for k in range(3)]
    assert not any(word in text.lower() for word in ('"red', "green", "colour", "png", "train.jsonl", "p1"))
    (tmp_path / "answers.jsonl").write_text(text + "{}\n")
    with pytest.raises(CheckpointError, match="line 4: this is not an answer"):
        list(read_answers(tmp_path))


def test_answers_are_grouped_by_a_key_of_the_records(looking: Looking, data_root: Path) -> None:
    records = [{**picture_record(f"p{k}", "red.png", "red"), "scanner": "AB"[k % 2]} for k in range(4)]
    write_jsonl(data_root / "scans.jsonl", records)
    asked = Evaluation([DataSource("scans.jsonl")], ["true"], batch_size=1, by="scanner")
    scores = evaluate(looking, asked, data_root)
    assert [each.group for each in answers_of(scores, str(data_root), "scanner")] == ["A", "B", "A", "B"]
    with pytest.raises(RecipeError, match=r"evaluation.by: the records have no key 'scaner' .* did you mean 'scanner'"):
        check_evaluation(Evaluation([DataSource("scans.jsonl")], by="scaner"), data_root)
