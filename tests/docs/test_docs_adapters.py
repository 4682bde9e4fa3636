"""docs/adapters.md: every adapter is there, and every block in it can be built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from omnivit.contracts import registries
from omnivit.contracts.nested import build_adapter

PAGE = (Path(__file__).parents[2] / "docs/adapters.md").read_text(encoding="utf-8")
WIDTH, LLM_WIDTH = 1024, 4096


def blocks() -> list[dict[str, Any]]:
    """The adapter blocks of the page, those that are commented out as alternatives too."""
    listed = []
    for text in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL):
        alternatives = re.findall(r"^# (adapter: .*)$", text, flags=re.MULTILINE)
        for page in (text, *alternatives):
            read = yaml.safe_load(page)
            listed.append(next(iter(read.values()))["adapter"] if "adapter" not in read else read["adapter"])
    return listed


@pytest.mark.parametrize("block", blocks(), ids=lambda block: str(block["name"]))
def test_a_block_can_be_built_and_reaches_the_llm(block: dict[str, Any]) -> None:
    with torch.device("meta"):
        adapter = build_adapter(block, "adapter", WIDTH, LLM_WIDTH)
    assert adapter.width == LLM_WIDTH


def test_every_adapter_has_its_section() -> None:
    ours = {name for name, point in registries.adapters.names().items() if point.value.startswith("omnivit_adapters.")}
    assert set(re.findall(r"^### `(\w+)`$", PAGE, flags=re.MULTILINE)) == ours
