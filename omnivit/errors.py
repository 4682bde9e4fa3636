"""Every error that OmniViT raises on purpose.

An error says what failed, why, what to do about it, and what is available. The command line prints the message of an
`OmniVitError` and exits with its status; any other exception is a defect of OmniViT or of a plugin.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class OmniVitError(Exception):
    """Base class: a failure that the user can understand and mend."""

    exit_status: ClassVar[int] = 2
    """Of the command line: 2 where what was asked for is wrong, 1 where it was right and its work did not end well."""


class PluginError(OmniVitError):
    """A plugin is unknown, broken, ambiguous or incomplete. Names entry point, distribution, version and remedy."""


class RecipeError(OmniVitError):
    """A recipe says something that cannot be done. Names the YAML path, file and line where they are known."""


class DataError(OmniVitError):
    """A sample cannot be used. Names the sample and where it stands (file and line)."""


class MediaError(DataError):
    """A medium (picture, sound, ...) cannot be read, or must not be."""


class Interrupted(BaseException):
    """A signal has asked the process to stop, and it does; no error, and nothing for `except Exception` to catch.

    Args:
        number: the signal.
        text: what to tell the user: where it stopped, and how to continue. Empty: another process tells.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class SpliceError(OmniVitError):
    """The rows that an encoder or adapter returned are not the rows that were reserved for them (Law 2)."""


class CheckpointError(OmniVitError):
    """A checkpoint or run folder is missing, damaged, or does not fit the recipe."""


class LibraryError(OmniVitError):
    """An installed library is not used as its version wants it. Names the library, its version and a remedy."""


class OmniVitWarning(UserWarning):
    """Base class: nothing fails, but a user should know. The command line prints it on one line."""


class ContractWarning(FutureWarning):
    """A plugin uses what a later OmniViT will refuse. Python shows it to everybody, unlike a DeprecationWarning."""


class TrainingError(OmniVitError):
    """Training stopped before it was done: its loss is not finite, or a stage did not reach its steps."""

    exit_status = 1


def suggest(name: str, available: Iterable[str]) -> str:
    """Describe what `name` could have been: ``did you mean "clip"? Available: clip, timm.``

    Args:
        name: what the user wrote.
        available: what would have been accepted.
    """
    names = sorted(available)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return f"{hint}Available: {', '.join(names) if names else 'none'}."
