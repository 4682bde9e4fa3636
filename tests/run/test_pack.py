"""A packed run opens elsewhere, has the same bytes each time, and says nothing of machine, user and data."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from omnivit_readers.messages import MessagesReader
from run_support import train_tiny, write_data

import omnivit
from omnivit.cli import main
from omnivit.contracts.sample import Frames, Media, Message, Sample, Text
from omnivit.media.locate import files_of, opened
from omnivit.recipe import load as load_recipe
from omnivit.run.pack import MEDIA, _sample_record
from omnivit.run.scrub import UNSET, portable_recipe, scrubbed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the user `jdoe` whose data name a patient, one of whose pictures is damaged."""
    home = tmp_path_factory.mktemp("home") / "jdoe"
    home.mkdir()
    (write_data(home / "data") / "pictures" / "red.png").rename(home / "data" / "pictures" / "Mueller.png")
    for name in ("train.jsonl", "held.jsonl"):
        file = home / "data" / name
        text = file.read_text().replace("red.png", "Mueller.png").replace('"p0"', '"Mueller-1"')
        file.write_text(text)
    with (home / "data" / "train.jsonl").open("a") as file:
        file.write('{"id": "Mueller-2", "messages": []}\n')
    skip = ["data.on_bad_sample=skip", "data.skip_budget=0.5"]
    return train_tiny(home, "run", *skip)


def test_a_pack_opens_elsewhere_and_tells_no_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert b"Mueller" in (run / "report.json").read_bytes()  # or nothing would be shown below
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    assert main(["pack", str(run), str(first)]) == 0 == main(["pack", str(run), str(second)])
    assert first.read_bytes() == second.read_bytes()
    content = first.read_bytes()
    for word in ("jdoe", "Mueller", str(run.parent), str(Path.home()), "optimizer.safetensors"):
        at = content.find(word.encode())
        assert at < 0, content[max(0, at - 80) : at + 40]
    with tarfile.open(first) as archive:
        members = archive.getmembers()
        assert all(m.isfile() and m.name.startswith("run/") and m.mode == 0o644 and m.uid == 0 for m in members)
        archive.extractall(tmp_path / "elsewhere", filter="data")
    there = tmp_path / "elsewhere" / "run"
    picture = str(run.parent / "data" / "pictures" / "blue.png")
    before = omnivit.load(run).ask("Which colour?", image=picture, max_new_tokens=4)
    hidden = run.rename(run.with_name("gone"))
    try:
        capsys.readouterr()
        question = ["generate", str(there), "Which colour?", "--image", picture, "--max-new-tokens", "4"]
        assert main(question) == 0
        assert capsys.readouterr().out.strip() == before.strip()
    finally:
        hidden.rename(run)
    report = json.loads((there / "report.json").read_text())
    assert report["accuracy"] == json.loads((run / "report.json").read_text())["accuracy"]
    assert "| accuracy | true |" in (there / "report.md").read_text()


def test_samples_go_with_it_when_they_are_asked_for(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    assert main(["pack", str(run), str(out), "--with-samples", "3"]) == 0
    with tarfile.open(out) as archive:
        archive.extractall(tmp_path, filter="data")
    data = tmp_path / "run" / "data"
    assert len(list((data / "media").iterdir())) == 3
    packed = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert packed.evaluation is not None and packed.data.root == str(data)
    assert [(source.path, source.reader) for source in packed.evaluation.data] == [("samples.jsonl", "messages")]
    arguments = ["--data", str(data / "samples.jsonl"), "--max-new-tokens", "2"]
    assert main(["eval", str(tmp_path / "run"), *arguments]) == 0
    assert main(["pack", str(run), str(out), "--with-samples", "300"]) == 2
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    assert main(["pack", str(run), str(notes)]) == 2 and notes.read_text() == "mine"  # only packs are replaced


def test_a_run_that_was_moved_opens_and_files_have_the_modes_of_the_umask(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)  # with its recipe, whose data root is where it was
    assert omnivit.load(moved).slots == ("image",)
    expected = (tmp_path / "new").touch() or (tmp_path / "new").stat().st_mode & 0o777
    modes = {path.stat().st_mode & 0o777 for path in run.rglob("*") if path.is_file()}
    assert modes == {expected}


def test_paths_become_relative_or_are_to_be_set(tmp_path: Path) -> None:
    copied: list[Path] = []
    (tmp_path / "llm").mkdir()
    recipe = {
        "model": {"llm": {"path": str(tmp_path / "llm")}, "inputs": {"image": {"encoder": {"path": "/models/clip"}}}},
        "data": {"root": "/data/of/jdoe"},
        "init_from": [{"run": "/home/jdoe/first"}],
    }
    portable = portable_recipe(recipe, tmp_path, copied.append)
    assert portable["model"] == {"llm": {"path": "./llm"}, "inputs": {"image": {"encoder": {"path": UNSET}}}}
    assert portable["data"]["root"] == "./data" and portable["init_from"] == [{"run": "first"}]
    assert copied == [(tmp_path / "llm").resolve()]
    texts = {"see /home/jdoe/a b.txt": "https://example.org/a/b org/model and/or 1/2 ~/x/y.pt"}
    assert scrubbed(texts) == {"see a b.txt": "https://example.org/a/b org/model and/or 1/2 y.pt"}


def test_samples_of_every_kind_of_medium_are_read_again(tmp_path: Path) -> None:
    root, folder = tmp_path / "Mueller", tmp_path / "packed"
    (root / "series").mkdir(parents=True)
    (folder / MEDIA).mkdir(parents=True)
    for name in ("a.png", "b.png", "talk.wav", "series/2.dcm", "series/10.dcm", "scan.nii.gz", "pages.pdf", "part.ply"):
        (root / name).write_bytes(f"content of {Path(name).stem}".encode())
    with tarfile.open(root / "shard.tar", "w") as archive:
        archive.add(root / "a.png", "0001.png")
    sources: dict[str, object] = {
        "image": "a.png",
        "picture": "shard.tar/0001.png",
        "memory": b"content of a",
        "audio": "talk.wav",
        "volume": "series",
        "scan": "scan.nii.gz",
        "document": "pages.pdf",
        "points": "part.ply",
        "video": Frames(("a.png", "b.png"), 2.5),
    }
    media = [Media(slot, source, str(root)) for slot, source in sources.items()]
    media.append(Media("video", Frames(("b.png",)), str(root)))
    turns = (Message("user", (*media, Text("What?"))), Message("assistant", (Text("It."),)))
    record = _sample_record(Sample("Mueller-1", turns), 1, folder)
    assert "Mueller" not in json.dumps(record) and record["id"] == "sample-00001"
    (folder / "samples.jsonl").write_text(json.dumps(record) + "\n")
    again = list(MessagesReader(folder / "samples.jsonl", folder)[0].media())
    assert [medium.slot for medium in again] == [medium.slot for medium in media]
    for old, new in zip(media, again, strict=True):
        contents = [[opened(file).rest().read() for file in files_of(medium)] for medium in (old, new)]
        assert contents[0] == contents[1] and contents[0][0], old
        assert isinstance(new.source, Frames) == isinstance(old.source, Frames)
    assert again[4].source == tuple(f"media/00001-{number:03}.dcm" for number in (5, 6))
    assert again[8].source.fps == 2.5 and len(again[9].source.paths) == 1
