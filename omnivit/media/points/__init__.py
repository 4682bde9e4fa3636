"""Point clouds and meshes: from a medium to points in 3D space. See `read`."""

from __future__ import annotations

from typing import Any

from omnivit import moved


def __getattr__(name: str) -> Any:
    return moved.attribute(__name__, name)
