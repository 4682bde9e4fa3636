"""Files of weights in the form in which authors of systems published them, small and random."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

FORMS: Mapping[str, Callable[[], dict[str, Tensor]]] = {}
"""Form -> the content of a small file."""
