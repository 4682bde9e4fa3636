"""How results are compared, in which batches media are tried, and which settings are changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pcm_encoder import Pcm, PcmConfig

from omnivit.testing.rules import Broken
from omnivit.testing.trial import Trial, batches, difference, item_difference
from omnivit.testing.variants import variants

ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("found", "expected", "tolerance", "text"),
    [
        (ONES, ONES, 0.0, ""),
        (ONES.double(), ONES, 0.0, "x is torch.float64 instead of torch.float32"),
        (ONES.double(), ONES, 1e-5, ""),
        (ONES[:1], ONES, 1.0, "x has the shape [1, 3] instead of [2, 3]"),
        (torch.tensor([1.0, 2.5, 3.5]), torch.tensor([1.0, 2.0, 3.0]), 0.0,
         "x[1] is 2.5 instead of 2 (2 of 3 numbers differ)"),
        (torch.tensor(1), torch.tensor(2), 0.0, "x is 1 instead of 2 (1 of 1 numbers differ)"),
        (torch.tensor([100.0, 0.5]), torch.tensor([100.0, 0.0]), 0.01, ""),
        (torch.tensor([100.0, 1.5]), torch.tensor([100.0, 0.0]), 0.01,
         "x[1] is 1.5 instead of 0 (1 of 2 numbers differ)"),
        (torch.tensor([torch.nan, torch.inf]), torch.tensor([torch.nan, torch.inf]), 0.0, ""),
        (torch.tensor([torch.nan]), torch.tensor([0.0]), 9.0, "x[0] is nan instead of 0 (1 of 1 numbers differ)"),
        (torch.tensor([True]), torch.tensor([False]), 0.0, "x[0] is 1 instead of 0 (1 of 1 numbers differ)"),
    ],
)  # fmt: skip
def test_the_first_difference_is_told(found: torch.Tensor, expected: torch.Tensor, tolerance: float, text: str) -> None:
    assert difference("x", found, expected, tolerance) == text


def test_items_are_compared_key_by_key() -> None:
    assert item_difference({"a": ONES, "b": ONES}, {"a": ONES, "b": ONES}) == ""
    assert item_difference({"a": ONES}, {"b": ONES}) == "its keys are ['a'] instead of ['b']"
    assert item_difference({"a": ONES, "b": ONES * 2}, {"a": ONES, "b": ONES}).startswith("b[0, 0] is 2 instead of 1")


def test_batches_are_tried_smallest_first() -> None:
    assert list(batches(1)) == []
    assert list(batches(2)) == [(0, 1), (1, 0)]
    assert list(batches(3))[-2:] == [(2, 1), (0, 1, 2)]


def test_media_come_by_slot_those_of_few_rows_first(tmp_path: Path) -> None:
    trial = Trial.of(Pcm, tmp_path)
    assert list(trial.slots) == ["audio"]
    assert [int(item["frames"]) for item in trial.items("audio")] == [2, 4, 7]
    assert not trial.encoder.training


def test_an_example_of_one_medium_is_too_small(tmp_path: Path) -> None:
    class Lonely(Pcm):
        @classmethod
        def example(cls, folder: Path) -> Any:
            whole = Pcm.example(folder)
            return type(whole)(whole.media[:1])

    with pytest.raises(Broken, match="the example has 1 media"):
        Trial.of(Lonely, tmp_path)


@dataclass
class ManyConfig(PcmConfig):
    kind: Literal["a", "b"] = "a"
    """A choice."""
    loud: bool = False
    """A truth."""
    rate: float | None = None
    """A number, or none."""
    name: str = "x"
    """A text, which is left alone."""

    def __post_init__(self) -> None:
        if self.width > 6:
            raise ValueError("too wide")


class Many(Pcm):
    Config = ManyConfig


def test_settings_are_changed_one_by_one_to_what_the_plugin_takes() -> None:
    changes = [change for change, _ in variants(Many, ManyConfig())]
    assert changes == [
        "`width` 3 instead of 6",
        "`scale` 2.0 instead of 1.0",
        "`scale` 0.5 instead of 1.0",
        "`noise` 0.2 instead of 0.1",
        "`noise` 0.05 instead of 0.1",
        "`kind` 'b' instead of 'a'",
        "`loud` True instead of False",
        "`rate` 0.5 instead of None",
        "`rate` 2.0 instead of None",
    ]
