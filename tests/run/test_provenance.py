"""A run is resumed only where it is what it was: every change that moves a bit is named, with both values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from omnivit.errors import CheckpointError
from omnivit.recipe import Recipe, load
from omnivit.registry import Registry
from omnivit.run import folder, provenance
from omnivit.run.provenance import PROVENANCE, Change, plugins
from omnivit.run.provenance.execution import use_threads
from omnivit.run.provenance.weights import SAMPLE, WHOLE, fingerprint
from omnivit.run.report import as_markdown
from omnivit.run.runner import train
from omnivit.train import checkpoint, manifest

Load = Callable[..., Recipe]
SHORT = ("stages.align.steps=1", "stages.instruct.steps=2", "checkpoint_every=1", "keep.last=1")
KEY = "omnivit.encoders:thermal"


def changed(load_recipe: Load, *overrides: str) -> list[Change]:
    before, after = (provenance.of(recipe, {}, "") for recipe in (load_recipe(), load_recipe(*overrides)))
    return provenance.changes(before, after)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("stages.instruct.train={'adapters.*': 1e-3, 'llm.*lora_*': 2e-2}",
         "recipe.stages[1].train.llm.*lora_*: was 0.01, is 0.02"),
        ("seed=4", "recipe.seed: was 3, is 4"),
        ("model.llm.lora.dropout=0.2", "recipe.model.llm.lora.dropout: was 0.1, is 0.2"),
        ("model.llm.lora.alpha=8", "recipe.model.llm.lora.alpha: was 4, is 8"),
        ("stages.instruct.accumulate=4", "recipe.stages[1].accumulate: was 2, is 4"),
        ("stages.instruct.batch_size=4", "recipe.stages[1].batch_size: was 8, is 4"),
        ("trainer.gradient_clip_val=1.0", "recipe.trainer.gradient_clip_val: was None, is 1.0"),
        ("trainer.precision=bf16-mixed", "recipe.trainer.precision: was None, is 'bf16-mixed'"),
        ("model.inputs.image.encoder.layer=-1", "recipe.model.inputs.image.encoder.layer: was -2, is -1"),
        ("stages.align.weight_decay=0.1", "recipe.stages[0].weight_decay: was 0.0, is 0.1"),
        ("stages.align.schedule.name=linear", "recipe.stages[0].schedule.name: was 'cosine', is 'linear'"),
        ("stages.align.template=vicuna_v1", "recipe.stages[0].template: was None, is 'vicuna_v1'"),
        ("data.max_length=100", "recipe.data.max_length: was 512, is 100"),
        ("stages.align.data.0.weight=2", "recipe.stages[0].data[0].weight: was 1.0, is 2.0"),
    ],
)  # fmt: skip
def test_what_moves_a_bit_is_named_with_both_values(load_recipe: Load, override: str, line: str) -> None:
    found = changed(load_recipe, override)
    assert [str(change) for change in found] == [line]
    with pytest.raises(CheckpointError) as caught:
        provenance.refuse(
            Path("runs/a"), found, provenance.of(load_recipe(), {}, ""), provenance.of(load_recipe(), {}, "")
        )
    assert f"runs/a cannot be resumed exactly, because this has changed since it began:\n  {line}\n" in str(
        caught.value
    )
    assert "omnivit train --resume runs/a --allow-changes" in str(caught.value)


@pytest.mark.parametrize(
    "override",
    ["trainer.loggers=[]", "trainer.progress=true", "trainer.log_every_n_steps=5", "checkpoint_every=3",
     "data.workers=2", "data.on_bad_sample=skip", "data.skip_budget=0.5",
     "evaluation={data: [{path: train.jsonl}]}", "stages.align.validation={data: [{path: train.jsonl}], every: 2}"],
)  # fmt: skip
def test_what_moves_no_bit_may_change(load_recipe: Load, override: str) -> None:
    found = changed(load_recipe, override)
    assert found and all(change.free for change in found)
    provenance.refuse(Path("run"), found, {}, {})


def test_the_order_of_patterns_decides() -> None:
    first = {"recipe": {"stages": [{"train": {"adapters.*": 1.0, "*": 2.0}}]}}
    other = {"recipe": {"stages": [{"train": {"*": 2.0, "adapters.*": 1.0}}]}}
    assert [str(change) for change in provenance.changes(first, other)] == [
        "recipe.stages[0].train (the first pattern that matches wins): was ['adapters.*', '*'], is ['*', 'adapters.*']"
    ]


def test_a_key_is_free_by_its_whole_name() -> None:
    assert not Change("recipe.data.workers_more", 1, 2).free and Change("recipe.data.workers", 1, 2).free
    assert not Change("recipe.trainer.loggersome", 1, 2).free and not Change("plugins.recipe.data.root", 1, 2).free


def test_what_to_install_is_said() -> None:
    made = {"value": "a:B", "distribution": "omnivit-thermal", "version": "1.2.3", "plugin_version": 1}
    old = {"plugins": {KEY: made}, "libraries": {"torch": "2.1", "timm": None, "peft": "0.18"}}
    new = {"plugins": {KEY: made | {"version": "1.3"}}, "libraries": {"torch": "2.2", "timm": "1", "peft": "0.18"}}
    with pytest.raises(CheckpointError) as caught:
        provenance.refuse(Path("run"), provenance.changes(old, new), old, new)
    assert "plugins.omnivit.encoders:thermal.version: was '1.2.3', is '1.3'" in str(caught.value)
    assert '\n  pip install "omnivit-thermal==1.2.3" "torch==2.1"\n' in str(caught.value)


def test_a_record_from_before_plugin_versions_is_of_version_1(tmp_path: Path) -> None:
    record = provenance.parse(json.dumps({"plugins": {KEY: {"version": "1.2.3"}}}), tmp_path)
    assert record["plugins"][KEY]["plugin_version"] == 1


@pytest.fixture
def interrupted(load_recipe: Load, tmp_path: Path) -> Path:
    """A run that has come as far as the end of its first stage."""
    recipe, run = load_recipe(*SHORT), tmp_path / "run"
    folder.create(run, recipe)
    train(recipe, run)
    checkpoint.of_stage(run / folder.CHECKPOINTS, 1).path.rename(tmp_path / "undisturbed")
    return run


def resume(run: Path, allow_changes: bool = False) -> None:
    train(folder.reopen(run), run, resume=True, allow_changes=allow_changes)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.Checkpoint(path).weights()


def test_an_edited_recipe_is_refused_and_with_allow_changes_recorded(
    interrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = interrupted / folder.RECIPE
    edit(file, "alpha: 4", "alpha: 8")
    edit(file, "checkpoint_every: 1", "checkpoint_every: 0")
    with pytest.raises(CheckpointError, match=r"recipe\.model\.llm\.lora\.alpha: was 4, is 8") as caught:
        resume(interrupted)
    assert "checkpoint_every" not in str(caught.value)
    assert len(checkpoint.find(interrupted / folder.CHECKPOINTS)) == 1

    resume(interrupted, allow_changes=True)
    assert "continues with changes" in caplog.text and "alpha: was 4, is 8" in caplog.text
    last = checkpoint.latest(interrupted / folder.CHECKPOINTS)
    assert last is not None and last.state["stage"] == "instruct"
    assert last.document(folder.RECIPE) == file.read_text() and "alpha: 8" in file.read_text()
    for record in (json.loads(last.document(PROVENANCE)), provenance.read(interrupted / PROVENANCE)):
        [entry] = record["history"]
        assert entry["checkpoint"] == "00-align-step-00000001" and entry["host"] and entry["resumed"]
        assert entry["changes"] == ["recipe.model.llm.lora.alpha: was 4, is 8"]
        assert entry["without_effect"] == ["recipe.checkpoint_every: was 1, is 0"]
    report = as_markdown(interrupted, load(file), {}, [], 1.0, {})
    assert "- 00-align-step-00000001: recipe.model.llm.lora.alpha: was 4, is 8" in report
    before, after = weights(interrupted.parent / "undisturbed"), last.weights()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    resume(interrupted)  # what has been allowed is the run's own now


def test_unchanged_it_goes_on_to_the_same_bits(interrupted: Path) -> None:
    edit(interrupted / folder.RECIPE, "workers: 0", "workers: 1")
    resume(interrupted)
    last = checkpoint.of_stage(interrupted / folder.CHECKPOINTS, 1)
    before, after = weights(interrupted.parent / "undisturbed"), last.weights()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_plugin_that_moved_to_another_module_does_not_refuse_a_resume(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provenance_of = Registry.provenance
    monkeypatch.setattr(Registry, "provenance", lambda self, name: provenance_of(self, name) | {"value": "moved:Class"})
    resume(interrupted)
    last = checkpoint.of_stage(interrupted / folder.CHECKPOINTS, 1)
    before, after = weights(interrupted.parent / "undisturbed"), last.weights()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    [entry] = json.loads(last.document(PROVENANCE))["history"]
    assert not entry["changes"]
    change = "plugins.omnivit.llms:causal.value: was 'omnivit.model.causal:CausalLM', is 'moved:Class'"
    assert change in entry["without_effect"]


def test_only_the_place_of_a_plugin_may_change() -> None:
    assert Change(f"plugins.{KEY}.value", "a:B", "c:D").free
    assert not Change(f"plugins.{KEY}.version", "1", "2").free
    assert not Change(f"plugins.{KEY}.value", {"version": "1"}, None).free  # an entry of a plugin `thermal.value`
    assert not Change("recipe.model.llm.value", "1", "2").free


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "cannot be read: No such file or directory"),
        (lambda file: file.write_text("{"), "cannot be read: JSONDecodeError"),
        (lambda file: file.write_text("[]"), "cannot be read: TypeError"),
        (lambda file: edit(file, '"seed": 3', '"seed": 4'), "it does not match its checksum"),
    ],
)
def test_a_record_that_is_gone_or_edited_is_refused(
    interrupted: Path, damage: Callable[[Path], Any], message: str
) -> None:
    file = interrupted / PROVENANCE
    damage(file)
    for allow_changes in (False, True):
        with pytest.raises(CheckpointError, match=message) as caught:
            train(load(interrupted / folder.RECIPE), interrupted, resume=True, allow_changes=allow_changes)
    copy = checkpoint.of_stage(interrupted / folder.CHECKPOINTS, 0).path / PROVENANCE
    assert f"Every checkpoint has a copy of it: cp {copy} {file}" in str(caught.value)
    file.write_bytes(copy.read_bytes())
    resume(interrupted)


def test_half_of_the_tensors_gone_is_refused(interrupted: Path) -> None:
    """Even with a manifest that fits: the recipe says what has to be there."""
    path = checkpoint.of_stage(interrupted / folder.CHECKPOINTS, 0).path
    kept = dict(list(weights(path).items())[::2])
    (path / checkpoint.WEIGHTS).unlink()
    save_file(kept, path / checkpoint.WEIGHTS)
    with pytest.raises(CheckpointError, match=r"no checkpoint is intact(.|\n)*safetensors: the file has \d+ bytes"):
        resume(interrupted)
    (path / manifest.MANIFEST).unlink()
    manifest.write(path)
    with pytest.raises(
        CheckpointError, match=r"does not contain adapters\.image\.layers\.\d.*, which the recipe trains"
    ):
        resume(interrupted)


def test_a_renamed_stage_is_refused(interrupted: Path) -> None:
    edit(interrupted / folder.RECIPE, "name: align", "name: begin")
    with pytest.raises(
        CheckpointError, match=r"belongs to stage 'align' \(number 0\), but .* are now: begin, instruct"
    ):
        resume(interrupted, allow_changes=True)


def test_a_damaged_old_stage_does_not_block_a_newer_one(
    load_recipe: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, run = load_recipe(*SHORT), tmp_path / "run"
    train(recipe, run)
    old = checkpoint.of_stage(run / folder.CHECKPOINTS, 0).path
    (old / checkpoint.STATE).write_text("{")
    _, results = train(recipe, run, resume=True)
    assert [result.steps for result in results] == [1, 2]
    assert f"{old / checkpoint.STATE}: " in caplog.text and "The run continues from a later stage" in caplog.text


def test_base_weights_that_changed_behind_the_same_path(load_recipe: Load, tmp_path: Path) -> None:
    file, run = tmp_path / "vit.safetensors", tmp_path / "run"
    state = timm.create_model("test_vit").state_dict()
    save_file(state, file)
    encoder = f"model.inputs.image.encoder={{name: timm, model: test_vit, path: {file}, grid: 2}}"
    recipe = load_recipe(*SHORT, encoder, "stages.instruct.steps=1")
    folder.create(run, recipe)
    train(recipe, run)
    state["norm.weight"][3] += 1e-3
    save_file(state, file)
    with pytest.raises(CheckpointError, match=r"weights\.encoders\.image: was 'sha256:.*, is 'sha256:") as caught:
        resume(run)
    assert "weights.llm" not in str(caught.value)


def test_large_components_are_sampled_and_say_so() -> None:
    tensors = {"a": torch.zeros(WHOLE // 4 + 1), "b": torch.zeros(3, dtype=torch.bfloat16), "c": torch.tensor(True)}
    whole = fingerprint({name: tensors[name] for name in "bc"})
    assert whole.startswith("sha256:")
    first = fingerprint(tensors)
    assert first.startswith("sampled:") and fingerprint(tensors) == first
    for name, place in (("a", 0), ("a", -1), ("a", SAMPLE // 8), ("b", 2)):
        before = tensors[name][place].clone()
        tensors[name][place] = 1.0
        assert fingerprint(tensors) != first
        tensors[name][place] = before
    assert fingerprint(tensors) == first
    assert fingerprint({"b": torch.zeros(3)}) != fingerprint({"b": torch.zeros(3, dtype=torch.int32)})


def test_a_resumed_run_computes_with_the_threads_that_it_began_with(interrupted: Path) -> None:
    """Sums are taken in another order on another number of threads."""
    record = provenance.read(interrupted / PROVENANCE)
    assert record["execution"]["threads"] == torch.get_num_threads()
    assert record["execution"]["ranks"] == 1 and record["execution"]["precision"] == "32-true"
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        use_threads(record)
        assert torch.get_num_threads() == before
        use_threads({"execution": {"threads": "many"}})
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_a_run_without_a_checkpoint_begins_again_with_mended_data(
    load_recipe: Load, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run, good = load_recipe(*SHORT), tmp_path / "run", (data_root / "train.jsonl").read_text()
    (data_root / "train.jsonl").write_text(good.replace(".png", ".gif"))
    folder.create(run, recipe)
    with pytest.raises(Exception, match=r"\.gif"):
        train(recipe, run)
    (data_root / "train.jsonl").write_text(good)
    folder.create(run, recipe)  # nothing was trained: the folder is free
    resume(run)
    assert "run has no checkpoint yet, so training starts at the first step" in capsys.readouterr().err
    assert len(checkpoint.find(run / folder.CHECKPOINTS)) == 2


def test_the_plugins_of_the_evaluation_are_on_record(load_recipe: Load) -> None:
    evaluation = "{data: [{path: data.jsonl, reader: llava}], metric: word_error_rate}"
    recorded = plugins.record_evaluation(load_recipe(f"evaluation={evaluation}"))
    assert recorded["omnivit.metrics:word_error_rate"]["distribution"] == "omnivit"
    assert "omnivit.readers:llava" in recorded
