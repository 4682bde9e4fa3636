"""What to do about a medium that cannot be used: the sentences that end the errors of all media, in one place."""

from __future__ import annotations

REMOVE = "remove the sample from the data"
"""What helps where no better copy of a file exists."""


def download_again(subject: str = "it", *, alternative: str = REMOVE) -> str:
    """The remedy for a file that is damaged, cut short, empty, or not what its name says.

    Args:
        subject: what to download.
        alternative: what else helps, as a phrase that begins with a verb; empty where nothing does.
    """
    return f"Download {subject} again, or {alternative}." if alternative else f"Download {subject} again."


def or_remove(remedy: str) -> str:
    """A remedy of its own (a phrase that begins with a capital verb), with the removal of the sample as the way out."""
    return f"{remedy}, or {REMOVE}."
