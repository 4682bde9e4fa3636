"""What kinds of exports share: their options, and the file by which an export is known. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnivit.errors import OmniVitError, suggest

MARKER = "omnivit_export.json"
"""A file in every export, by which `--overwrite` recognises a folder that it may remove."""


def known_options(options: Mapping[str, Any], defaults: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The options of a kind, with its defaults for those that are not given.

    Raises:
        OmniVitError: an option that the kind does not have, or a value of another type than the default's.
    """
    for name, value in options.items():
        if name not in defaults:
            raise OmniVitError(f"{name}: `--to {kind}` has no such option; {suggest(name, defaults)}")
        default = defaults[name]
        if default is not None and not isinstance(value, type(default)):
            raise OmniVitError(f"{name}={value}: expected a value such as {default!r}.")
    return {**defaults, **options}
