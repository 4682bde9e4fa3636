"""Libraries of optional kinds of data files, imported when such a file is opened."""

from __future__ import annotations

import importlib
from typing import Any

from omnivit.errors import PluginError


def imported(module: str, extra: str, what: str) -> Any:
    """A module of an optional library.

    Args:
        module: its name.
        extra: the extra of OmniViT that installs it.
        what: the file that needs it, for errors.

    Raises:
        PluginError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PluginError(
            f"{what}: reading it needs {module.partition('.')[0]}, which cannot be imported: {error}. "
            f"Run: pip install 'omnivit[{extra}]'"
        ) from error
