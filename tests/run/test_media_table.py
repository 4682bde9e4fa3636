"""Another picture behind the same path is seen, whatever its size and time, and named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omnivit_readers.messages import MessagesReader
from PIL import Image
from shards import write_tar

from omnivit import stamps
from omnivit.contracts.sample import Frames, Media, Message, Sample, Target
from omnivit.data import digest
from omnivit.data.sources import open_mixture
from omnivit.errors import CheckpointError
from omnivit.recipe import DataSource, Recipe
from omnivit.run import folder, provenance
from omnivit.run.provenance import media_table
from omnivit.run.provenance.media_table import Difference, Table
from omnivit.run.provenance.survey import TABLE
from omnivit.run.runner import train
from omnivit.train import checkpoint

Load = Callable[..., Recipe]


@pytest.fixture
def files(data_root: Path) -> Callable[[], Iterator[media_table.File]]:
    """The media of train.jsonl (four pictures), and of a file with a folder, a list, a target and a picture outside."""
    (data_root / "series").mkdir()
    for name in ("series/1.dcm", "series/2.dcm", "a.png", "mask.png"):
        (data_root / name).write_bytes(name.encode())
    user = [
        {"type": "volume", "volume": "series"},
        {"type": "image", "image": "a.png"},
        {"type": "video", "paths": ["red.png", "gone.png"]},
        {"type": "image", "image": "../outside.png"},
    ]
    answer = [{"type": "text", "text": "a"}, {"type": "target", "head": "mask", "target": "mask.png"}]
    record = {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]}
    (data_root / "more.jsonl").write_text(json.dumps(record) + "\nno record\n")
    mixture = open_mixture([DataSource("train.jsonl"), DataSource("more.jsonl")], data_root)
    return lambda: media_table.files_of([mixture], str(data_root))


def differences(table: Table, files: Callable[[], Iterator[media_table.File]]) -> list[Difference]:
    return list(media_table.differences(table, files()))


def test_an_archive_stands_for_its_members(data_root: Path) -> None:
    write_tar(data_root / "x.tar", {"a.png": b"a", "b.png": b"b"})
    for name in ("s-0.tar", "s-1.tar"):
        record = {"messages": [{"role": "user", "content": [{"type": "image", "image": "x.tar/b.png"}]}]}
        record["messages"] += [{"role": "assistant", "content": [{"type": "text", "text": name}]}]
        write_tar(data_root / name, {"0.jpg": b"jpg", "0.json": json.dumps(record).encode()})
    mixture = open_mixture([DataSource("s-*.tar", f"{__name__}:Packed")], data_root)
    found = list(media_table.files_of([mixture], str(data_root)))
    assert [file.name for file in found] == ["x.tar", "s-0.tar", "s-1.tar"] and all(file.size > 0 for file in found)
    table = media_table.survey(found)
    write_tar(data_root / "x.tar", {"a.png": b"a", "b.png": b"c"})
    (change,) = media_table.differences(table, media_table.files_of([mixture], str(data_root)))
    assert change.name == "x.tar" and change.now.startswith("content")


class Packed(MessagesReader):
    """A record in the JSON of an archive, with an image of another archive and one beside it."""

    keys = MessagesReader.keys | {"__key__", "jpg", "json"}

    def messages(self, record: Any) -> Any:
        turns = record["json"]["messages"]
        turns[0]["content"].append({"type": "image", "image": record["jpg"]})
        return super().messages({"messages": turns})


def test_every_file_is_found_once(files: Callable[[], Iterator[media_table.File]]) -> None:
    assert sorted(file.name for file in files()) == [
        "a.png", "blue.png", "gone.png", "green.png", "grey.png", "mask.png", "red.png", "series", "series/1.dcm",
        "series/2.dcm",
    ]  # fmt: skip
    facts = media_table.summary(media_table.survey(files()))
    assert facts["files"] == 10 and facts["missing"] == 1 and facts["known_by_content"] == 9


def test_paths_are_found_in_whatever_a_reader_of_a_plugin_gives(data_root: Path) -> None:
    root = str(data_root)
    parts = (Media("video", Frames(("1.png", "2.png"), 2.0), root), Media("image", Path("3.png"), root),
             Target("pair", {"both": ["4.png", {"deep": "5.png"}]}, root), Media("image", b"6.png", root))  # fmt: skip
    samples = [Sample("one", (Message("user", parts),))]
    assert [file.name for file in media_table.files_of([samples], root)] == [f"{n}.png" for n in range(1, 6)]


def test_a_medium_whose_content_changed_is_named_even_with_size_and_time_as_before(
    files: Callable[[], Iterator[media_table.File]], data_root: Path
) -> None:
    table, file = media_table.survey(files()), data_root / "series/2.dcm"
    assert differences(table, files) == []
    times = file.stat()
    file.write_bytes(b"series/3.dcm")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    [found] = differences(table, files)
    assert found.name == "series/2.dcm" and found.was.startswith("content ") and found.was != found.now
    file.write_bytes(b"series/2.dcm")
    assert differences(table, files) == []  # touched, and the same


def test_what_came_went_or_grew_is_named(files: Callable[[], Iterator[media_table.File]], data_root: Path) -> None:
    table = media_table.survey(files())
    (data_root / "gone.png").write_bytes(b"here")
    (data_root / "a.png").unlink()
    (data_root / "mask.png").write_bytes(b"longer than before")
    (data_root / "series/3.dcm").write_bytes(b"new")
    assert {tuple(one) for one in differences(table, files)} == {
        ("gone.png", "missing", "of size 4"), ("a.png", "of size 5", "missing"),
        ("mask.png", "of size 8", "of size 18"),
        ("series", "of size 2", "of size 3"), ("series/3.dcm", "not used", "used"),
    }  # fmt: skip


def test_of_a_large_set_a_sample_is_hashed_and_the_rest_known_by_size_and_time(
    files: Callable[[], Iterator[media_table.File]], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_table, "WHOLE", 0)
    table = media_table.survey(files())
    facts = media_table.summary(table)
    assert facts["known_by_content"] == 0 and facts["known_by_size_and_time"] == 9
    times = (data_root / "a.png").stat()
    os.utime(data_root / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    [found] = differences(table, files)
    assert found.name == "a.png" and "its content is not on record" in found.was
    monkeypatch.setattr(media_table, "ONE_IN", 1)
    assert media_table.summary(media_table.survey(files()))["known_by_content"] == 9


def test_of_a_large_file_blocks_are_hashed(
    files: Callable[[], Iterator[media_table.File]], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_table, "LARGE", 100)
    monkeypatch.setattr(media_table, "BLOCK", 10)
    file = data_root / "a.png"
    file.write_bytes(bytes(10_000))
    table = media_table.survey(files())
    for place in (0, 9_999, (10_000 - 10) * 7 // 15):
        content = bytearray(10_000)
        content[place] = 1
        file.write_bytes(content)
        assert [one.name for one in differences(table, files)] == ["a.png"]


def test_a_pipe_blocks_nothing(files: Callable[[], Iterator[media_table.File]], data_root: Path) -> None:
    (data_root / "a.png").unlink()
    os.mkfifo(data_root / "a.png")
    (data_root / "series" / "loop").symlink_to(data_root / "series")
    assert media_table.summary(media_table.survey(files()))["missing"] == 2


def test_a_run_whose_picture_changed_is_refused(load_recipe: Load, data_root: Path, tmp_path: Path) -> None:
    recipe, run = load_recipe("stages.align.steps=1", "stages.instruct.steps=1", "data.privacy=true"), tmp_path / "run"
    folder.create(run, recipe)
    train(recipe, run)
    facts = provenance.read(run / provenance.PROVENANCE)["media"]
    assert facts["files"] == 4 and facts["known_by_content"] == 4
    last = checkpoint.of_stage(run / folder.CHECKPOINTS, 1)
    assert json.loads(last.document(provenance.PROVENANCE))["media"] == facts
    last.path.rename(tmp_path / "undisturbed")

    good = (data_root / "red.png").read_bytes()
    Image.new("RGB", (40, 36), (221, 30, 30)).save(data_root / "red.png")
    with pytest.raises(CheckpointError, match=r"media\.red\.png: was '(content|of size).*, is "):
        train(recipe, run, resume=True)
    (data_root / "red.png").write_bytes(good)
    table = np.load(run / TABLE)
    (run / TABLE).unlink()
    with pytest.raises(CheckpointError, match=rf"media: was 'those of {TABLE}', is 'unknown: that file is missing"):
        train(recipe, run, resume=True)
    np.save(run / TABLE, table)

    Image.new("RGB", (40, 36), (0, 0, 0)).save(data_root / "red.png")
    train(recipe, run, resume=True, allow_changes=True)
    record = provenance.read(run / provenance.PROVENANCE)
    [line] = record["history"][0]["changes"]
    assert line.startswith("media.") and "red" not in line and record["media"]["table"] != facts["table"]
    train(recipe, run, resume=True)  # it is the run's own now


def test_a_large_data_file_is_hashed_whole_and_once(
    load_recipe: Load, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stamps, "_WHOLE", 10)
    monkeypatch.setattr(stamps, "BLOCK", 256)
    recipe, run = load_recipe("stages.align.steps=1", "stages.instruct.steps=1"), tmp_path / "run"
    train(recipe, run)
    record = provenance.read(run / provenance.PROVENANCE)
    assert record["data"]["stages.align.data[0]"].startswith("sampled:")
    key, file = "stages.instruct.data[0]", data_root / "train.jsonl"
    assert record["large_files"][key] == digest.file_sha256(file)
    [kept] = (tmp_path / "cache" / "digests").iterdir()
    kept.write_text("0" * 64)
    assert digest.file_sha256(file) == "0" * 64  # not read again
    with pytest.raises(CheckpointError, match=r"large_files\.stages\.align\.data\[0\]: was '\w{64}', is '0{64}'"):
        train(recipe, run, resume=True)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert digest.file_sha256(file) == record["large_files"][key]
