"""Code that somebody else's run or recipe brings does not run until its user says that he trusts it."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest

import omnivit
from omnivit.cli import main
from omnivit.errors import CheckpointError, RecipeError
from omnivit.recipe import load as load_recipe
from omnivit.run.check import build_on_meta
from omnivit.run.trust import foreign_code, remember, require

RECIPE = """
data: {root: .}
model:
  llm: {name: causal, path: ./llm, tokenizer: bytes, trust_remote_code: true}
  inputs:
    features:
      - encoder: {name: features, width: 6}
        adapter: {name: chain, steps: [{name: "stranger:Adapter"}, {name: omnivit:linear}]}
stages:
  - {name: s, data: [{path: d.jsonl, reader: "stranger:Reader"}], train: {"adapters.*": 1e-3}}
"""
RUNS_CODE = "from pathlib import Path\nPath({marker!r}).write_text('ran')\nraise RuntimeError('the code ran')\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of somebody else, with a module and an LLM whose code leaves a mark when it runs."""
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(builtins, "input", lambda _: pytest.fail("transformers asks at the terminal"))
    code = RUNS_CODE.format(marker=str(tmp_path / "marker"))
    (tmp_path / "stranger.py").write_text(code)
    folder = tmp_path / "run"
    (folder / "llm").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    auto_map = {"AutoConfig": "strange.StrangeConfig", "AutoModelForCausalLM": "strange.Strange"}
    (folder / "llm" / "config.json").write_text(json.dumps({"model_type": "strange", "auto_map": auto_map}))
    (folder / "llm" / "strange.py").write_text(code)
    (folder / "llm" / "model.safetensors").write_bytes(b"")
    return folder


def test_every_verb_refuses_and_nothing_runs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, data = str(run / "recipe.yaml"), str(run / "recipe.yaml")
    commands = [
        ["generate", str(run), "?"],
        ["chat", str(run)],
        ["eval", str(run), "--data", data],
        ["train", "--resume", str(run)],
        ["media", data, "--recipe", str(run)],
        ["media", data, "--recipe", recipe],
        ["check", recipe],
    ]
    for command in commands:
        assert main(command) == 2, command
        err = capsys.readouterr().err
        assert "model.llm.trust_remote_code" in err, command
        assert "runs Python code that is stored with its checkpoint" in err, command
        assert "model.inputs.features[0].adapter.steps[0].name" in err and "--trust" in err, command
        assert ("stages[0].data[0].reader" in err) == (command[0] in ("train", "check", "eval")), command
    with pytest.raises(RecipeError, match="trust=True"):
        omnivit.load(run)
    assert main(["show", recipe]) == 0  # imports nothing
    assert not (run.parent / "marker").exists()


def test_it_runs_for_who_trusts_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint yet"):  # past the question
        omnivit.load(run, trust=True)
    assert main(["check", str(run / "recipe.yaml"), "--trust", "--without-data"]) == 2
    assert "the code ran" in capsys.readouterr().err and (run.parent / "marker").exists()


def test_what_was_trained_here_is_known(run: Path) -> None:
    recipe = load_recipe(run / "recipe.yaml")
    remember(recipe)
    require(recipe, False, run)
    changed = load_recipe(run / "recipe.yaml", ["seed=1"])
    with pytest.raises(RecipeError):
        require(changed, False, run)


def test_code_of_a_checkpoint_is_refused_and_not_asked_about(run: Path) -> None:
    plain = ["model.llm.trust_remote_code=false", "model.inputs.features.0.adapter={name: linear}", "stages=[]"]
    recipe = load_recipe(run / "recipe.yaml", plain)
    assert foreign_code(recipe) == []
    with pytest.raises(RecipeError, match="contains Python code, which is not run unless you trust it"):
        build_on_meta(recipe)
    assert not (run.parent / "marker").exists()
    kernel = load_recipe(run / "recipe.yaml", [*plain, "model.llm.attention=some/kernel"])
    assert "model.llm.attention" in foreign_code(kernel)[0]


def test_a_run_with_a_class_of_its_own_opens_where_it_was_trained(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_own.py").write_text("from omnivit_adapters.linear import LinearAdapter as Mine")
    mine = "model.inputs.image.adapter={name: 'my_own:Mine'}"
    few = ["stages.align.steps=1", "stages.instruct.steps=1", "data.workers=0"]
    assert main(["check", str(recipe_file), mine]) == 2
    assert "--trust" in capsys.readouterr().err
    assert main(["train", str(recipe_file), "--run-dir", str(tmp_path / "run"), mine, *few]) == 0
    assert omnivit.load(tmp_path / "run").slots == ("image",)
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "elsewhere"))
    with pytest.raises(RecipeError, match="my_own:Mine"):
        omnivit.load(tmp_path / "run")
