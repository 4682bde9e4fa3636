"""A checkpoint is whole or not there; the one before stays until the new one stands."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from omnivit.errors import CheckpointError
from omnivit.train import checkpoint

STATE = {"stage": "align", "stage_index": 0, "step": 1}


def save(folder: Path, step: int, size: int = 4) -> Path:
    name = checkpoint.checkpoint_name(0, "align", step)
    return checkpoint.save(folder, name, {"w": torch.full((size,), float(step))}, {}, STATE | {"step": step})


def test_newest_counts_and_older_goes(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save(tmp_path, step)
    assert [c.state["step"] for c in checkpoint.find(tmp_path)] == [10]
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.weights()["w"].tolist() == [10.0] * 4


def test_other_stages_stay(tmp_path: Path) -> None:
    save(tmp_path, 5)
    checkpoint.save(tmp_path, checkpoint.checkpoint_name(1, "instruct", 3), {}, {}, STATE | {"stage_index": 1})
    assert len(checkpoint.find(tmp_path)) == 2
    assert checkpoint.of_stage(tmp_path, 0).state["step"] == 5


def test_full_disk_keeps_the_one_before(tmp_path: Path) -> None:
    """A real write that the kernel refuses: the file-size limit of a child process stands for the full disk."""
    save(tmp_path, 1)
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.RLIM_INFINITY}))
import torch
from pathlib import Path
from omnivit.train import checkpoint
checkpoint.save(Path({str(tmp_path)!r}), checkpoint.checkpoint_name(0, "align", 2),
                {{"w": torch.zeros(100_000)}}, {{}}, {STATE | {"step": 2}!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "CheckpointError" in done.stderr and "Earlier checkpoints are untouched" in done.stderr
    assert [c.state["step"] for c in checkpoint.find(tmp_path)] == [1]
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.checkpoint_name(0, "align", 1)]


def test_unfinished_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / (".partial-" + checkpoint.checkpoint_name(0, "align", 2))).mkdir()
    assert [c.state["step"] for c in checkpoint.find(tmp_path)] == [1]


def test_kill_while_an_older_one_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill half removed bears no checkpoint's name, and the next save clears it away."""
    save(tmp_path, 1)

    def killed(path: Path, **_: object) -> None:
        (path / checkpoint.STATE).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        save(tmp_path, 2)
    assert [c.state["step"] for c in checkpoint.find(tmp_path)] == [2]
    save(tmp_path, 3)
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.checkpoint_name(0, "align", 3)]


def test_one_that_stands_is_kept(tmp_path: Path) -> None:
    assert save(tmp_path, 1) == save(tmp_path, 1, size=8)
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.weights()["w"].shape == (4,)


def test_damage_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / checkpoint.WEIGHTS).write_bytes(b"\x00" * 12)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        found.weights()
    (path / checkpoint.STATE).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"state\.json: cannot be read"):
        checkpoint.latest(tmp_path)


def test_weights_must_fit() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="holds 'other'"):
        checkpoint.load_weights(model, {"other": torch.zeros(1)}, Path("x"))
    with pytest.raises(CheckpointError, match=r"'bias' is \(3,\), the recipe's model wants \(2,\)"):
        checkpoint.load_weights(model, {"bias": torch.zeros(3)}, Path("x"))


def test_optimizer_round_trip() -> None:
    model = nn.Linear(3, 2)
    names = ["weight", "bias"]
    first = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    first.step()
    tensors = checkpoint.optimizer_tensors(first, names)
    assert {"weight::exp_avg", "bias::exp_avg_sq", "bias::step"} <= tensors.keys()
    second = torch.optim.AdamW(model.parameters(), lr=0.2)
    checkpoint.load_optimizer(second, names, tensors)
    assert second.param_groups[0]["lr"] == 0.2
    for key, value in first.state_dict()["state"][0].items():
        assert torch.equal(second.state_dict()["state"][0][key], value)


def test_buffers_train_with_their_module() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    assert checkpoint.buffers_beside(model, {"1.weight"}) == {
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }


def test_state_is_json(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    assert json.loads((path / checkpoint.STATE).read_text())["step"] == 7
