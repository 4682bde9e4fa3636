"""Throw-away distributions on the path: a dist-info folder and modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from omnivit.errors import PluginError
from omnivit.registry import Registry

GROUP = "omnivit.eyes"
BASE = """
from abc import ABC, abstractmethod
class Eye(ABC):
    @abstractmethod
    def see(self): ...
"""
GOOD = """
from dataclasses import dataclass
from eyebase import Eye
class Good(Eye):
    @dataclass
    class Config:
        size: int = 1
    def see(self): return "seen"
"""

Install = Callable[..., None]


def of_version(version: object, **attributes: object) -> str:
    """The source of a good plugin, with class attributes."""
    more = "".join(f"    {name} = {value!r}\n" for name, value in {"version": version, **attributes}.items())
    return f"{GOOD}{more}"


def installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str = GROUP) -> Iterator[Install]:
    """A function that installs: name, version, entry points, files by name, further lines of METADATA."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(dist: str, version: str, entries: dict[str, str], files: dict[str, str], *metadata: str) -> None:
        info = tmp_path / f"{dist}-{version}.dist-info"
        info.mkdir()
        head = ["Metadata-Version: 2.1", f"Name: {dist}", f"Version: {version}", *metadata]
        (info / "METADATA").write_text("\n".join(head) + "\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
        tops = {name.split("/")[0].removesuffix(".py") for name in files}
        (info / "top_level.txt").write_text("\n".join(tops) + "\n")
        for name, source in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        importlib.invalidate_caches()

    write("eyebase", "1.0", {}, {"eyebase.py": BASE})
    yield write
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def failure(eyes: Registry[object], name: str) -> str:
    """What the registry says where it has no such plugin to give."""
    with pytest.raises(PluginError) as caught:
        eyes.get(name)
    return str(caught.value)
