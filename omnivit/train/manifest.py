"""The manifest of a checkpoint: size and SHA-256 of every file in it, with a checksum over the manifest itself.

A flipped bit, a file that was replaced and a number that was edited are found before anything is read out of the file.
The checksums are those of `sha256sum`. Knows no tensor and nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from omnivit.errors import CheckpointError

MANIFEST = "manifest.json"
_BLOCK = 1 << 20


def write(folder: Path) -> None:
    """Describe all files that stand in a folder by a manifest beside them."""
    files = {file.name: _entry(file) for file in sorted(folder.iterdir())}
    text = json.dumps({"files": files, "checksum": checksum(files)}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check(folder: Path, names: Collection[str] | None = None) -> list[str]:
    """Compare the files of a checkpoint with its manifest.

    Args:
        folder: the checkpoint.
        names: files to compare; default: all of the manifest.

    Returns:
        Names of the files that were compared.

    Raises:
        CheckpointError: the manifest or a file is missing, damaged or changed; names the file and both values.
    """
    files = _read(folder)
    compared = list(files if names is None else names)
    for name in compared:
        if name not in files:
            raise CheckpointError(f"{folder / name}: the manifest of its checkpoint does not list this file.")
        expected = files[name]
        try:
            size = (folder / name).stat().st_size
            digest = size if size != expected["size"] else _entry(folder / name)["sha256"]
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read: {error}.") from error
        if size != expected["size"]:
            raise CheckpointError(
                f"{folder / name}: the file has {size} bytes, but {expected['size']} were written. It is damaged, or "
                f"was changed."
            )
        if digest != expected["sha256"]:
            raise CheckpointError(
                f"{folder / name}: its SHA-256 is {digest}, but that of what was written is {expected['sha256']}. "
                f"It is damaged, or was changed by hand."
            )
    return compared


def lists(folder: Path, name: str) -> bool:
    """Whether a file belongs to a checkpoint. Raises CheckpointError as `check` does."""
    return name in _read(folder)


def digests(folder: Path) -> dict[str, str]:
    """File of a checkpoint -> its SHA-256, as the manifest says. Raises CheckpointError as `check` does."""
    return {name: entry["sha256"] for name, entry in _read(folder).items()}


def checksum(value: Any) -> str:
    """SHA-256 of JSON-like values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = content["files"]
        whole = content["checksum"] == checksum(files) and all({"size", "sha256"} <= set(e) for e in files.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {type(error).__name__}: {error}.") from error
    if not whole:
        raise CheckpointError(f"{path}: does not match its own checksum. It is damaged, or was changed by hand.")
    return files


def _entry(file: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with file.open("rb", buffering=0) as content:
        while block := content.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return {"size": size, "sha256": digest.hexdigest()}
