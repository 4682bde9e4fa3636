"""RUN/start.safetensors: the weights that a run began with (`init_from`).

It holds every tensor that was filled in, the LoRA that was merged, and rows of new tokens; its header says from where.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from omnivit.errors import CheckpointError, RecipeError
from omnivit.files import replacing
from omnivit.model.start import Merge, Start
from omnivit.model.weight_file import WeightFile, metadata

START = "start.safetensors"
_FILLED, _MERGED, _ROWS = "filled/", "merged/", "rows/"


def write_start(start: Start, file: Path, init_from: Any) -> None:
    """Write a start, as a whole or not at all.

    Args:
        start: what a run begins with.
        file: where.
        init_from: of the recipe, as plain values.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    header = {
        "init_from": init_from,
        "sources": start.sources,
        "merges": [(merge.layer, merge.scaling) for merge in start.merges],
        "scaling": start.scaling,
        "rows": [(text, sorted(row)) for text, row in start.rows.items()],
    }
    with replacing(file) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # what the umask makes of a new file; safetensors would say 0600
        save_file(_tensors(start), partial, {key: json.dumps(value) for key, value in header.items()})
        partial.chmod(mode)


def header_of(file: Path, key: str) -> Any:
    """`init_from` or `sources` of a file that `write_start` wrote.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return json.loads(metadata(file)[key])
    except (RecipeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {type(error).__name__}: {error}. Restore it.") from error


def missing(file: Path) -> CheckpointError:
    """The error about a run without the file."""
    return CheckpointError(
        f"{file} is missing: it holds the weights that the run began with (`init_from`). Restore it, or start a new "
        f"run."
    )


def read_start(file: Path, read: bool = True) -> Start:
    """Read what `write_start` wrote.

    Args:
        file: of the run.
        read: False: names and shapes alone, on the meta device.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    if not file.is_file():
        raise missing(file)
    try:
        header = {key: json.loads(value) for key, value in metadata(file).items()}
        tensors = WeightFile(file).read() if read else WeightFile(file).on_meta()
        merges = [
            Merge(layer, tensors[f"{_MERGED}{number}/a"], tensors[f"{_MERGED}{number}/b"], scaling)
            for number, (layer, scaling) in enumerate(header["merges"])
        ]
        rows = {
            text: {kind: tensors[f"{_ROWS}{number}/{kind}"] for kind in kinds}
            for number, (text, kinds) in enumerate(header["rows"])
        }
        filled = {key.removeprefix(_FILLED): value for key, value in tensors.items() if key.startswith(_FILLED)}
        return Start(filled, merges, header["scaling"], rows, sources=header["sources"])
    except (RecipeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot be read: {type(error).__name__}: {error}.") from error


def _tensors(start: Start) -> dict[str, Tensor]:
    tensors = {f"{_FILLED}{name}": value for name, value in start.tensors.items()}
    for number, merge in enumerate(start.merges):
        tensors |= {f"{_MERGED}{number}/a": merge.a, f"{_MERGED}{number}/b": merge.b}
    for number, row in enumerate(start.rows.values()):
        tensors |= {f"{_ROWS}{number}/{kind}": value for kind, value in row.items()}
    return {name: _apart(value) for name, value in tensors.items()}


def _apart(value: Tensor) -> Tensor:
    """A tensor with memory of its own: those of a pickled file may share it."""
    whole = value.untyped_storage().nbytes() == value.nbytes and value.is_contiguous()
    return value if whole else torch.clone(value, memory_format=torch.contiguous_format)
