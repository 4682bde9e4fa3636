"""Code that somebody else's run or recipe brings does not run until its user says that he trusts it."""

from __future__ import annotations

import builtins
import json
import shutil
import time
from pathlib import Path

import pytest

import omnivit
from omnivit.cli import main
from omnivit.errors import CheckpointError, RecipeError
from omnivit.recipe import load as load_recipe
from omnivit.recipe import to_yaml
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
    with_readers = ("train", "check", "eval", "predict", "pack")
    commands = [
        ["generate", str(run), "?"],
        ["chat", str(run)],
        ["eval", str(run), "--data", data],
        ["train", "--resume", str(run)],
        ["predict", str(run), "--data", data, "--out", str(run.parent / "answers.jsonl")],
        ["serve", str(run), "--port", "0"],
        ["ui", str(run), "--port", "0", "--no-browser"],
        ["export", str(run), "--to", "safetensors"],
        ["pack", str(run), str(run.parent / "run.tar"), "--with-samples", "1"],
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
        assert ("stages[0].data[0].reader" in err) == (command[0] in with_readers), command
    questions = str(run.parent / "questions.jsonl")
    doors = (omnivit.load, omnivit.resume_run, lambda run: omnivit.evaluate_run(run, questions))
    for door in (*doors, lambda run: omnivit.check_recipe(run / "recipe.yaml")):
        with pytest.raises(RecipeError, match="trust=True"):
            door(run)
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


@pytest.fixture
def received(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained run from elsewhere, whose questions are read by a module that leaves a mark when it is imported."""
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "stranger.py").write_text(RUNS_CODE.format(marker=str(tmp_path / "marker")))
    shutil.copytree(trained_run, tmp_path / "received")
    recipe = load_recipe(trained_run / "recipe.yaml", ["evaluation.data.0.reader=stranger:Reader"])
    (tmp_path / "received" / "recipe.yaml").write_text(to_yaml(recipe))
    return tmp_path / "received"


def test_verbs_that_list_compare_and_pack_run_nothing(
    received: Path, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = ["pack", str(received), str(tmp_path / "run.tar")]
    assert main(pack) == main(["ls", str(tmp_path)]) == main(["compare", str(received), str(trained_run)]) == 0
    assert not (tmp_path / "marker").exists()
    capsys.readouterr()
    assert main([*pack, "--with-samples", "1"]) == 2
    err = capsys.readouterr().err
    assert "evaluation.data[0].reader" in err and "'stranger:Reader' imports a module" in err and "--trust" in err
    assert not (tmp_path / "marker").exists()
    assert main([*pack, "--with-samples", "1", "--trust"]) == 2
    assert "the code ran" in capsys.readouterr().err and (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "stopped after 1 s"),
        ("{% for a in range(10 ** 9) %}{% endfor %}", "Range too big"),
    ],
    ids=["ten billion turns", "a range of a billion"],
)
def test_a_template_of_a_received_run_that_does_not_end_is_an_error(
    loop: str, message: str, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "looping"
    shutil.copytree(trained_run, run)
    recipe = load_recipe(trained_run / "recipe.yaml")
    template = f"{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}{loop}"
    recipe.model.llm["template"] = template
    for stage in recipe.stages:
        stage.template = template
    (run / "recipe.yaml").write_text(to_yaml(recipe))
    began = time.process_time()
    assert main(["generate", str(run), "Which colour?"]) == 2
    assert message in capsys.readouterr().err
    assert time.process_time() - began < 8
