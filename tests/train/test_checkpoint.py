"""A checkpoint is whole or not there; the one before stays until the new one stands."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from omnivit.errors import CheckpointError
from omnivit.recipe import Keep
from omnivit.train import checkpoint, manifest
from omnivit.train.freeze import buffers_beside
from omnivit.train.keep import prune
from omnivit.train.manifest import MANIFEST

STATE = {"stage": "align", "stage_index": 0, "step": 1, "total_steps": 20, "skipped": [], "seconds": 0.5}


def save(folder: Path, step: int, size: int = 4) -> Path:
    name = checkpoint.checkpoint_name(0, "align", step)
    path = checkpoint.save(folder, name, {"w": torch.full((size,), float(step))}, {}, STATE | {"step": step})
    prune(folder, Keep(last=1))
    return path


def test_newest_counts_and_older_goes(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save(tmp_path, step)
    assert [c.state["step"] for c in checkpoint.find(tmp_path)] == [10]
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.weights()["w"].tolist() == [10.0] * 4


def test_other_stages_stay(tmp_path: Path) -> None:
    save(tmp_path, 5)
    checkpoint.save(
        tmp_path,
        checkpoint.checkpoint_name(1, "instruct", 3),
        {},
        {},
        STATE | {"stage_index": 1, "stage": "instruct", "step": 3},
    )
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


def flip(file: Path, bit: int) -> None:
    """One bit of a file, counted from its end."""
    content = bytearray(file.read_bytes())
    content[-1 - bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


@pytest.mark.parametrize("file", [checkpoint.WEIGHTS, checkpoint.OPTIMIZER, checkpoint.STATE, MANIFEST])
@pytest.mark.parametrize("bit", [3, 77])
def test_one_flipped_bit_is_found(tmp_path: Path, file: str, bit: int) -> None:
    flip(save(tmp_path, 1) / file, bit)
    with pytest.raises(CheckpointError, match=f"no checkpoint is intact(.|\n)*{file}"):
        checkpoint.latest(tmp_path)


@pytest.mark.parametrize("file", [checkpoint.WEIGHTS, checkpoint.STATE, MANIFEST])
def test_a_file_that_is_gone_is_named(tmp_path: Path, file: str) -> None:
    (save(tmp_path, 1) / file).unlink()
    with pytest.raises(CheckpointError, match=f"{file}: cannot be read"):
        checkpoint.latest(tmp_path)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = save(tmp_path, 5)
    newer = checkpoint.save(
        tmp_path, checkpoint.checkpoint_name(1, "instruct", 3), {"w": torch.ones(4)}, {},
        STATE | {"stage": "instruct", "stage_index": 1, "step": 3},
    )  # fmt: skip
    flip(newer / checkpoint.WEIGHTS, 5)
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.path == older and found.weights()["w"].tolist() == [5.0] * 4
    assert f"{newer} is damaged. {older.name} is used instead" in caplog.text
    assert "model.safetensors: its SHA-256 is " in caplog.text
    checkpoint.set_aside_damaged(tmp_path, found)
    assert [c.path for c in checkpoint.find(tmp_path)] == [older]
    again = checkpoint.save(
        tmp_path, newer.name, {"w": torch.ones(4)}, {}, STATE | {"stage": "instruct", "stage_index": 1, "step": 3}
    )
    checkpoint.Checkpoint(again).check()  # the run writes anew what was damaged
    save(tmp_path, 6)
    assert not list(tmp_path.glob(".damaged-*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "step is -1, but the stage has 20 steps"),
        ({"step": 21}, "step is 21, but the stage has 20 steps"),
        ({"step": "7"}, "step is '7'"),
        ({"step": True}, "step is True"),
        ({"stage_index": 1}, "it is the state of 01-align-step-00000007"),
        ({"total_steps": None}, "total_steps is None"),
        ({"skipped": "none"}, "skipped is 'none'"),
    ],
)
def test_a_state_that_cannot_be_is_refused_even_with_a_manifest_that_fits(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = save(tmp_path, 7)
    (path / checkpoint.STATE).write_text(json.dumps(STATE | {"step": 7} | change))
    (path / MANIFEST).unlink()
    manifest.write(path)
    with pytest.raises(CheckpointError, match=re.escape(f"{path / checkpoint.STATE}: {message}")):
        checkpoint.latest(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"files": {"state.json": 3}, "checksum": ""}'])
def test_damaged_json_is_a_checkpoint_error(tmp_path: Path, content: str) -> None:
    path = save(tmp_path, 7)
    (path / MANIFEST).write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json: "):
        checkpoint.latest(tmp_path)
    (path / MANIFEST).unlink()
    (path / checkpoint.STATE).write_text(content)
    manifest.write(path)
    with pytest.raises(CheckpointError, match=r"state\.json: cannot be read"):
        checkpoint.latest(tmp_path)


def test_files_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = save(tmp_path, 1)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o640}


WRITER = """
import sys, torch
from pathlib import Path
from omnivit.recipe import Keep
from omnivit.train import checkpoint
from omnivit.train.keep import prune
step = 1
while True:
    state = {"stage": "align", "stage_index": 0, "step": step, "total_steps": 10**7, "skipped": [], "seconds": 0.5}
    name, weights = checkpoint.checkpoint_name(0, "align", step), {"w": torch.full((64,), 1.0 * step)}
    checkpoint.save(Path(sys.argv[1]), name, weights, {}, state)
    prune(Path(sys.argv[1]), Keep(last=1))
    step += 1
"""


def test_loading_while_checkpoints_are_replaced_never_fails(tmp_path: Path) -> None:
    """A process that only writes, and one that only reads: every reading is of one whole checkpoint, and none older."""
    save(tmp_path, 0)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    readings: list[tuple[int, float]] = []
    try:
        deadline = time.monotonic() + 60
        while len({step for step, _ in readings}) < 40 and time.monotonic() < deadline:
            found = checkpoint.read_latest(tmp_path, lambda c: (c.state["step"], c.weights()["w"][0].item()))
            assert found is not None
            readings.append(found)
    finally:
        writer.kill()
        writer.wait()
    assert len({step for step, _ in readings}) >= 40, "the writer was too slow to show anything"
    assert all(step == value for step, value in readings)
    assert [step for step, _ in readings] == sorted(step for step, _ in readings)


def test_weights_must_fit() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="contains 'other'"):
        checkpoint.load_weights(model, {"other": torch.zeros(1)}, Path("x"))
    with pytest.raises(CheckpointError, match=r"'bias' has the shape \(3,\), but the recipe's model expects \(2,\)"):
        checkpoint.load_weights(model, {"bias": torch.zeros(3)}, Path("x"))
    with pytest.raises(CheckpointError, match=r"'bias' has the dtype torch\.int8, but .* expects torch\.float32"):
        checkpoint.load_weights(model, {"bias": torch.zeros(2, dtype=torch.int8)}, Path("x"))
    with pytest.raises(CheckpointError, match="does not contain bias, weight, which the recipe trains"):
        checkpoint.load_weights(model, {}, Path("x"), {"weight", "bias"})


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
    assert buffers_beside(model, {"1.weight"}) == {
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }


def test_state_is_json(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    assert json.loads((path / checkpoint.STATE).read_text())["step"] == 7
