"""Videos: from a medium to a bounded number of frames, each with its time. See `read`."""

from __future__ import annotations

from typing import Any

from omnivit import moved


def __getattr__(name: str) -> Any:
    return moved.attribute(__name__, name)
