"""Every error that OmniViT raises on purpose.

An error says what failed, why, what to do, and what is available. The command line prints the message of an
`OmniVitError` and exits with its status; any other exception is a defect of OmniViT or of a plugin.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class OmniVitError(Exception):
    """Base class: a failure that the user can understand and fix."""

    exit_status: ClassVar[int] = 2
    """Exit status of the command line: 2 if the request is wrong, 1 if the request is right but its work failed."""


class PluginError(OmniVitError):
    """A plugin is unknown, broken, ambiguous or incomplete. Names entry point, distribution, version and remedy."""


class RecipeError(OmniVitError):
    """A recipe asks for something that is not possible. Names the YAML path, file and line where they are known."""


class DataError(OmniVitError):
    """A sample cannot be used. Names the sample and its place (file and line)."""


class MediaError(DataError):
    """A medium (image, video, audio, ...) cannot be read, or must not be."""


class Interrupted(BaseException):
    """A signal stops the process. It is no error, and `except Exception` does not catch it.

    Args:
        number: the signal.
        text: for the user: where the process stopped, and how to continue. Empty: another process prints it.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class SpliceError(OmniVitError):
    """An encoder or adapter returned another number of tokens than was reserved for it (Law 2)."""


class CheckpointError(OmniVitError):
    """A checkpoint or run folder is missing, damaged, or does not fit the recipe."""


class LibraryError(OmniVitError):
    """An installed library does not work as OmniViT calls it. Names the library, its version and a remedy."""


class OmniVitWarning(UserWarning):
    """Base class: nothing failed, but the user should know. The command line prints it on one line."""


class ContractWarning(FutureWarning):
    """A plugin uses something that a later OmniViT refuses. Unlike a DeprecationWarning, it is shown by default."""


class TrainingError(OmniVitError):
    """Training stopped before its end: the loss is not finite, or a stage did not reach its number of steps."""

    exit_status = 1


def suggest(name: str, available: Iterable[str]) -> str:
    """The end of a message about an unknown name: ``did you mean "clip"? Available: clip, timm.``

    Args:
        name: what the user wrote.
        available: the names that are accepted.
    """
    names = sorted(available)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return f"{hint}Available: {', '.join(names) if names else 'none'}."
