"""The model card of an export: README.md, and a small file that says what the folder is."""

from __future__ import annotations

import json
from pathlib import Path

from omnivit import __version__
from omnivit.run.export import MARKER
from omnivit.run.export.opened import OpenRun


def write_card(opened: OpenRun, kind: str, folder: Path) -> None:
    """Write the card of an export into its folder."""
    del opened
    (folder / MARKER).write_text(json.dumps({"kind": kind, "omnivit": __version__}) + "\n", encoding="utf-8")
