"""What a packed run says of the machine that it comes from: nothing. Paths, host and names of samples are replaced."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omnivit.data.privacy import hidden

_PATH = re.compile(r"(?<![\w.:/~])(?:/|~/)(?:[\w.@+~=-]+/)*([\w.@+~=-]+)")
"""An absolute path in a text; URLs are none."""
UNSET = "???"
"""In a recipe: whoever opens it has to say."""
REPORTED = ("seconds", "peak_memory_mb", "choices", "created", "device", "parameters", "overlap")
STATE = ("stage", "stage_index", "step", "total_steps", "seconds", "seed", "validated", "validations")
STAGE = ("name", "steps", "samples", "seconds", "first_loss", "last_loss", "skipped")


def scrubbed(value: Any, folders: tuple[Path, ...] = ()) -> Any:
    """Plain values with the last part of each absolute path in its place, in keys too.

    Args:
        value: mappings, lists and scalars.
        folders: are cut off as a whole, since their names may contain spaces.
    """
    if isinstance(value, str):
        for folder in folders:
            value = value.replace(f"{folder}/", "").replace(str(folder), ".")
        return _PATH.sub(r"\1", value)
    if isinstance(value, Mapping):
        return {scrubbed(key, folders): scrubbed(entry, folders) for key, entry in value.items()}
    return [scrubbed(entry, folders) for entry in value] if isinstance(value, list | tuple) else value


def portable_recipe(recipe: dict[str, Any], run: Path, copy: Callable[[Path], None]) -> dict[str, Any]:
    """A recipe without absolute paths.

    The data root becomes `data` in the run folder. What lies in the run folder, as after `omnivit import`, is copied
    and named from there. Weights elsewhere on the machine become `???`, which an override sets when the run is opened.

    Args:
        recipe: as plain values.
        run: the run folder.
        copy: is called with each path inside the run that the recipe names.
    """

    def changed(value: Any, in_model: bool) -> Any:
        if isinstance(value, Mapping):
            return {key: changed(entry, in_model or key == "model") for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [changed(entry, in_model) for entry in value]
        if not isinstance(value, str) or not Path(value).is_absolute():
            return value
        place = Path(value).resolve()
        if place.is_relative_to(run.resolve()):
            copy(place)
            return f"./{place.relative_to(run.resolve())}"
        return UNSET if in_model else Path(value).name

    return {**changed(recipe, False), "data": {**changed(recipe["data"], False), "root": "./data"}}


def without_samples(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint without names and paths of samples; how many were skipped stays."""
    kept = {key: state[key] for key in STATE if key in state}
    return kept | {"skipped": [hidden(reason) for reason in state["skipped"]]}


def numbers_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """report.json without content of records: scores, losses, counts and times."""
    kept = {key: report[key] for key in REPORTED if key in report}
    kept |= {key: value for key, value in report.items() if isinstance(value, Mapping) and _is_metric(value)}
    kept["stages"] = [{key: stage[key] for key in STAGE if key in stage} for stage in report.get("stages", [])]
    return kept


def rewrite_header(file: Path, folders: tuple[Path, ...]) -> None:
    """Scrub the texts in the header of a safetensors file; its tensors stay where they are."""
    content = file.read_bytes()
    [size] = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    texts = {key: json.dumps(scrubbed(json.loads(value), folders)) for key, value in header["__metadata__"].items()}
    encoded = json.dumps(header | {"__metadata__": texts}).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[8 + size :])


def _is_metric(value: Mapping[str, Any]) -> bool:
    """Whether it is condition -> interval."""
    return bool(value) and all(
        isinstance(entry, Mapping) and set(entry) == {"mean", "low", "high", "n"} for entry in value.values()
    )
