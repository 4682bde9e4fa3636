"""A small recipe for the tests of reading recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnivit.errors import RecipeError
from omnivit.recipe import load

TINY = """\
seed: 3
model:
  llm: {name: causal, path: some/hub-id}
  inputs:
    image:
      encoder: {name: timm, model: vit, grid: 2}
      adapter: {name: mlp, depth: 2}
stages:
  - name: align
    data: [{path: a.jsonl}]
    train: {"adapters.*": 1e-3}
    batch_size: 8
  - name: instruct
    data: [{path: b.jsonl}]
    train: {"adapters.*": 1.0e-3, "llm.*": 2e-5}
"""


def write(text: str, name: str = "tiny.yaml") -> Path:
    """Write a file into the working folder, so that errors print its bare name."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    """What `load` says when it refuses."""
    with pytest.raises(RecipeError) as caught:
        load(path, overrides)
    return str(caught.value)
