"""Tests of the zoo run only where they are asked for: `make zoo`, or `pytest -m zoo`."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out of every run that does not name their marker."""
    if "zoo" not in config.getoption("markexpr"):
        left = [item for item in items if item.get_closest_marker("zoo") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in left])
        items[:] = left
