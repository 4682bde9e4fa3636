"""What is written is on the disk before it gets its name, and its name is on the disk before anybody relies on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from omnivit import files
from omnivit.train import checkpoint
from omnivit.train.manifest import MANIFEST

Event = tuple[str, Path, int]
"""`fsync` and the size of the file at that moment (0 for a folder), or `rename` and 0; the path after a rename."""


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Every fsync and rename, in order."""
    calls: list[Event] = []
    fsync = os.fsync

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append(("fsync", path, 0 if path.is_dir() else path.stat().st_size))
        fsync(descriptor)

    def renaming(rename: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def renamed(path: Path, target: Path) -> Path:
            calls.append(("rename", Path(target), 0))
            return rename(path, target)

        return renamed

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renaming(Path.rename))
    monkeypatch.setattr(Path, "replace", renaming(Path.replace))
    return calls


def partial_of(path: Path, before: str = "") -> Path:
    return path.with_name(f"{files.PARTIAL}{before}{path.name}")


def in_full(folder: Path, name: str) -> dict[Path, int]:
    """The paths under which a folder and everything in it were written -> their sizes; 0 for folders."""
    partial = partial_of(folder)
    inside = {partial / path.relative_to(folder): path for path in folder.rglob("*")}
    assert name in {path.name for path in inside}
    return {partial: 0} | {written: 0 if path.is_dir() else path.stat().st_size for written, path in inside.items()}


def test_a_file_is_on_the_disk_before_it_replaces_another(tmp_path: Path, events: list[Event]) -> None:
    path = tmp_path / "report.md"
    for text in ("old", "newer"):
        events.clear()
        files.write_text(path, text)
        written = partial_of(path, f"{os.getpid()}-")
        assert events == [("fsync", written, len(text)), ("rename", path, 0), ("fsync", tmp_path, 0)]


def test_a_folder_is_on_the_disk_before_it_appears(tmp_path: Path, events: list[Event]) -> None:
    folder = tmp_path / "index"
    with files.appearing(folder) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "a.bin").write_bytes(b"12345")
        (partial / "b.txt").write_text("12")
    *before, renamed, parent = events
    assert (renamed, parent) == (("rename", folder, 0), ("fsync", tmp_path, 0))
    assert all(kind == "fsync" for kind, _, _ in before)
    assert {path: size for _, path, size in before} == in_full(folder, "a.bin")


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, events: list[Event]) -> None:
    run, name = tmp_path / "run", checkpoint.checkpoint_name(0, "align", 1)
    run.mkdir()
    state = {"stage": "align", "stage_index": 0, "step": 1, "total_steps": 2, "skipped": [], "seconds": 0.5}
    tensors = {"w": torch.ones(300)}
    path = checkpoint.save(run / "checkpoints", name, tensors, tensors, state, {"recipe.yaml": "seed: 3\n"})
    folder, *before, renamed, parent = events
    assert folder == ("fsync", run, 0), "the folder of the checkpoints is new: its own entry comes first"
    assert (renamed, parent) == (("rename", path, 0), ("fsync", path.parent, 0))
    assert {file: size for _, file, size in before} == in_full(path, MANIFEST)
    assert {file.name for file in path.iterdir()} == {
        checkpoint.WEIGHTS, checkpoint.OPTIMIZER, checkpoint.STATE, MANIFEST, "recipe.yaml",
    }  # fmt: skip
    events.clear()
    checkpoint.save(run / "checkpoints", checkpoint.checkpoint_name(0, "align", 2), tensors, {}, state | {"step": 2})
    assert ("fsync", run, 0) not in events and [kind for kind, *_ in events][-2:] == ["rename", "fsync"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_what_cannot_be_finished_leaves_nothing(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails at either call: the file before stays, and nothing lies beside it."""
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def failing(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), failing)
    with pytest.raises(OSError, match="no space left"):
        files.write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
