"""The weights of a Point-BERT out of the checkpoints that ULIP and PointLLM published.

ULIP's are training checkpoints (`state_dict`, with the optimizer and the arguments); PointLLM's are the same for the
encoder alone, or the weights of the whole assistant in several files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnivit.plugin import RecipeError, explained, locate, read_state

PREFIXES = ("point_encoder.", "model.point_backbone.", "point_backbone.", "")
"""Prefixes of the encoder's keys, after `module.` is removed; other keys belong to other parts."""
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
MARK = "cls_token"
"""A tensor that every Point-BERT has."""


def read_point_bert(path: str, file: str | None) -> tuple[dict[str, Tensor], str]:
    """The encoder's tensors by their names in `PointBert`.

    Args:
        path: a file, a folder or a hub id.
        file: which file of it; None: of a folder or hub id, the files that its index names for the encoder.

    Returns:
        The tensors, and what to call their source in errors.

    Raises:
        RecipeError: the file does not exist, is damaged, or contains no Point-BERT.
    """
    place = locate(path)
    if isinstance(place, Path) and place.is_file():
        files = [place]
    else:
        files = [_part(place, file)] if file else _files_of(place)
    state: dict[str, Tensor] = {}
    for part in files:
        with torch.serialization.safe_globals(_harmless()):
            state |= read_state(part)
    return _own(state, ", ".join(map(str, files))), path if file is None else f"{path}/{file}"


def _harmless() -> list[Any]:
    """Classes of plain values that training scripts save with their weights: options and an accuracy."""
    scalar: Any = np.float64(0).__reduce__()[0]
    return [argparse.Namespace, scalar, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType]


def _own(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors under the encoder's prefix, without it."""
    for prefix in PREFIXES:
        if prefix + MARK in state:
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    raise RecipeError(
        f"{source}: the file contains no Point-BERT: there is no {MARK!r} under {', '.join(map(repr, PREFIXES))}. It "
        f"contains {len(state)} tensors, such as {', '.join(list(state)[:3])}."
    )


def _files_of(place: Path | str) -> list[Path]:
    """The files in a folder or hub repository that contain the encoder."""
    for index in INDICES:
        file = _find(place, index)
        if file is not None:
            with explained(f"{file}: is not an index of weights"):
                names: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
            encoder = {shard for name, shard in names.items() if name.startswith(tuple(filter(None, PREFIXES)))}
            return [_part(place, shard) for shard in sorted(encoder or set(names.values()))]
    for name in WHOLE:
        file = _find(place, name)
        if file is not None:
            return [file]
    raise RecipeError(
        f"{place}: contains none of {', '.join((*INDICES, *WHOLE))}. Set `file` to the file with the encoder, such as "
        f"point_bert_v1.2.pt."
    )


def _part(place: Path | str, name: str) -> Path:
    found = _find(place, name)
    if found is None:
        offline = "" if isinstance(place, Path) else ", or the hub cannot be reached"
        raise RecipeError(f"{place}: has no file {name!r}{offline}. Check `file`.")
    return found


def _find(place: Path | str, name: str) -> Path | None:
    """A file of a folder, or of a hub repository, which is fetched; None where there is none."""
    if isinstance(place, Path):
        return place / name if (place / name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with explained(f"path {place!r}: {name} cannot be fetched from the hub"):
        try:
            return Path(hf_hub_download(place, name))
        except EntryNotFoundError:  # not there, or the hub cannot be reached and it was not fetched before
            return None
