"""Two gloo processes agree with one, also when one of them holds nothing but text."""

from __future__ import annotations

from pathlib import Path

import pytest
from process_support import assert_same_gradients, train_on_two_ranks
from tests_support import picture_record, text_record, write_jsonl

from omnivit.errors import CheckpointError
from omnivit.recipe import load
from omnivit.run import folder
from omnivit.run.runner import train

OVERRIDES = [
    "model.llm.lora.dropout=0.0",
    "stages.align.batch_size=2",
    "stages.instruct.batch_size=4",
    "stages.align.group_by_length=false",
    "stages.instruct.group_by_length=false",
    "stages.align.train={adapters.*: 1.0e-9}",
    "stages.instruct.train={adapters.*: 1.0e-9, llm.*lora_*: 1.0e-9}",
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_equal_one(recipe_file: Path, data_root: Path, tmp_path: Path) -> None:
    records = [picture_record(f"p{i}", ("red.png", "blue.png")[i % 2], ("red", "blue")[i % 2]) for i in range(6)]
    records += [text_record(f"t{i}", "Say so " * (i + 1), "so it is " * (i % 3 + 1)) for i in range(10)]
    write_jsonl(data_root / "train.jsonl", records)

    train(load(recipe_file, OVERRIDES), tmp_path / "one")
    train_on_two_ranks(str(recipe_file), *OVERRIDES, "--run-dir", str(tmp_path / "two"))

    for stage in (0, 1):
        assert_same_gradients(tmp_path / "one", tmp_path / "two", stage)

    alone = load(tmp_path / "two" / folder.RECIPE, ["trainer.devices=1", "trainer.strategy=auto"])
    with pytest.raises(CheckpointError, match=r"execution\.ranks: was 2, is 1"):  # other bits, in silence
        train(alone, tmp_path / "two", resume=True)
