"""Finds files of weights that are read while a plugin is built: `omnivit check` builds models larger than memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors
import safetensors.torch

from omnivit.testing.rules import Broken

SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".npz"})
"""Of files that contain weights."""
_watched: list[list[str]] = []
"""Names of files that were opened, for each `no_weights_read` that is active."""


@contextmanager
def no_weights_read() -> Iterator[None]:
    """Raises Broken at its end where a file of weights was opened inside."""
    opened: list[str] = []
    _install_hook()
    _watched.append(opened)
    try:
        # safetensors opens files in Rust, which no audit hook sees
        with mock.patch.object(safetensors.torch, "safe_open", _noting(safetensors.safe_open)):
            yield
    finally:
        _watched.remove(opened)
    if opened:
        raise Broken(
            f"the constructor reads the weights file {Path(opened[0]).name!r}.",
            "Read weights in `load`, which is called once, on real devices.",
        )


def _noting(original: Any) -> Any:
    def noting(filename: Any, *arguments: Any, **options: Any) -> Any:
        _note(filename)
        return original(filename, *arguments, **options)

    return noting


def _note(name: object) -> None:
    if isinstance(name, str | Path) and Path(name).suffix.lower() in SUFFIXES:
        for opened in _watched:
            opened.append(str(name))


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event == "open":
        _note(arguments[0])


_hooked: list[bool] = []


def _install_hook() -> None:
    """Install the audit hook once: Python has no way to remove one."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hook)
