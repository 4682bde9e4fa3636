"""Seeds: derived from keys by content, and generators set for a while."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager


def derive_seed(*keys: int | str) -> int:
    """A seed in [0, 2^64) that depends on every key and on nothing else: (run seed, epoch, sample id, ...)."""
    text = repr([key if isinstance(key, str) else int(key) for key in keys])
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int | None, devices: bool = False) -> Iterator[None]:
    """Let torch draw from `seed` inside, and continue afterwards as if nothing had been drawn.

    Args:
        seed: None: change nothing.
        devices: the generators of GPUs too.
    """
    import torch

    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=None if devices else []):
        torch.manual_seed(seed)
        yield
