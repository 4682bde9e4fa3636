"""`--set` when a run is opened: what was moved is found again, and what would make another model is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

import omnivit
from omnivit.cli import main
from omnivit.errors import CheckpointError, OmniVitWarning, RecipeError
from omnivit.recipe import load as load_recipe
from omnivit.recipe import to_yaml
from omnivit.run.overrides import load_opened
from omnivit.run.same_weights import require_same


@pytest.fixture
def moved(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the run whose data are in `tmp_path / new`, and no longer where its recipe says."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    shutil.copytree(trained_run.parent / "data", tmp_path / "new")
    recipe = load_recipe(run / "recipe.yaml", [f"data.root={tmp_path / 'old'}"])
    (run / "recipe.yaml").write_text(to_yaml(recipe))
    return run


def test_moved_data_are_named_with_key_file_and_remedy(
    moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = ["pack", str(moved), str(tmp_path / "out.tar"), "--with-samples", "2"]
    assert main(pack) == 2
    err = capsys.readouterr().err
    assert "data.root (" in err and "run/recipe.yaml:" in err and f"no folder {tmp_path / 'old'}" in err
    assert "`--set data.root=NEW`" in err
    assert main([*pack, "--set", f"data.root={tmp_path / 'new'}"]) == 0


def test_verbs_take_overrides(moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(tmp_path / "new" / "pictures" / "blue.png")
    ask = ["generate", str(moved), "Which colour?", "--image", image, "--max-new-tokens", "2"]
    assert main([*ask, "--set", f"data.root={tmp_path / 'new'}", "--set", "model.llm.attention=eager"]) == 0
    evaluate = ["eval", str(moved), "--data", str(tmp_path / "new" / "held.jsonl"), "--max-new-tokens", "2", "--json"]
    capsys.readouterr()
    assert main([*evaluate, "--set", "evaluation.metric=no_such_metric"]) == 2  # it is read: there is no such metric
    assert "no_such_metric" in capsys.readouterr().err
    assert main(["media", image, "--recipe", str(moved), "--set", "model.llm.dtype=bfloat16"]) == 0
    assert main(["media", image, "--set", "data.root=."]) == 2


@pytest.mark.parametrize("verb", ["generate", "chat", "eval", "predict", "serve", "ui", "export", "pack", "media"])
def test_no_verb_makes_another_model(
    verb: str, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = str(trained_run), str(trained_run.parent / "data" / "held.jsonl")
    arguments = {
        "generate": [run, "?"],
        "eval": [run, "--data", data],
        "predict": [run, "--data", data, "--out", str(tmp_path / "a.jsonl")],
        "serve": [run, "--port", "0"],
        "ui": [run, "--port", "0", "--no-browser"],
        "export": [run, "--to", "safetensors", "--out", str(tmp_path / "out")],
        "pack": [run, str(tmp_path / "out.tar")],
        "media": [data, "--recipe", run],
    }.get(verb, [run])
    assert main([verb, *arguments, "--set", "model.inputs.image.adapter.depth=3"]) == 2
    err = capsys.readouterr().err
    assert "--set model.inputs.image.adapter.depth: was" in err and "another model" in err
    assert "these can be set: data.root" in err


def test_what_has_no_effect_is_refused(trained_run: Path) -> None:
    with pytest.raises(RecipeError, match=r"trainer\.precision: only training reads this key"):
        load_opened(trained_run / "recipe.yaml", ["trainer.precision=bf16-mixed"])
    with pytest.raises(RecipeError, match="did you mean 'root'"):
        load_opened(trained_run / "recipe.yaml", ["data.rot=x"])
    with pytest.raises(RecipeError, match=r"template: was .*another model"):
        load_opened(trained_run / "recipe.yaml", ["model.llm.template=chatml"])


def test_trust_is_asked_for_what_is_set(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = ["generate", str(trained_run), "?", "--set"]
    assert main([*question, "evaluation.metric=stranger:Metric"]) == 2
    err = capsys.readouterr().err
    assert "evaluation.metric (command line): 'stranger:Metric' imports a module" in err and "--trust" in err


def save_llm(folder: Path, seed: int) -> Path:
    import torch

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **sizes)).save_pretrained(folder)
    return folder


def test_weights_at_a_new_place_have_to_be_the_same(tmp_path: Path, data_root: Path, recipe_file: Path) -> None:
    llm, run = save_llm(tmp_path / "llm", 1), tmp_path / "run"
    changes = [f"model.llm.path={llm}", "model.llm.config=null", "stages.align.steps=1", "stages.instruct.steps=1"]
    assert main(["train", str(recipe_file), "--run-dir", str(run), *changes]) == 0
    image = str(data_root / "red.png")
    before = omnivit.load(run).ask("?", image=image, max_new_tokens=4)
    llm.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"model\.llm\.path \(.*recipe\.yaml:\d+\): there is no .*--set model"):
        omnivit.load(run)
    there = f"model.llm.path={tmp_path / 'moved'}"
    assert omnivit.load(run, overrides=[there]).ask("?", image=image, max_new_tokens=4) == before
    other = f"model.llm.path={save_llm(tmp_path / 'other', 2)}"
    with pytest.raises(CheckpointError, match="llm does not have the weights that the run was trained with"):
        omnivit.load(run, overrides=[other])
    assistant = omnivit.load(run, overrides=[there])
    record = json.loads((run / "provenance.json").read_text())
    record["weights"]["llm"] = "sha256:0"
    record["libraries"]["torch"] = "0.1"
    with pytest.warns(OmniVitWarning, match=r"torch 0\.1, now"):
        require_same(assistant.model, assistant.recipe, record)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_same(assistant.model, assistant.recipe, {})


def test_a_run_and_its_data_move_together(data_root: Path, recipe_file: Path, tmp_path: Path) -> None:
    """With `data.relative_root`, what was moved opens, evaluates its own questions and resumes to the same weights."""
    project = tmp_path / "project"
    shutil.copytree(data_root, project / "data")
    data = project / "data" / "train.jsonl"
    data.write_text(data.read_text() + '{"id": "bad", "messages": []}\n')
    llm_options = [f"model.llm.path={save_llm(project / 'data' / 'llm', 1)}", "model.llm.config=null"]
    asked = "evaluation={data: [{path: train.jsonl, limit: 4}], conditions: [none], max_new_tokens: 2}"
    skipping = ["data.on_bad_sample=skip", "data.skip_budget=0.5", f"data.root={project / 'data'}"]
    steps = ["stages.align.steps=8", "stages.instruct.steps=1", "data.relative_root=true"]
    run = project / "runs" / "first"
    assert main(["train", str(recipe_file), "--run-dir", str(run), *llm_options, asked, *skipping, *steps]) == 0
    assert str(tmp_path) not in (run / "recipe.yaml").read_text()
    report = json.loads((run / "report.json").read_text())
    skipped = report["stages"][0]["skipped_samples"]
    assert len(skipped) == 1 and skipped[0].startswith("train.jsonl:25"), skipped
    weights = (run / "checkpoints" / "01-instruct-step-00000001" / "model.safetensors").read_bytes()

    moved = tmp_path / "elsewhere" / "project"
    moved.parent.mkdir()
    project.rename(moved)
    run = moved / "runs" / "first"
    assert omnivit.load(run).ask("?", image=str(moved / "data" / "red.png"), max_new_tokens=2) is not None
    assert main(["eval", str(run), "--data", str(moved / "data" / "train.jsonl"), "--limit", "2"]) == 0
    shutil.rmtree(run / "checkpoints" / "01-instruct-step-00000001")
    assert main(["train", "--resume", str(run)]) == 0
    again = (run / "checkpoints" / "01-instruct-step-00000001" / "model.safetensors").read_bytes()
    assert again == weights
    history = json.loads((run / "provenance.json").read_text())["history"]
    assert history[-1]["changes"] == [] and any("llm.path" in line for line in history[-1]["without_effect"])


def test_resume_takes_a_new_root_and_keeps_it(moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(moved)]) == 2
    assert "--set data.root=NEW" in capsys.readouterr().err
    assert main(["train", "--resume", str(moved), "--set", "seed=4"]) == 2
    here = f"data.root={tmp_path / 'new'}"
    assert main(["train", "--resume", str(moved), "--set", here, "--set", "stages.align.batch_size=2"]) == 2
    assert "stages[0].batch_size" in capsys.readouterr().err
    assert load_recipe(moved / "recipe.yaml").data.root == str(tmp_path / "old")  # nothing was accepted yet
    assert main(["train", "--resume", str(moved), "--set", here]) == 0
    assert load_recipe(moved / "recipe.yaml").data.root == str(tmp_path / "new")
    assert main(["train", "nothing.yaml", "--set", here]) == 2
    assert "--set works only with --resume" in capsys.readouterr().err
