"""Golden numbers: a JSON file says where they are from; its long arrays are in a .safetensors file next to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "golden"


def read_golden(name: str) -> Any:
    """The content of a JSON file, with lists of numbers in the place of every `{"tensor": KEY}`.

    Args:
        name: such as `adapters/conv`.
    """
    file = FOLDER / f"{name}.json"
    arrays = file.with_suffix(".safetensors")
    return _filled(json.loads(file.read_text(encoding="utf-8")), load_file(arrays) if arrays.is_file() else {})


def _filled(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return tensors[value["tensor"]].tolist()
        return {key: _filled(item, tensors) for key, item in value.items()}
    return [_filled(item, tensors) for item in value] if isinstance(value, list) else value
