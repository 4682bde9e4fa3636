"""Checking, training, resuming and evaluating from Python, as the command line does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as notices

import omnivit
from omnivit.errors import CheckpointError, RecipeError
from omnivit.model.pretrained import load_pretrained


def test_a_recipe_is_checked_trained_evaluated_and_resumed(
    recipe_file: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = ["stages.align.steps=1", "stages.instruct.steps=1"]
    summary = omnivit.check_recipe(recipe_file, steps)
    assert [stage.steps for stage in summary.stages] == [1, 1]
    run = omnivit.train_recipe(recipe_file, steps)
    assert run == Path("runs/tiny") and (run / "report.json").is_file()
    with pytest.raises(CheckpointError, match="already contains a run"):
        omnivit.train_recipe(recipe_file, steps, run_dir=run)
    score = omnivit.evaluate_run(run, data_root / "train.jsonl", condition="none", limit=3, max_new_tokens=2)
    assert score.accuracy.n == 3 and [each.reference for each in score.answers] == ["red", "green", "blue"]
    with pytest.raises(RecipeError, match="expected 'true', 'shuffled' or 'none'"):
        omnivit.evaluate_run(run, data_root / "train.jsonl", condition="blind")  # type: ignore[arg-type]
    assert omnivit.resume_run(run) == run  # nothing is left to train: it is evaluated and reported again
    assistant = omnivit.load(run)
    assert repr(assistant).startswith("Assistant(causal, inputs: image, context: 1024 tokens")
    questions = [("Which colour?", {"image": str(data_root / f"{name}.png")}) for name in ("red", "blue")]
    assert assistant.ask_many(questions, max_new_tokens=3) == [
        assistant.ask(text, max_new_tokens=3, **media) for text, media in questions
    ]


def test_names_are_listed_and_nothing_is_imported() -> None:
    code = "import omnivit, sys; print(sorted(set(dir(omnivit)) & set(omnivit.__all__)), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{sorted(omnivit.__all__)} False"
    assert {"check_recipe", "train_recipe", "resume_run", "evaluate_run", "load"} <= set(omnivit.__all__)


def test_tensors_that_are_not_used_print_no_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"tower.weight": torch.zeros(2)}, file, {"format": "pt"})
    before, bars = notices.get_verbosity(), notices.is_progress_bar_enabled()
    notices.set_verbosity_warning()
    try:
        LlamaForCausalLM.from_pretrained(tmp_path)
        assert "UNEXPECTED" in caplog.text  # transformers' own table
        caplog.clear()
        load_pretrained(LlamaForCausalLM, tmp_path, "llm")
        assert not caplog.text
        assert notices.get_verbosity() == notices.WARNING and notices.is_progress_bar_enabled() == bars
        save_file({name: value for name, value in tensors.items() if "q_proj" not in name}, file, {"format": "pt"})
        with pytest.raises(RecipeError, match=r"lacks 1 weights of LlamaForCausalLM: .*q_proj"):
            load_pretrained(LlamaForCausalLM, tmp_path, "llm")
    finally:
        notices.set_verbosity(before)
