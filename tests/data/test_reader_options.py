"""Options of a data source reach its reader through the reader's own `Config`; what it does not know is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from omnivit_readers.messages import MessagesReader
from tests_support import write_jsonl

from omnivit.data.opening import open_reader
from omnivit.data.readers import JsonReader, RecordReader
from omnivit.data.sources import open_mixture, open_source, open_stages
from omnivit.errors import ContractWarning, RecipeError
from omnivit.plugin import Message, RecordOptions, Text
from omnivit.recipe import DataSource, Recipe


@dataclass
class TitledOptions(RecordOptions):
    title: str = "title"
    """The key of the question."""


class Titled(RecordReader):
    Config = TitledOptions
    config: TitledOptions
    contract = 1
    mark = re.compile(rb"<image>")
    keys = frozenset({"id"})

    def messages(self, record: Any) -> tuple[Message, ...]:
        return (Message("user", (Text(record[self.config.title]),)),)


class Earlier(JsonReader):
    """Written when readers had no options: it overrides the constructor."""

    contract = 1
    mark = re.compile(rb"<image>")
    keys: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, path: Path, root: Path) -> None:
        super().__init__(path, root)

    def messages(self, record: Any) -> tuple[Message, ...]:
        return (Message("user", (Text(record["title"]),)),)


NAMES = {cls.__name__: f"{__name__}:{cls.__name__}" for cls in (Titled, Earlier)}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))
    return write_jsonl(tmp_path / "a.jsonl", [{"title": "A", "heading": "B"}])


def test_options_reach_the_reader(file: Path) -> None:
    sources = [
        DataSource(file.name, NAMES["Titled"]),
        DataSource(file.name, NAMES["Titled"], options={"title": "heading"}),
    ]
    mixture = open_mixture(sources, file.parent)
    assert [mixture[i].messages[0].text for i in range(2)] == ["A", "B"]
    assert open_reader(NAMES["Earlier"], file, file.parent)[0].messages[0].text == "A"


def test_an_unknown_option_is_refused_at_its_place(recipe_file: Path, load_recipe: Callable[..., Recipe]) -> None:
    text = recipe_file.read_text().replace("path: train.jsonl", "path: train.jsonl, options: {recods: x}", 1)
    recipe_file.write_text(text)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if "recods" in row)
    with pytest.raises(RecipeError) as caught:
        open_stages(load_recipe())
    assert f"].options.recods ({recipe_file}:{line}): unknown key; did you mean 'records'? Allowed: records" in str(
        caught.value
    )


def test_a_reader_without_options_refuses_them(file: Path) -> None:
    with pytest.raises(RecipeError, match=r"options: the reader Earlier has no options, but `records` is given"):
        open_source(DataSource(file.name, NAMES["Earlier"], options={"records": "x"}), file.parent)


def test_an_option_of_another_type_is_refused(file: Path) -> None:
    with pytest.raises(RecipeError, match=r"options\.records.*expected str"):
        open_source(DataSource(file.name, options={"records": ["x"]}), file.parent)


def test_old_names_lead_to_the_plugins() -> None:
    with pytest.warns(ContractWarning, match="omnivit.data.readers.MessagesReader has moved"):
        from omnivit.data.readers import MessagesReader as earlier
    assert earlier is MessagesReader and JsonReader is RecordReader
