"""Records and pictures that tests write; beside conftest.py so that tests can import it by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 210), "grey": (128, 128, 128)}


def picture_record(name: str, picture: str, colour: str) -> dict[str, Any]:
    """One question about one picture."""
    question = [{"type": "image", "image": picture}, {"type": "text", "text": "Which colour?"}]
    answer = [{"type": "text", "text": colour}]
    return {"id": name, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def text_record(name: str, question: str, answer: str) -> dict[str, Any]:
    """One question without a picture."""
    return {"id": name, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
