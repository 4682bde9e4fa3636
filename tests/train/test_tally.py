"""What a stage counts beside its losses: samples, tokens and losses by data source, and slow media."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests_support import picture_record, text_record, write_jsonl
from torch.nn import functional

from omnivit.contracts.batch import IGNORE, Batch
from omnivit.recipe import Recipe
from omnivit.run.runner import train
from omnivit.train import losses
from omnivit.train.losses import lm_loss_by_sample, lm_loss_sum
from omnivit.train.tally import Tally

Load = Callable[..., Recipe]


def test_losses_of_samples_add_up_to_that_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.randint(0, 11, (5, 9), generator=torch.manual_seed(0))
    labels[0, 3:], labels[2], labels[4, :7] = IGNORE, IGNORE, IGNORE
    zeros = torch.zeros_like(labels)
    batch = Batch(zeros, labels, zeros.bool(), zeros, zeros, (), {}, tuple("abcde"))
    logits = torch.randn(int(batch.targets().sum()), 11)
    monkeypatch.setattr(losses, "ROWS", 4)  # several parts
    by_sample = lm_loss_by_sample(logits, batch)
    counts = batch.targets().sum(1).tolist()
    expected = [
        functional.cross_entropy(rows, row[1:][row[1:] != IGNORE], reduction="sum") if len(rows) else torch.tensor(0.0)
        for rows, row in zip(logits.split(counts), labels, strict=True)
    ]
    torch.testing.assert_close(by_sample, torch.stack(expected))
    torch.testing.assert_close(by_sample.sum(), lm_loss_sum(logits, batch))


def test_sources_are_counted_and_kept_over_a_resume(load_recipe: Load, data_root: Path, tmp_path: Path) -> None:
    """Samples and losses of two files add up to those of the log, also where a run is continued."""
    write_jsonl(data_root / "a.jsonl", [picture_record(f"a{k}", "red.png", "red") for k in range(8)])
    write_jsonl(data_root / "b.jsonl", [text_record(f"b{k}", "Say it", "a longer answer") for k in range(4)])
    two = "stages.align.data=[{path: a.jsonl}, {path: b.jsonl}]"
    recipe, run = load_recipe(two, "checkpoint_every=1", "keep.last=9", "stages.instruct.steps=1"), tmp_path / "run"
    result = train(recipe, run)[1][0]
    first, second = result.tally.sources
    assert (first.samples, second.samples) == (8, 4)
    assert first.targets == 8 * 4 and second.targets == 4 * 16  # bytes of the answers, and their end
    with next(run.glob("logs/align/*/metrics.csv")).open() as rows:
        means = [float(row["loss"]) for row in csv.DictReader(rows) if row["loss"]]
    assert len(means) == 3 and min(means) < (first.loss + second.loss) / (first.targets + second.targets) < max(means)
    assert first.mean is not None and second.mean is not None
    assert result.tally.tokens > first.targets + second.targets and result.tally.media["image"][0] == 8
    state = json.loads((run / "checkpoints/00-align-step-00000002/state.json").read_text())
    part = Tally.from_json(state["tally"])
    assert sum(source.samples for source in part.sources) == 8 and part.to_json() == state["tally"]


def test_the_slowest_media_are_remembered_once_each() -> None:
    tally = Tally()
    for number in range(9):
        tally.loaded({"video": (2, 0.5)}, [(number / 10, "video", f"sample {number % 6}")])
    assert [(each.seconds, each.sample) for each in tally.slowest] == [
        (0.8, "sample 2"), (0.7, "sample 1"), (0.6, "sample 0"), (0.5, "sample 5"), (0.4, "sample 4"),
    ]  # fmt: skip
    assert tally.media == {"video": [18, 4.5]} and tally.share_waited is None
