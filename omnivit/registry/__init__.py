"""Entry points -> plugin classes: names, health, versions and advice. Imports neither a plugin nor torch."""

from __future__ import annotations

from typing import Any

from omnivit import moved
from omnivit.registry.registry import REFERENCE, Health, Listing, Registry, damaged, owner_of, registered_owner

__all__ = ["REFERENCE", "Health", "Listing", "Registry", "damaged", "owner_of", "registered_owner"]


def __getattr__(name: str) -> Any:
    return moved.attribute(__name__, name)
