"""Questions and media that an evaluation shares with the training data are counted, under whatever name."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from tests_support import picture_record, write_jsonl

from omnivit.cli import main
from omnivit.contracts.sample import Frames, Media, Message, Sample
from omnivit.run.overlap import Content, shared_files


def test_a_file_under_another_name_is_the_same_and_one_of_equal_size_is_not(tmp_path: Path) -> None:
    large = bytes(range(256)) * 1000
    middle = large[:100_000] + b"?" + large[100_001:]  # equal size and ends
    contents = {"a": b"one", "b": b"one", "c": b"two", "d": large, "e": large, "f": middle, "g": b"longer"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    a, b, c, d, e, f, g = (str(tmp_path / name) for name in contents)
    assert shared_files({a, d}, {b, c, e, f, g}) == {b, e}
    assert shared_files({a}, {a, str(tmp_path / "absent")}) == {a}
    assert shared_files(set(), {a}) == set() == shared_files({a}, set())


def test_files_of_every_kind_of_medium_are_compared(tmp_path: Path) -> None:
    for name in ("series/1.dcm", "series/2.dcm", "copy/9.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name[-5:].encode())
    shutil.copy(tmp_path / "series" / "1.dcm", tmp_path / "frame.png")
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        archive.add(tmp_path / "frame.png", "frame.png")

    def content(*sources: object) -> Content:
        noted = Content()
        for source in sources:
            noted.add(Sample("s", (Message("user", (Media("image", source, str(tmp_path)),)),)))
        return noted

    trained = content("series", b"in memory", "shard.tar/frame.png")
    asked = content(Frames(("frame.png", "copy/9.dcm")), b"in memory", b"other", "shard.tar/frame.png", "absent.png")
    shared = shared_files(trained.files, asked.files)
    assert len(asked.files) == 6 and len(shared) == 3
    assert {Path(path).name for path in shared if path.startswith("/")} == {"frame.png"}
    assert str(tmp_path / "frame.png") in shared and str(tmp_path / "shard.tar" / "frame.png") in shared


def test_the_report_counts_and_says_it(trained_run: Path) -> None:
    report = json.loads((trained_run / "report.json").read_text())
    assert report["overlap"] == {"questions": 8, "trained_questions": 2, "media": 4, "trained_media": 2}
    text = (trained_run / "report.md").read_text()
    assert "2 of 8 different questions are in the training data too" in text
    assert "2 of 4 media files of the evaluation have the content of a file that a stage trains on" in text


def test_check_finds_a_renamed_copy(recipe_file: Path, data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(data_root / "red.png", data_root / "renamed.png")
    write_jsonl(data_root / "held.jsonl", [picture_record("h", "renamed.png", "crimson")])
    evaluation = "evaluation={data: [{path: held.jsonl}], conditions: ['true']}"
    assert main(["check", str(recipe_file), evaluation, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    overlap = {"questions": 1, "trained_questions": 0, "media": 1, "trained_media": 1}
    assert record["evaluation"] == {"questions": 1, "overlap": overlap}
    assert record["tokens"] == {"image": 4} and record["parameters"]["adapters.image"] > 0
    stage = record["stages"][0]
    assert stage["name"] == "align" and stage["samples"] == 24 and stage["memory_bytes"]["weights"] > 0
    assert main(["check", str(recipe_file), "evaluation={data: [{path: train.jsonl, limit: 1}]}", "--json"]) == 0
