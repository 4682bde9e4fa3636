"""The loss, the steps and what they may change, on a real small model that sees real pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from omnivit.contracts.batch import IGNORE
from omnivit.data.collate import collate
from omnivit.data.sources import open_mixture
from omnivit.errors import DataError, RecipeError
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import Recipe
from omnivit.run.runner import train
from omnivit.train import checkpoint
from omnivit.train.losses import lm_loss_sum
from omnivit.train.stages import Run


def trained(recipe: Recipe, path: Path) -> tuple[Run, dict[str, Tensor]]:
    """Train, and return the last checkpoint's weights."""
    run, _ = train(recipe, path)
    found = checkpoint.latest(run.checkpoints)
    assert found is not None
    return run, found.weights()


def test_loss_equals_a_plain_reference_with_all_logits(load_recipe: Callable[..., Recipe]) -> None:
    recipe = load_recipe()
    model, mixture = load_model(recipe), open_mixture(recipe.stages[0].data, recipe.data.root)
    preparer = preparer_of(model, recipe)
    batch = collate([preparer(mixture[i]) for i in (0, 1, 21, 23)], ("image",), preparer.chat.pad_id)
    with torch.no_grad():
        ours = lm_loss_sum(model(batch).logits, batch)
        logits = model(batch, keep=torch.ones_like(batch.attention_mask)).logits.view(*batch.input_ids.shape, -1)
    shifted, labels = logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten()
    plain = functional.cross_entropy(shifted, labels, ignore_index=IGNORE, reduction="sum")
    assert int((labels != IGNORE).sum()) > 8
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)


def test_exactly_the_named_parts_change(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = load_recipe()
    before = {name: value.clone() for name, value in load_model(recipe).state_dict().items()}
    run, weights = trained(recipe, tmp_path / "run")
    after = run.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    wanted = {name for name in after if name.startswith("adapters.") or "lora_" in name}
    assert changed == wanted
    assert weights.keys() == wanted
    first_stage = checkpoint.of_stage(run.checkpoints, 0).weights()
    assert all(name.startswith("adapters.") for name in first_stage)


def test_accumulation_changes_nothing(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """4 x 2 equals a batch of 8: the loss is normalised by the step's target tokens, not by micro-batch."""
    results = []
    for accumulate in (1, 4):
        override = [
            f"stages.{s}.{o}" for s in ("align", "instruct") for o in ("batch_size=8", f"accumulate={accumulate}")
        ]
        recipe = load_recipe(*override, "model.llm.lora.dropout=0.0")
        results.append(trained(recipe, tmp_path / f"run{accumulate}")[1])
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_run_is_a_function_of_its_recipe(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    first = trained(load_recipe(), tmp_path / "a")[1]
    again = trained(load_recipe("data.workers=2"), tmp_path / "b")[1]
    other = trained(load_recipe("seed=4"), tmp_path / "c")[1]
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_gradient_checkpointing_changes_nothing(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    plain = trained(load_recipe(), tmp_path / "a")[1]
    saving = trained(load_recipe("model.llm.gradient_checkpointing=true"), tmp_path / "b")[1]
    for name, value in plain.items():
        torch.testing.assert_close(value, saving[name], rtol=1e-5, atol=1e-6, msg=name)


def test_loss_falls(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    from omnivit.run.train import loss_curves

    train(load_recipe("stages.align.epochs=6", "stages.align.train={'*': 1e-2}"), tmp_path / "run")
    losses = [loss for _, loss in loss_curves(tmp_path / "run", ["align"])["align"]]
    assert len(losses) == 36
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])


def spoil(root: Path) -> None:
    """One of the 24 samples shows a picture that is none."""
    (root / "red.png").write_bytes(b"not a picture")


def test_bad_sample_stops_by_default(load_recipe: Callable[..., Recipe], data_root: Path, tmp_path: Path) -> None:
    spoil(data_root)
    with pytest.raises(DataError, match=r"sample 'p\d+'.*red\.png(.|\n)*data.on_bad_sample: skip"):
        train(load_recipe(), tmp_path / "run")


def test_bad_samples_are_skipped_and_counted(
    load_recipe: Callable[..., Recipe], data_root: Path, tmp_path: Path
) -> None:
    spoil(data_root)
    recipe = load_recipe("data.on_bad_sample=skip", "data.skip_budget=0.5", "stages.align.batch_size=1")
    _, results = train(recipe, tmp_path / "run")
    assert [len(result.skipped) for result in results] == [5, 5]  # five of the twenty pictures are red
    assert all("red.png" in reason for reason in results[0].skipped)


def test_skip_budget(load_recipe: Callable[..., Recipe], data_root: Path, tmp_path: Path) -> None:
    spoil(data_root)
    with pytest.raises(DataError, match=r"more than the 2 that `data.skip_budget: 0.1` allows"):
        train(load_recipe("data.on_bad_sample=skip", "data.skip_budget=0.1"), tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.precison=32", r"trainer.precison: Lightning's Trainer has no such option; did you mean 'precision'"),
        ("trainer.max_epochs=3", "trainer.max_epochs: the stages set this"),
        ("trainer.loggers=[wandbb]", "no logger 'wandbb'"),
        ("stages.align.train={'adaptors.*': 1.0}", r"stages.align.train: the pattern 'adaptors.\*' matches no"),
    ],
)
def test_mistakes_are_found_before_training(
    load_recipe: Callable[..., Recipe], tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        train(load_recipe(override), tmp_path / "run")


def test_validation_inside_a_stage(load_recipe: Callable[..., Any], tmp_path: Path) -> None:
    import csv

    recipe = load_recipe("stages.align.validation={data: [{path: train.jsonl}], every: 2}")
    train(recipe, tmp_path / "run")
    with (tmp_path / "run/logs/align/version_0/metrics.csv").open() as rows:
        losses = [float(row["validation_loss"]) for row in csv.DictReader(rows) if row.get("validation_loss")]
    assert len(losses) == 3 and losses[-1] < losses[0]
