"""`omnivit import` is the inverse of `omnivit export` where there is one: the run that comes back is the same.

Tolerance: none but for peft, whose LoRA is added to an LLM in another order of operations: 1e-6 of log-probabilities.
The form of LLaVA comes back in test_export_native.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from assistant_support import make_run
from PIL import Image
from safetensors.torch import load_file, save_file
from tests_support import RECIPE

from omnivit import cli, load
from omnivit.recipe import load as load_recipe
from omnivit.run.export import export
from omnivit.run.export.opened import OpenRun, open_run
from omnivit.run.importing import KINDS, kind_of


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    home = tmp_path_factory.mktemp("import")
    (home / "tiny.yaml").write_text(RECIPE.format(root=home))
    return open_run(make_run(load_recipe(home / "tiny.yaml", ["model.llm.lora.dora=true"]), home / "run"))


def conversation() -> list[dict[str, Any]]:
    picture = Image.linear_gradient("L").resize((50, 40)).convert("RGB")
    question = [{"type": "image", "image": picture}, {"type": "text", "text": "Which colour?"}]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "Grey."}]


def test_every_export_with_an_inverse_comes_back(
    opened: OpenRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = opened.assistant.score(conversation()).tolist()
    export(opened, "hf", tmp_path / "general", {"form": "any"})
    export(opened, "safetensors", tmp_path / "tensors", {})
    assert kind_of(tmp_path / "general") == "omnivit" and kind_of(tmp_path / "tensors") == "safetensors"
    for arguments in ((tmp_path / "general",), (tmp_path / "tensors" / "trained.safetensors", "--out", tmp_path / "t")):
        assert cli.main(["import", *map(str, arguments)]) == 0
        printed = capsys.readouterr().out
        run = Path(printed.partition(" is ready")[0])
        assert load(run, device="cpu").score(conversation()).tolist() == expected, printed
        assert load_recipe(run / "recipe.yaml").stages[-1].name == "instruct"
    moved = (tmp_path / "general-run").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "general")
    export(open_run(moved), "hf", tmp_path / "again", {"form": "any"})
    monkeypatch.chdir(tmp_path)
    assert cli.main(["import-hf", "again"]) == 0  # the earlier name
    assert load("again-run", device="cpu").score(conversation()).tolist() == expected


def test_a_lora_of_peft_comes_back_into_its_run(opened: OpenRun, tmp_path: Path) -> None:
    export(_only_lora(opened, tmp_path / "only"), "peft", tmp_path / "peft", {})
    assert kind_of(tmp_path / "peft") == "peft"
    arguments = ["import", str(tmp_path / "peft"), "--out", str(tmp_path / "back")]
    assert cli.main([*arguments, "--recipe", str(tmp_path / "only")]) == 0
    expected = load(tmp_path / "only", device="cpu").score(conversation()).tolist()
    back = load(tmp_path / "back", device="cpu")
    assert back.score(conversation()).tolist() == pytest.approx(expected, abs=1e-6)
    assert back.recipe.model.llm["lora"]["dora"] is True
    shutil.rmtree(tmp_path / "back")
    assert cli.main([*arguments, "--recipe", str(tmp_path / "only" / "recipe.yaml")]) == 0
    fresh = load(tmp_path / "back", device="cpu").model
    trained = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj.lora_A"
    assert fresh.get_parameter(f"llm.hf.{name}.default.weight").equal(trained[f"base_model.model.{name}.weight"])


def _only_lora(opened: OpenRun, folder: Path) -> OpenRun:
    """A run whose LLM has changed by its LoRA alone."""
    make_run(opened.recipe, folder)
    name = "01-instruct-step-00000001"
    from omnivit.train import checkpoint

    before = checkpoint.latest(folder / "checkpoints")
    assert before is not None
    state = before.state
    weights = {n: v for n, v in before.weights().items() if not n.startswith("llm.") or ".lora_" in n}
    shutil.rmtree(folder / "checkpoints")
    checkpoint.save(folder / "checkpoints", name, weights, {}, state)
    return open_run(folder)


def test_what_cannot_be_imported_is_explained(
    opened: OpenRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(opened, "safetensors", tmp_path / "tensors", {})
    export(opened, "merged", tmp_path / "merged", {})
    file = tmp_path / "tensors" / "trained.safetensors"
    tensors = load_file(file)
    save_file({n: v for n, v in tensors.items() if "adapters" not in n}, tmp_path / "few.safetensors")
    save_file(tensors | {"strange": torch.zeros(3)}, tmp_path / "many.safetensors")
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "image.onnx").touch()
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    (tmp_path / "merged" / "model.gguf").touch()  # beside the files of transformers
    recipe = str(opened.folder)
    cases = {
        ("nowhere",): "no such file or folder",
        (str(opened.folder),): "is a run already",
        (str(tmp_path / "merged"),): "is an LLM alone, so it needs no import",
        (str(tmp_path / "graph"),): "An ONNX graph holds computations",
        (str(tmp_path / "few.safetensors"),): "its metadata has no recipe",
        (str(tmp_path / "few.safetensors"), "--recipe", recipe): "tensors are missing (4): adapters.image",
        (str(tmp_path / "many.safetensors"), "--recipe", recipe): "no place in the recipe's model (1): strange",
        (str(file), "--template", "chatml"): "--template has no effect here",
        (str(tmp_path / "lora"),): "Name the recipe or run whose LLM it belongs to",
        (str(tmp_path / "lora"), "--recipe", recipe): "contains none of adapter_model.safetensors",
        (str(file), "--out", str(tmp_path)): "exists. Choose another --out",
    }
    for arguments, message in cases.items():
        assert cli.main(["import", *arguments]) == 2
        assert message in capsys.readouterr().err, arguments
    assert not list(tmp_path.glob("*-run")) and not list(tmp_path.glob(".partial*"))
    assert cli.main(["import", "--help"]) == 0
    printed = "".join(capsys.readouterr().out.split())  # lines are broken also at hyphens
    assert all("".join(kind.line.split()) in printed for kind in KINDS.values())
