"""A run that was recorded with an old name of an option resumes, under the new name and without a change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from omnivit.errors import ContractWarning
from omnivit.recipe import Recipe
from omnivit.run import folder, provenance
from omnivit.run.provenance import PROVENANCE
from omnivit.run.runner import train
from omnivit.train import checkpoint, manifest

SHORT = ("stages.align.steps=1", "stages.instruct.steps=2", "checkpoint_every=1", "keep.last=1")
STEPS = "model.inputs.image.adapter={name: chain, steps: [{name: mlp}, {name: visual_expert, OPTION: 1}]}"


def as_written_before(text: str) -> str:
    assert "layer_interval" in text
    return text.replace("layer_interval", "every")


def test_a_run_recorded_with_the_old_name_resumes(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.warns(ContractWarning, match=r"steps\[1\]\.every .*`layer_interval`"):
        train(load_recipe(*SHORT, STEPS.replace("OPTION", "every")), run)
    record = provenance.read(run / PROVENANCE)
    steps = record["recipe"]["model"]["inputs"]["image"]["adapter"]["steps"]
    assert steps == [{"name": "mlp"}, {"name": "visual_expert", "layer_interval": 1}]

    folder.create(tmp_path / "other", load_recipe(*SHORT, STEPS.replace("OPTION", "every")))
    (tmp_path / "other" / folder.RECIPE).rename(run / folder.RECIPE)
    checkpoint.of_stage(run / folder.CHECKPOINTS, 1).path.rename(tmp_path / "undisturbed")
    left = checkpoint.latest(run / folder.CHECKPOINTS)
    assert left is not None
    for file in (run / PROVENANCE, left.path / PROVENANCE):
        file.write_text(provenance.dump(json.loads(as_written_before(file.read_text()))))
    (left.path / manifest.MANIFEST).unlink()
    manifest.write(left.path)

    train(folder.reopen(run), run, resume=True)
    again = checkpoint.of_stage(run / folder.CHECKPOINTS, 1)
    before = checkpoint.Checkpoint(tmp_path / "undisturbed").weights()
    after = again.weights()
    assert before.keys() == after.keys() and all(after[name].equal(before[name]) for name in before)
    assert provenance.read(run / PROVENANCE)["history"][-1]["changes"] == []
