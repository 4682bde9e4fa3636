"""Runs -> files that other programs load: what kinds there are, and how an export appears in one step or not at all.

A kind is a function `export(opened, folder, options) -> list[Path]`: it writes into an empty folder and returns what it
has written. This module imports neither torch nor a kind, so that the command line can read it for its help.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from omnivit.errors import CheckpointError, OmniVitError, suggest
from omnivit.files import appearing
from omnivit.run.export.options import MARKER, known_options

if TYPE_CHECKING:
    from omnivit.run.export.opened import OpenRun

__all__ = ["KINDS", "MARKER", "Kind", "check_free", "default_folder", "export", "kind_named", "known_options"]


@dataclass(frozen=True)
class Kind:
    """A form in which a run can be exported."""

    place: str
    """`module:function`."""
    line: str
    """Its line in the help."""


class ExportFunction(Protocol):
    """What a kind is."""

    def __call__(self, opened: OpenRun, folder: Path, options: Mapping[str, Any]) -> list[Path]:
        """Write a run into an empty folder, and return the files. Raises OmniVitError where it cannot be exported."""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "hf": Kind("omnivit.run.export.hf:export", "a folder that Hugging Face transformers loads"),
        "merged": Kind("omnivit.run.export.merged:export", "the LLM with its LoRA merged, and its tokenizer"),
        "peft": Kind("omnivit.run.export.peft:export", "the LLM's LoRA as an adapter folder of peft"),
        "safetensors": Kind("omnivit.run.export.tensors:export", "all trained tensors in one file with metadata"),
        "vllm": Kind("omnivit.run.export.vllm:export", "a folder that vLLM loads with the distribution omnivit-vllm"),
        "onnx": Kind("omnivit.run.export.onnx:export", "encoder and adapter of each input, as ONNX"),
        "gguf": Kind("omnivit.run.export.gguf:export", "the LLM for llama.cpp, and mmproj where it knows the encoder"),
    }
)
"""Name -> kind, as `omnivit export --to` accepts them."""


def kind_named(name: str) -> Kind:
    """The kind of a name.

    Raises:
        OmniVitError: there is none; suggests the nearest.
    """
    if name not in KINDS:
        raise OmniVitError(f"--to {name}: there is no such kind of export; {suggest(name, KINDS)}")
    return KINDS[name]


def default_folder(run: Path, kind: str) -> Path:
    """Where an export goes if nobody says: beside the run."""
    return run.resolve().with_name(f"{run.resolve().name}-{kind}")


def check_free(folder: Path, overwrite: bool) -> None:
    """Refuse to write where something is.

    Raises:
        CheckpointError: the folder exists; with `overwrite`, only if it holds no export.
    """
    if not folder.exists():
        return
    if not overwrite:
        raise CheckpointError(
            f"{folder} exists. Choose another folder with `--out`, or replace the export in it with `--overwrite`."
        )
    if not (folder / MARKER).is_file():
        raise CheckpointError(
            f"{folder} holds no export ({MARKER} is missing). `--overwrite` removes only exports. Choose another "
            f"folder with `--out`."
        )


def export(opened: OpenRun, name: str, folder: Path, options: Mapping[str, Any], overwrite: bool = False) -> list[Path]:
    """Export a run. The folder appears when it is complete; a process that is killed leaves nothing half.

    Args:
        opened: the run.
        name: of the kind.
        folder: to be created.
        options: of the kind.
        overwrite: replace an export that is there.

    Returns:
        The files in the folder.

    Raises:
        OmniVitError: the kind does not fit the run, or an option is unknown.
        CheckpointError: the folder exists or cannot be written.
    """
    from omnivit.run.export.card import write_card

    kind = kind_named(name)
    check_free(folder, overwrite)
    module, _, function = kind.place.partition(":")
    write = cast("ExportFunction", getattr(importlib.import_module(module), function))
    try:
        with appearing(folder, replaces=overwrite) as partial:
            write(opened, partial, options)
            write_card(opened, name, partial)
            readable(partial)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written: {error.strerror or error}. Free some space, or choose another folder with "
            f"`--out`."
        ) from error
    return sorted(path for path in folder.rglob("*") if path.is_file())


def readable(folder: Path) -> None:
    """Give all files the mode of the umask: some libraries write files that only their owner can read."""
    probe = folder / MARKER
    mode = probe.stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
