"""`omnivit data`: what a data file contains, what a recipe trains on in it, and whether training would fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests_support import picture_record, text_record, write_jsonl

from omnivit import cli

Outcome = tuple[int, str, str]


@pytest.fixture
def data(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command -> exit status, standard output, standard error."""

    def run(*arguments: object) -> Outcome:
        status = cli.main(["data", *map(str, arguments)])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_a_good_file_is_described_without_a_recipe(data: Callable[..., Outcome], data_root: Path) -> None:
    status, out, _ = data(data_root / "train.jsonl")
    assert status == 0 and "24 records, read by MessagesReader" in out
    assert "image: 20 media, all files exist" in out
    assert "[[red]]" in out and "<image: red.png>" in out  # the first record: what is learnt, and its medium
    assert out.endswith("no problem that stops training\n")


def test_every_problem_is_named_with_its_line_and_the_status_is_1(
    data: Callable[..., Outcome], data_root: Path
) -> None:
    file = data_root / "mixed.jsonl"
    good, text = picture_record("a", "red.png", "red"), text_record("b", "Say it", "it")
    write_jsonl(
        file, [good, text, {**text, "id": "c"}, *(picture_record(f"m{k}", f"{k}.png", "red") for k in range(12))]
    )
    file.write_text("\n".join([*lines(file), '{"id": "cut", "messages": ']) + "\n", encoding="utf-8")
    status, out, _ = data(file)
    assert status == 1 and "training on this file would fail" in out
    assert "image: 13 media, 12 missing" in out and "13 bad records" in out and "and 3 more" in out
    assert f"{file}:4" in out and "0.png" in out and f"{file}:16" not in out  # the first ten
    assert "1 records are equal to an earlier one" in out and f"{file}:3 = {file}:2" in out

    status, out, _ = data(file, "--json")
    found = json.loads(out)
    assert (
        status == 1
        and found["fails"]
        and found["bad"] == 13
        and found["media"] == {"image": {"count": 13, "missing": 12}}
    )
    assert [problem["where"] for problem in found["problems"]] == [f"{file}:{line}" for line in range(4, 17)]
    assert found["duplicates"] == {"count": 1, "records": [{"record": f"{file}:3", "equal_to": f"{file}:2"}]}
    assert found["tokens"] is None  # there is no recipe, so no tokenizer


def test_a_recipe_gives_tokens_labels_and_what_is_cut(
    data: Callable[..., Outcome], data_root: Path, recipe_file: Path
) -> None:
    file = data_root / "train.jsonl"
    records = [json.loads(line) for line in lines(file)]
    write_jsonl(file, [*records, text_record("long", "Say it", "it " * 300)])
    found = json.loads(data(file, "--recipe", recipe_file, "--json")[1])
    tokens = found["tokens"]
    assert found["bad"] == 1 and found["fails"] and "data.max_length" in found["problems"][0]["reason"]
    assert sum(column["records"] for column in tokens["histogram"]) == 24 and tokens["cut"] == 0
    learnt = [piece["text"] for piece in found["examples"][0]["pieces"] if piece["kind"] == "learnt"]
    assert "".join(learnt).startswith("red")  # and the end of the turn, which the model learns to write
    assert any(piece["kind"] == "medium" and "tokens" in piece["text"] for piece in found["examples"][0]["pieces"])

    recipe_file.write_text(recipe_file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    longer = recipe_file.with_name("cut.yaml")
    longer.write_text(f"extends: {recipe_file.name}\ndata: {{truncate: true}}\n", encoding="utf-8")
    status, out, _ = data(file, "--recipe", longer)
    assert status == 0 and "1 records are longer than data.max_length" in out and "[[red" in out


def test_bad_records_within_the_budget_do_not_fail(
    data: Callable[..., Outcome], data_root: Path, recipe_file: Path
) -> None:
    file = data_root / "train.jsonl"
    file.write_text("\n".join([*lines(file), '{"id": "x"}']) + "\n", encoding="utf-8")
    assert data(file, "--recipe", recipe_file)[0] == 1
    skipping = recipe_file.with_name("skip.yaml")
    skipping.write_text(f"extends: {recipe_file.name}\ndata: {{on_bad_sample: skip}}\n", encoding="utf-8")
    status, out, _ = data(file, "--recipe", skipping)
    assert status == 0 and "1 bad records; training skips up to 1" in out


def test_wrong_usage_says_what_to_do(data: Callable[..., Outcome], data_root: Path, recipe_file: Path) -> None:
    file = data_root / "train.jsonl"
    assert "Add --recipe RECIPE" in data(file, "--stage", "align")[2]
    assert "did you mean 'align'" in data(file, "--recipe", recipe_file, "--stage", "aling")[2].replace('"', "'")
    assert "expected KEY=VALUE" in data(file, "--option", "tags")[2]
    status, _, err = data(data_root / "nothing.jsonl")
    assert status == 2 and "does not exist" in err


def test_a_reader_with_options(data: Callable[..., Outcome], data_root: Path) -> None:
    table = data_root / "table.csv"
    table.write_text("file,what\nred.png,red\nblue.png,blue\n", encoding="utf-8")
    options = ("slots={image: '{file}'}", "question=Which colour?", "answer='{what}'")
    status, out, _ = data(table, "--reader", "qa", *(part for option in options for part in ("--option", option)))
    assert status == 0 and "image: 2 media, all files exist" in out and "Which colour?" in out and "[[red]]" in out


def test_a_record_whose_medium_is_shorter_than_those_that_were_decoded_is_good(
    data: Callable[..., Outcome], data_root: Path, recipe_file: Path
) -> None:
    """Only 16 of the 17 media are decoded; with the tokens of these, the last record would be too long."""
    records = []
    for number in range(17):
        long = number < 16
        np.save(data_root / f"{number}.npy", np.ones((300 if long else 1, 24), dtype=np.float32))
        part = {"type": "image", "image": f"{number}.npy"}
        text = {"type": "text", "text": "short" if long else "long " * 60}
        question = {"role": "user", "content": [part, text]}
        records.append({"messages": [question, {"role": "assistant", "content": "yes"}]})
    write_jsonl(data_root / "features.jsonl", records)
    text = recipe_file.read_text(encoding="utf-8")
    begin, end = text.index("      encoder:"), text.index("      adapter:")
    recipe_file.write_text(
        f"{text[:begin]}      encoder: {{name: features, width: 24}}\n{text[end:]}", encoding="utf-8"
    )
    status, out, _ = data(data_root / "features.jsonl", "--recipe", recipe_file, "--json")
    found = json.loads(out)
    assert status == 0 and found["bad"] == 0 and found["tokens"]["decoded"] == 16
    assert sum(column["records"] for column in found["tokens"]["histogram"]) == 17


def test_a_record_far_above_the_limit_is_counted_as_cut(
    data: Callable[..., Outcome], data_root: Path, recipe_file: Path
) -> None:
    file = data_root / "train.jsonl"
    write_jsonl(file, [text_record("long", "Say it", "it " * 3000)])
    cutting = recipe_file.with_name("cut.yaml")
    cutting.write_text(f"extends: {recipe_file.name}\ndata: {{truncate: true}}\n", encoding="utf-8")
    found = json.loads(data(file, "--recipe", cutting, "--json")[1])
    assert (found["bad"], found["tokens"]["cut"]) == (0, 1)


def test_frames_in_files_are_looked_for(data: Callable[..., Outcome], data_root: Path) -> None:
    record = {"video": ["red.png", "blue.png", "lost.png"], "conversations": [
        {"from": "human", "value": "<video>\nWhat changes?"}, {"from": "gpt", "value": "The colour."}]}  # fmt: skip
    write_jsonl(data_root / "frames.jsonl", [record])
    status, out, _ = data(data_root / "frames.jsonl", "--reader", "llava")
    assert status == 1 and "video: 1 media, 1 missing" in out and "lost.png" in out
