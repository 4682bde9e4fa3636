"""`omnivit export`: the verb, its errors, and the kinds that need no other library to be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from assistant_support import make_run
from PIL import Image
from safetensors import safe_open
from tests_support import RECIPE

from omnivit import cli
from omnivit.errors import OmniVitError
from omnivit.recipe import load as load_recipe
from omnivit.run.export import default_folder, export, kind_named, known_options
from omnivit.run.export.opened import OpenRun, open_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of CLIP, two linear layers and Llama with LoRA, and a picture beside it."""
    home = tmp_path_factory.mktemp("export")
    (home / "tiny.yaml").write_text(RECIPE.format(root=home))
    red, green = Image.linear_gradient("L").resize((40, 36)), Image.radial_gradient("L").resize((40, 36))
    Image.merge("RGB", (red, green, red)).save(home / "picture.png")
    return make_run(load_recipe(home / "tiny.yaml"), home / "run")


@pytest.fixture(scope="module")
def opened(folder: Path) -> OpenRun:
    return open_run(folder)


def test_all_trained_tensors_are_in_one_file_with_metadata(opened: OpenRun, tmp_path: Path) -> None:
    export(opened, "safetensors", tmp_path / "out", {})
    with safe_open(tmp_path / "out" / "trained.safetensors", "pt") as file:
        metadata = file.metadata()
        own = dict(opened.assistant.model.named_parameters())
        assert set(file.keys()) <= own.keys() and any("lora_A" in name for name in set(file.keys()))
        assert all(torch.equal(file.get_tensor(name), own[name]) for name in set(file.keys()))
    assert "hidden_size: 32" in metadata["recipe"] and metadata["omnivit"] == "0.1.0"
    assert {"adapters.image", "llm.hf"} <= set(json.loads(metadata["components"]))


def test_wrong_requests_are_explained(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("precious")
    cases = {
        ("--to", "safetensor"): "no such kind of export; did you mean 'safetensors'?",
        ("--to", "safetensors", "--out", str(tmp_path)): "exists. Choose another folder with `--out`",
        ("--to", "safetensors", "--out", str(tmp_path), "--overwrite"): "holds no export",
        ("--to", "safetensors", "nonsense"): "Write key=value",
    }
    for arguments, message in cases.items():
        assert cli.main(["export", str(folder), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "precious"
    with pytest.raises(OmniVitError, match="no such option; did you mean 'dtype'"):
        known_options({"dtyp": "float32"}, {"dtype": "float32"}, "hf")
    assert default_folder(folder, "hf") == folder.with_name("run-hf")
    assert kind_named("safetensors").line


def test_an_export_that_fails_leaves_nothing(opened: OpenRun, tmp_path: Path) -> None:
    with pytest.raises(OmniVitError, match="no such option"):
        export(opened, "safetensors", tmp_path / "out", {"nonsense": 1})
    assert not any(tmp_path.iterdir())
    export(opened, "safetensors", tmp_path / "out", {})
    export(opened, "safetensors", tmp_path / "out", {}, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
