"""Golden numbers can be read in a diff: no line of a JSON file is long, and every array next to it is used once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden_support import FOLDER
from safetensors import safe_open

FILES = sorted(FOLDER.rglob("*.json"))


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            yield value["tensor"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_long_arrays_are_next_to_their_description(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 2000
    keys: list[str] = []
    if file.with_suffix(".safetensors").is_file():
        with safe_open(file.with_suffix(".safetensors"), "pt") as arrays:
            keys = list(arrays.keys())
    assert sorted(references(json.loads(text))) == sorted(keys)
