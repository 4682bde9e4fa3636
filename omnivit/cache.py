"""The user's cache folder: the one place outside a run's folder that OmniViT writes to."""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType

VARIABLE = "OMNIVIT_CACHE"
KINDS = MappingProxyType(
    {
        "index": "where the records of data files begin, and fingerprints of the files",
        "digests": "checksums of large data files",
        "gguf": "weights converted from GGUF",
        "packages": "packages that `make assets` has fetched",
    }
)
"""Folder of the cache -> what is kept in it; all of it is made again where it is missing."""


def cache_dir() -> Path:
    """Return the cache folder (not created): $OMNIVIT_CACHE, else $XDG_CACHE_HOME/omnivit, else ~/.cache/omnivit."""
    own = os.environ.get(VARIABLE)
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "omnivit"
