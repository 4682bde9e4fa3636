"""A device that is not there is the user's or the machine's matter: it is named before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omnivit import cli
from omnivit.errors import RecipeError
from omnivit.model.device import available, device_named, trainer_device

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_the_cpu_is_always_there() -> None:
    assert available()[0] == "cpu" == device_named("cpu")
    assert device_named(None) == ("cuda" if torch.cuda.is_available() else "cpu")
    assert trainer_device({"accelerator": "cpu"}) == "cpu"
    with pytest.raises(RecipeError, match=r"device 'cpux' is not a device of torch; did you mean 'cpu'\?"):
        device_named("cpux")


@without_gpu
def test_a_missing_gpu_is_named_with_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"device 'cuda:1': .* Available: cpu"):
        device_named("cuda:1")
    for accelerator in ("gpu", "cuda"):
        with pytest.raises(RecipeError, match=rf"trainer\.accelerator is {accelerator}, but"):
            trainer_device({"accelerator": accelerator})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert trainer_device({}) == trainer_device({"accelerator": "gpu"}) == "cuda" == device_named("cuda")
    assert device_named("cuda:1") == "cuda:1"
    with pytest.raises(RecipeError, match=r"device 'cuda:2': this machine has 2 GPU\(s\), numbered from 0"):
        device_named("cuda:2")


@without_gpu
def test_commands_refuse_it_as_a_mistake_and_not_as_a_defect(
    recipe_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert cli.main(["check", str(recipe_file), "trainer.accelerator=gpu"]) == 2
    assert cli.main(["train", str(recipe_file), "--run-dir", str(run), "trainer.accelerator=gpu"]) == 2
    assert not run.exists()
    error = capfd.readouterr().err
    assert error.count("error: trainer.accelerator is gpu, but") == 2 and "defect" not in error
