"""Which process of a run speaks and writes for all of them."""

from __future__ import annotations

import os


def is_leader() -> bool:
    """Whether this process is the only one, or rank zero; known before torch.distributed is up."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
