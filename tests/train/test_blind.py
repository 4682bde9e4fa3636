"""A stage that trains an input without ever showing it a medium is refused, or warned of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tests_support import picture_record, text_record, write_jsonl

from omnivit.errors import RecipeError
from omnivit.recipe import Recipe
from omnivit.run.check import check
from omnivit.run.runner import train
from omnivit.train import blind

SECOND = "model.inputs.shot={encoder: {share: image}, adapter: {name: linear}}"
SHARED = "model.inputs.shot={encoder: {share: image}, adapter: {share: image}}"


def test_a_stage_without_any_medium_is_refused_by_check_and_by_train(
    load_recipe: Callable[..., Recipe], data_root: Path, tmp_path: Path
) -> None:
    write_jsonl(data_root / "train.jsonl", [text_record(f"t{k}", "What is it?", "red") for k in range(8)])
    message = (
        r"stages\.align: the stage trains input 'image' \(adapters\.image\..*all 8 records were read.*contain no media"
    )
    with pytest.raises(RecipeError, match=message):
        check(load_recipe())
    with pytest.raises(RecipeError, match=message):
        train(load_recipe(), tmp_path / "run")
    check(load_recipe("stages.align.train={'llm.*lora_*': 1e-3}", "stages.instruct.train={'llm.*lora_*': 1e-3}"))


def test_of_several_inputs_the_one_without_media_is_warned_of(
    load_recipe: Callable[..., Recipe], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check(load_recipe())
        check(load_recipe(SHARED))  # its adapter is taught by the other input
        check(load_recipe(SECOND, "stages.align.train={'adapters.image.*': 1e-3}",
                          "stages.instruct.train={'adapters.image.*': 1e-3}"))  # fmt: skip
    assert "no record contains a medium" not in caplog.text
    with caplog.at_level(logging.WARNING):
        check(load_recipe(SECOND))
    assert "stages.align: the stage trains input 'shot' (adapters.shot." in caplog.text
    assert "They contain media for image." in caplog.text and "'image' (" not in caplog.text


def test_where_only_some_records_were_read_it_is_said_and_no_more(
    load_recipe: Callable[..., Recipe],
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(blind, "LOOKED_AT", 3)
    texts = [text_record(f"t{k}", "What is it?", "red") for k in range(8)]
    write_jsonl(data_root / "train.jsonl", texts)
    with caplog.at_level(logging.WARNING):
        check(load_recipe())
    assert "(3 of 8 records were read)" in caplog.text
    caplog.clear()
    write_jsonl(data_root / "train.jsonl", [*texts, picture_record("p", "red.png", "red")])
    with caplog.at_level(logging.WARNING):
        check(load_recipe())  # the one record that seems to have a medium is read first
    assert "no record contains a medium" not in caplog.text
