"""`omnivit cache`: list what OmniViT keeps in the user's cache folder, with sizes, and remove it."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from omnivit.console import table
from omnivit.errors import OmniVitError
from omnivit.files import CACHE_VARIABLE, CACHED, LIMIT_VARIABLE, cache_dir, cache_limit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"parts of the cache: {', '.join(CACHED)}; default: all"
    )
    parser.add_argument(
        "--clear", action="store_true", help="remove the files; those that are needed again are created again"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(args: argparse.Namespace) -> int:
    """List the cache, or clear it."""
    for kind in args.kinds:
        if kind not in CACHED:
            raise OmniVitError(f"the cache has no part {kind!r}. Its parts are: {', '.join(CACHED)}.")
    folder = cache_dir()
    cache_limit()  # one that is no size is said before anything is removed
    chosen = {kind: _measure(folder / kind) for kind in args.kinds or CACHED}
    if args.clear:
        for kind in chosen:
            _remove(folder / kind)
    if args.json:
        sizes = {kind: {"files": files, "bytes": size} for kind, (files, size) in chosen.items()}
        about = {"folder": str(folder), "limit": cache_limit(), "cleared": args.clear, "kinds": sizes}
        print(json.dumps(about, indent=1))
    else:
        print(_text(folder, chosen, args.clear))
    return 0


def _measure(folder: Path) -> tuple[int, int]:
    """Files and bytes."""
    sizes = [path.lstat().st_size for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return len(sizes), sum(sizes)


def _remove(folder: Path) -> None:
    """Remove the files of one kind. Nothing else in the cache folder is touched: other programs may use it too."""
    try:
        if folder.is_dir():
            shutil.rmtree(folder)
    except OSError as error:
        raise OmniVitError(f"{error.filename or folder} cannot be removed: {error.strerror or error}.") from error


def _text(folder: Path, chosen: dict[str, tuple[int, int]], cleared: bool) -> str:
    total = sum(size for _, size in chosen.values())
    cells = [(kind, f"{files:,} files", _spelled(size), CACHED[kind]) for kind, (files, size) in chosen.items()]
    rows = [f"  {line}" for line in table(cells, right=(1, 2))]
    if cleared:
        return "\n".join([f"Removed {_spelled(total)} from {folder}:", *rows])
    hints = (
        f"`omnivit cache --clear [KIND ...]` removes them. The variable {CACHE_VARIABLE} names another folder.",
        f"Above {_spelled(cache_limit())} ({LIMIT_VARIABLE}), what was not used for longest is removed.",
    )
    return "\n".join([f"{folder}: {_spelled(total)}", *rows, *hints])


def _spelled(size: int) -> str:
    for unit, divisor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= divisor:
            return f"{size / divisor:.1f} {unit}"
    return f"{size} bytes"
