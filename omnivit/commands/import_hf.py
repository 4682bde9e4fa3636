"""`omnivit import-hf`: the earlier name of `omnivit import`."""

from __future__ import annotations

import importlib

_import = importlib.import_module("omnivit.commands.import")  # a keyword of Python, so no import statement can name it
add_arguments, run = _import.add_arguments, _import.run
