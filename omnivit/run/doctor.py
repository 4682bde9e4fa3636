"""Everything about an installation that decides what OmniViT can do, looked up without a recipe.

Nothing here fails if a part of the installation fails: that is what it reports.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from omnivit import __version__
from omnivit.contracts.registries import ALL
from omnivit.errors import OmniVitError
from omnivit.files import cache_dir
from omnivit.registry import Listing, damaged, versions

if TYPE_CHECKING:
    from omnivit.model.precision import Rates

LITTLE_DISK = 5 * 10**9
"""Bytes below which a disk is said to be nearly full: a checkpoint of a small LLM with its optimizer fits."""


@dataclass(frozen=True)
class Device:
    """What a model can run on."""

    name: str
    """As `--device` takes it."""
    model: str
    memory: int | None
    """Bytes that it has; None where that is not known."""


@dataclass(frozen=True)
class Folder:
    """A folder that OmniViT writes to."""

    path: Path
    free: int
    """Bytes on its disk."""
    used: int | None = None
    """Bytes in it; None where they were not counted."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    omnivit: str
    python: str
    system: str
    libraries: list[versions.Library]
    devices: list[Device]
    rates: list[Rates]
    plugins: list[Listing]
    working: Folder
    cache: Folder
    hub: Folder | None
    """The folder that stands for the Hugging Face hub, if OMNIVIT_HUB names one."""
    problems: list[str] = field(default_factory=list)
    """What should be fixed, each with what to do. A plugin whose extra is not installed is not a problem."""


def diagnose() -> Diagnosis:
    """Look at everything; measures for less than a second."""
    problems: list[str] = []
    libraries = versions.survey()
    if text := versions.summary(libraries):
        problems.append(text)
    devices, rates = _devices(problems)
    broken = damaged()
    problems += [f"{one.distribution}: {one.health.problem}. {one.health.remedy}" for one in broken]
    plugins = [listing for registry in ALL.values() for listing in registry.survey()] + broken
    working, cache = _folder(Path.cwd()), _folder(cache_dir(), count=True)
    for what, folder in (("the working folder", working), ("the cache", cache)):
        if folder.free < LITTLE_DISK:
            problems.append(
                f"The disk of {what} ({folder.path}) has only {size(folder.free)} free. "
                "Free some space, or move the folder."
            )
    system = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPU cores"
    return Diagnosis(__version__, sys.version.split()[0], system, libraries, devices, rates, plugins, working, cache,
                     _hub(problems), problems)  # fmt: skip


def size(count: float) -> str:
    """A number of bytes as people read it: `5.6 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _devices(problems: list[str]) -> tuple[list[Device], list[Rates]]:
    """The devices, and what they multiply; where torch cannot be imported, there are none, and that is a problem."""
    try:
        import torch

        from omnivit.model.device import available
        from omnivit.model.precision import measure

        kinds = ["cpu", *(name for name in available() if ":" in name or name == "mps")]
        rates = [measure(name) for name in kinds]
        memory = [_memory(), *(torch.cuda.mem_get_info(name)[1] if ":" in name else None for name in kinds[1:])]
        return [Device(name, rate.name, some) for name, rate, some in zip(kinds, rates, memory, strict=True)], rates
    except Exception as error:  # a broken installation of torch raises anything
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        problems.append(f"torch does not work: {reason}. Install it again: pip install --force-reinstall torch")
        return [], []


def _hub(problems: list[str]) -> Folder | None:
    """The folder that stands for the hub; a variable that names none is a problem."""
    from omnivit.model.hub import hub_folder

    try:
        folder = hub_folder()
    except OmniVitError as error:
        problems.append(str(error))
        return None
    return None if folder is None else _folder(folder, count=True)


def _memory() -> int | None:
    """Bytes of the machine's memory."""
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= names.keys():
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _folder(path: Path, count: bool = False) -> Folder:
    """A folder, which need not exist yet."""
    standing = next(one for one in (path.absolute(), *path.absolute().parents) if one.is_dir())
    return Folder(path, shutil.disk_usage(standing).free, sum(_sizes(path)) if count else None)


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                yield (Path(place) / name).lstat().st_size
            except OSError:  # gone since, or not ours to see
                continue
