"""docs/modalities.md: every encoder is there, and every block in it is one that its plugins take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnivit.contracts import registries
from omnivit.contracts.options import merge_options

PAGE = (Path(__file__).parents[2] / "docs/modalities.md").read_text(encoding="utf-8")
KNOWN = {"encoder": registries.encoders, "adapter": registries.adapters}


def blocks() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every encoder's and adapter's block of the page, those inside others too."""
    for text in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL):
        for part in re.split(r"^# .*$", text, flags=re.MULTILINE):  # alternatives of one block
            for lines in re.split(r"^(?=encoder: )", part, flags=re.MULTILINE):
                yield from _found(yaml.safe_load(lines))


def _found(value: Any, kind: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, list):
        for part in value:
            yield from _found(part, kind)
    elif isinstance(value, dict):
        if kind and "share" not in value:
            yield kind, value
        for key, inner in value.items():
            yield from _found(inner, key if key in KNOWN else "adapter" if key == "steps" else "")


@pytest.mark.parametrize(
    ("kind", "block"), blocks(), ids=lambda value: value if isinstance(value, str) else value["name"]
)
def test_a_block_says_what_its_plugin_takes(kind: str, block: dict[str, Any]) -> None:
    config = KNOWN[kind].get(block["name"]).Config  # type: ignore[attr-defined]
    merge_options(config, {key: value for key, value in block.items() if key != "name"}, kind)


def test_every_encoder_has_a_row_and_a_block() -> None:
    ours = {name for name, point in registries.encoders.names().items() if point.value.startswith("omnivit_encoders.")}
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) +\|", PAGE, flags=re.MULTILINE)
    assert ours <= {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert ours - {"timm"} <= {block["name"] for kind, block in blocks() if kind == "encoder"}
