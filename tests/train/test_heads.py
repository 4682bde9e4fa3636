"""A recipe's heads: what they learn, how a step weights their losses, which mistakes are found before training."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from head_support import BOXES, box_record, with_heads, write_boxes
from process_support import assert_same_gradients, train_on_two_ranks
from tests_support import RECIPE, text_record, write_jsonl
from torch import Tensor

import omnivit
from omnivit.cli import main
from omnivit.contracts.head import HeadOutput
from omnivit.contracts.sample import Message, Target, Text
from omnivit.data.collate import collate
from omnivit.data.sources import open_mixture
from omnivit.errors import PluginError, RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import Recipe, load
from omnivit.run import folder
from omnivit.run.provenance import PROVENANCE
from omnivit.run.runner import train
from omnivit.train import checkpoint
from omnivit.train.losses import check_losses, lm_loss_sum, step_loss
from omnivit.train.module import StageModule
from omnivit.train.optimizer import optimizer_of

Load = Callable[..., Recipe]


@pytest.fixture
def load_heads(tmp_path: Path, data_root: Path) -> Load:
    """Load the recipe with a head, with overrides; and with other lines of the stage in place of its own."""
    write_boxes(data_root)
    path, text = tmp_path / "heads.yaml", with_heads(RECIPE.format(root=data_root))
    path.write_text(text, encoding="utf-8")

    def loaded(*overrides: str, **lines: str) -> Recipe:
        changed = text
        for key, value in lines.items():
            changed = re.sub(rf"^    {key}: .*$", f"    {key}: {value}", changed, flags=re.MULTILINE)
        path.write_text(changed, encoding="utf-8")
        return load(path, overrides)

    return loaded


def run_of(recipe: Recipe, path: Path) -> dict[str, Tensor]:
    """Train, and return the last checkpoint's weights."""
    folder.create(path, recipe)
    train(recipe, path)
    return weights(path)


def weights(path: Path) -> dict[str, Tensor]:
    return checkpoint.of_stage(path / folder.CHECKPOINTS, 0).weights()


def logged(path: Path) -> list[dict[str, str]]:
    file = next((path / "logs").rglob("metrics.csv"))
    with file.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
def test_a_head_learns_and_answers(
    load_heads: Load,
    data_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "run"
    run_of(load_heads("stages.point.epochs=100"), path)
    lines = [line for line in logged(path) if line.get("loss/box.corners")]
    first, last = (float(line["loss/box.corners"]) for line in (lines[0], lines[-1]))
    assert last < 0.25 * first, f"{first} to {last}"

    opened = omnivit.load(path, "cpu")
    for colour, box in BOXES.items():
        turn = opened.turn("What is where?", [("image", str(data_root / f"{colour}.png"))])
        reply = opened.respond([turn], max_new_tokens=12)
        assert reply.text == f"{colour}[BOX]"
        assert [found.head for found in reply.predictions] == ["box"]
        torch.testing.assert_close(reply.predictions[0].value, torch.tensor(box), atol=0.15, rtol=0)
        assert reply.message == Message("assistant", (Text(colour), Target("box")))
        again = opened.respond([turn, reply.message, opened.turn("Again?")], max_new_tokens=2)
        assert isinstance(again.text, str)  # the answer's token is one in the history too
    assert opened.ask("What is where?", image=str(data_root / "grey.png"), max_new_tokens=12) == "grey"

    capsys.readouterr()
    assert (
        main(["generate", str(path), "What is where?", "--image", str(data_root / "red.png"), "--device", "cpu"]) == 0
    )
    words, told = capsys.readouterr().out.splitlines()
    assert words == "red[BOX]" and told.startswith("box: [0.")
    lines = [f"/image {data_root / 'red.png'}", "What is where?", f"/image {data_root / 'grey.png'}", "What is where?"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    assert main(["chat", str(path), "--device", "cpu", "--max-new-tokens", "12"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [words, told]
    torch.testing.assert_close(torch.tensor(json.loads(told[5:])), torch.tensor(BOXES["red"]), atol=0.15, rtol=0)


def test_exactly_what_is_named_trains(load_heads: Load, tmp_path: Path) -> None:
    recipe = load_heads(train='{"heads.*": 1e-2, "llm.tokens.*": 1e-2}')
    before = {name: value.clone() for name, value in load_model(recipe).state_dict().items()}
    found = run_of(recipe, tmp_path / "run")
    assert {name.rpartition(".")[0] for name in found} == {"heads.box.layers.0", "heads.box.layers.2", "llm.tokens"}
    assert all(not torch.equal(value, before[name]) for name, value in found.items())
    after = omnivit.load(tmp_path / "run", "cpu").model.state_dict()
    assert {name for name, value in after.items() if not torch.equal(value, before[name])} == found.keys()


def test_the_loss_is_a_mean_of_each_over_the_step(load_heads: Load) -> None:
    """What a plain reference computes from all logits and the head alone."""
    recipe = load_heads()
    model, mixture = load_model(recipe), open_mixture(recipe.stages[0].data, recipe.data.root)
    preparer = preparer_of(model, recipe)
    batch = collate([preparer(mixture[i]) for i in (0, 3, 1, 21)], ("image",), preparer.chat.pad_id)
    found = batch.triggers["box"]
    assert found.samples.tolist() == [0, 2]
    assert batch.input_ids[found.samples, found.places].tolist() == [264, 264]
    torch.testing.assert_close(found.targets["boxes"], torch.tensor([BOXES["red"], BOXES["green"]]))
    with torch.no_grad():
        output = model(batch, heads=["box"])
        step = {"lm": 50.0, "box": 4.0}
        ours = step_loss(output, batch, {"lm": 1.0, "box": 2.0}, step) / step["lm"]
        states = model.llm(*model_inputs(model, batch), states=True).states
        boxes = model.heads["box"].layers(states[found.samples, found.places]).sigmoid()  # type: ignore[operator, union-attr]
    away = (boxes - found.targets["boxes"]).abs()
    plain = lm_loss_sum(output.logits, batch) / 50 + 2 * (away.sum() + 0.5 * away[:, 2:].sum()) / 4
    torch.testing.assert_close(ours, plain)


def model_inputs(model: Any, batch: Any) -> tuple[Any, ...]:
    embeds, context = model.embed(batch)
    return embeds, batch.attention_mask, batch.position_ids, batch.attention_mask & False, context


def descent(*arguments: Any) -> tuple[torch.optim.SGD, list[str]]:
    """Gradient descent with the groups of AdamW, whose own step hardly depends on how small a gradient is."""
    optimizer, names = optimizer_of(*arguments)
    return torch.optim.SGD([{"params": group["params"], "lr": 0.5} for group in optimizer.param_groups]), names


def test_accumulation_changes_nothing(load_heads: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 x 8 equals 4 x 2, where micro-batches have no, one or two boxes and words of other counts."""
    monkeypatch.setattr("omnivit.train.module.optimizer_of", descent)
    same = ("stages.point.epochs=2", "model.llm.lora.dropout=0", "stages.point.group_by_length=false")
    results = [run_of(load_heads(*same, f"stages.point.accumulate={n}"), tmp_path / f"run{n}") for n in (1, 4)]
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-5, msg=name)
    for name in ("loss", "loss/box.corners", "loss/box.size"):
        one, other = ([float(x[name]) for x in logged(tmp_path / f"run{n}") if x.get(name)] for n in (1, 4))
        assert one == pytest.approx(other, rel=1e-4) and len(one) == 6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_equal_one(load_heads: Load, data_root: Path, tmp_path: Path) -> None:
    """Also where one of them has no box in a step."""
    records = [box_record(f"b{i}", ("red", "blue")[i % 2]) for i in range(6)]
    records += [text_record(f"t{i}", "Say so " * (i + 1), "so it is " * (i % 3 + 1)) for i in range(10)]
    write_jsonl(data_root / "boxes.jsonl", records)
    rates = "{heads.*: 1.0e-9, llm.*: 1.0e-9, adapters.*: 1.0e-9}"
    same = ["model.llm.lora.dropout=0", "stages.point.batch_size=2", "stages.point.group_by_length=false"]
    same.append(f"stages.point.train={rates}")
    run_of(load_heads(*same), tmp_path / "one")
    train_on_two_ranks(
        str(tmp_path / "heads.yaml"), *same, "--run-dir", str(tmp_path / "two"),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")},
    )  # fmt: skip
    assert_same_gradients(tmp_path / "one", tmp_path / "two", 0)


@pytest.mark.slow
def test_interrupted_and_resumed_it_is_the_same(
    load_heads: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_heads("stages.point.accumulate=2", "stages.point.epochs=3", "checkpoint_every=2")
    whole = run_of(recipe, tmp_path / "whole")
    folder.create(tmp_path / "cut", recipe)
    step, calls = StageModule.training_step, iter(range(99))

    def failing(*arguments: Any) -> Tensor:
        if next(calls) == 9:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patched, pytest.raises((KeyboardInterrupt, SystemExit)):
        patched.setattr(StageModule, "training_step", failing)
        train(recipe, tmp_path / "cut")
    assert checkpoint.of_stage(tmp_path / "cut" / folder.CHECKPOINTS, 0).state["step"] == 4
    train(recipe, tmp_path / "cut", resume=True)
    resumed = weights(tmp_path / "cut")
    assert resumed.keys() == whole.keys() and all(torch.equal(value, whole[name]) for name, value in resumed.items())
    assert "omnivit.heads:head_support:Boxes" in json.loads((tmp_path / "cut" / PROVENANCE).read_text())["plugins"]


def test_a_stage_may_let_heads_rest(load_heads: Load, tmp_path: Path) -> None:
    found = run_of(load_heads(train='{"llm.*": 1e-3}', losses="{lm: 1}"), tmp_path / "run")
    assert not [name for name in found if name.startswith("heads.")]
    assert not [name for name in logged(tmp_path / "run")[0] if name.startswith("loss/")]


def test_a_frozen_head_teaches_the_llm(load_heads: Load, tmp_path: Path) -> None:
    recipe = load_heads(train='{"llm.*": 1e-3}', losses="{box: 1}")
    before = {name: value.clone() for name, value in load_model(recipe).state_dict().items()}
    found = run_of(recipe, tmp_path / "run")
    layers = [name for name in found if ".layers." in name]
    assert layers and all(not torch.equal(found[name], before[name]) for name in layers if "q_proj" in name)
    assert not any(torch.equal(torch.tensor(float(x["loss"])), torch.tensor(0.0)) for x in logged(tmp_path / "run"))


def test_validation_tells_the_heads_losses(load_heads: Load, data_root: Path, tmp_path: Path) -> None:
    write_jsonl(data_root / "held.jsonl", [box_record("h", "red"), text_record("t", "Say", "it")])
    run_of(load_heads("stages.point.validation={data: [{path: held.jsonl}]}"), tmp_path / "run")
    told = [x for x in logged(tmp_path / "run") if x.get("validation_loss")]
    assert float(told[-1]["validation_loss/box.corners"]) > float(told[-1]["validation_loss/box.size"]) > 0


def test_the_state_before_the_token(load_heads: Load) -> None:
    recipe = load_heads("model.heads.box.name=head_support:BoxesBefore")
    model, mixture = load_model(recipe), open_mixture(recipe.stages[0].data, recipe.data.root)
    preparer = preparer_of(model, recipe)
    plain = load_heads()
    samples = [preparer_of(load_model(plain), plain)(mixture[0]), preparer(mixture[0])]
    places = [sample.triggers[0].place for sample in samples]
    assert places[1] == places[0] - 1 and samples[0].ids[places[0]] == 264
    assert preparer.fingerprint() != preparer_of(load_model(plain), plain).fingerprint()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.point.losses.box=0"], "stages.point: the stage trains heads.box, but `losses` gives it no weight"),
        (
            ["model.heads.other={name: 'head_support:Boxes'}"],
            r"model.heads.other: its token '\[BOX\]' is that of model.heads.box too",
        ),
        (
            ["stages.point.losses={mask: 1}"],
            r"stages\[0\].losses.mask \(command line\): 'mask' is not allowed(.|\n)*box",
        ),
        (["model.heads.box.hiden=3"], r"model.heads.box(.|\n)*hiden(.|\n)*did you mean 'hidden'"),
        (["model.heads.box.name=boxs"], r"boxs"),
        (["model.heads.lm={name: 'head_support:Boxes'}"], "a head cannot have the name 'lm'"),
        (["model.heads.keys={name: 'head_support:BoxesBefore'}"], "the head cannot be named 'keys'"),
        (["model.heads.a-b c={name: 'head_support:Boxes'}"], "the name of a head begins with a letter"),
        (["model.heads.other={hidden: 3}"], "model.heads.other(.|\n)*the mandatory key 'name'"),
    ],
)
def test_mistakes_are_found_before_training(
    overrides: list[str], message: str, load_heads: Load, tmp_path: Path
) -> None:
    with pytest.raises((RecipeError, PluginError), match=message):
        train(load_heads(*overrides), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_nothing_would_teach_is_found_before_training(load_heads: Load, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stages.point: the stage trains heads.box, but `losses` gives it no weight"):
        train(load_heads(losses="{lm: 1}"), tmp_path / "run")
    with pytest.raises(
        RecipeError, match=r"no stage trains llm.tokens.\*, the embeddings of the new tokens \(\[BOX\]\)"
    ):
        train(load_heads(train='{"heads.*": 1e-3, "adapters.*": 1e-3}'), tmp_path / "run")


def test_check_tells_of_heads(load_heads: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del load_heads  # it wrote the files
    assert main(["check", "--trust", str(tmp_path / "heads.yaml")]) == 0
    assert "head      box: head_support:Boxes       892 parameters, at [BOX]" in capsys.readouterr().out


def test_losses_that_the_class_does_not_name_are_refused(load_heads: Load) -> None:
    head = load_model(load_heads()).heads["box"]
    with pytest.raises(PluginError, match=r"model.heads.box: Boxes returns the losses \['x'\], but its attribute"):
        check_losses("box", head, HeadOutput({"x": torch.tensor(1.0)}))  # type: ignore[arg-type]
