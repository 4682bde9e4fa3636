"""A run keeps the order of samples that it was begun with, also one from before there were versions of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from omnivit.errors import CheckpointError
from omnivit.recipe import Recipe
from omnivit.run import folder, provenance, runner
from omnivit.run.provenance import PROVENANCE
from omnivit.run.runner import train
from omnivit.train import checkpoint, manifest

SETTINGS = ("stages.align.steps=1", "stages.instruct.steps=5", "checkpoint_every=1", "keep.last=9")


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.latest(run / folder.CHECKPOINTS)
    assert newest is not None and newest.path.name == "01-instruct-step-00000005"
    return newest.weights()


def edit_record(run: Path, step: str, order: int | None) -> None:
    """Change the record of a run and its checkpoint, checksums included, as another version would have written it."""
    path = run / folder.CHECKPOINTS / step
    for file in (run / PROVENANCE, path / PROVENANCE):
        record = provenance.read(file)
        record.pop("order")
        file.write_text(provenance.dump(record | ({} if order is None else {"order": order})))
    (path / manifest.MANIFEST).unlink()
    manifest.write(path)


def interrupted(run: Path, copy: Path) -> Path:
    """A copy of a run that stopped inside an epoch: after step 2 of 5, an epoch has 3."""
    shutil.copytree(run, copy)
    for number in (3, 4, 5):
        shutil.rmtree(copy / folder.CHECKPOINTS / f"01-instruct-step-0000000{number}")
    return copy


def test_a_run_without_a_version_goes_on_in_the_first_order(
    load_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(*SETTINGS)
    with monkeypatch.context() as before:
        before.setattr(runner, "ORDER", 1)
        folder.create(tmp_path / "old", recipe)
        train(recipe, tmp_path / "old")
    folder.create(tmp_path / "new", recipe)
    train(recipe, tmp_path / "new")
    old, new = weights(tmp_path / "old"), weights(tmp_path / "new")
    assert any(not torch.equal(value, new[name]) for name, value in old.items())  # the orders differ
    assert provenance.read(tmp_path / "new" / PROVENANCE)["order"] == 2

    for name, version, expected in (("old", None, old), ("new", 2, new)):
        run = interrupted(tmp_path / name, tmp_path / f"{name} resumed")
        edit_record(run, "01-instruct-step-00000002", version)
        train(folder.reopen(run), run, resume=True)
        assert all(torch.equal(value, expected[tensor]) for tensor, value in weights(run).items()), name
        newest = checkpoint.latest(run / folder.CHECKPOINTS)
        assert newest is not None
        record = json.loads(newest.document(PROVENANCE))
        assert record["order"] == (version or 1) and record["history"][0]["changes"] == []

    future = interrupted(tmp_path / "new", tmp_path / "future")
    edit_record(future, "01-instruct-step-00000002", 3)
    with pytest.raises(CheckpointError, match=r"in an order of version 3, and this OmniViT knows the versions 1, 2\."):
        train(folder.reopen(future), future, resume=True)
