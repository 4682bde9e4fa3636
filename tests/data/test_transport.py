"""Batches from loader workers cost one open file each, and a step that is held costs none."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from head_support import with_heads, write_boxes
from tests_support import RECIPE
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.data.collate import collate
from omnivit.data.module import StageData
from omnivit.data.plan import StagePlan
from omnivit.data.sources import open_mixture
from omnivit.data.transport import packed
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import load


def data_of(root: Path, path: Path, losses: str) -> StageData:
    """A stage of three steps of 32 micro-batches, prepared by a worker."""
    write_boxes(root, 96)
    text = re.sub(
        "batch_size: 8", "batch_size: 32\n    accumulate: 32\n    steps: 3", with_heads(RECIPE.format(root=root))
    )
    path.write_text(text.replace("losses: {lm: 1, box: 2}", losses), encoding="utf-8")
    recipe = load(path, ["data.workers=1"])
    stage, model = recipe.stages[0], load_model(recipe)
    plan = StagePlan(open_mixture(stage.data, recipe.data.root), stage, 0, 1.0)
    return StageData(plan, preparer_of(model, recipe), recipe.data, None, 0)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []

    def noted(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    batch.map(noted)
    return found


@pytest.fixture
def few_files() -> Iterator[None]:
    """Only some thirty files more than are open may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
def test_a_step_whose_targets_are_counted_holds_no_file_open(data_root: Path, tmp_path: Path) -> None:
    data = data_of(data_root, tmp_path / "heads.yaml", "losses: {lm: 1, box: 2}")
    micro_batches = list(data.train_dataloader())
    batches = [micro.batch for micro in micro_batches if micro.batch is not None]
    assert len(batches) == 96 and not any(tensor.is_shared() for batch in batches for tensor in tensors(batch))


def test_a_batch_from_a_worker_holds_one_file_open_and_is_the_same(data_root: Path, tmp_path: Path) -> None:
    data = data_of(data_root, tmp_path / "plain.yaml", "losses: {lm: 1}")
    before = open_files()
    loaded = iter(data.train_dataloader())
    held = [next(loaded) for _ in range(24)]
    assert open_files() - before < 24 + 16
    batches = [micro.batch for micro in held if micro.batch is not None]
    assert all(len({tensor.untyped_storage().data_ptr() for tensor in tensors(batch)}) == 1 for batch in batches)


def test_packing_changes_no_value(data_root: Path, tmp_path: Path) -> None:
    data = data_of(data_root, tmp_path / "heads.yaml", "losses: {lm: 1, box: 2}")
    samples = [data.preparer(data.plan.mixture[i]) for i in (0, 1, 3, 97)]
    plain = collate(samples, ("image",), data.preparer.chat.pad_id)
    moved = packed(plain)
    assert moved.names == plain.names and moved.media["image"].samples == plain.media["image"].samples
    pairs = list(zip(tensors(plain), tensors(moved), strict=True))
    assert all(one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs) and len(pairs) > 9
