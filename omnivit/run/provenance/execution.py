"""Where and how a run computes, as far as its bits depend on it: ranks, device, threads, precision."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer


def execution(trainer: Trainer) -> dict[str, Any]:
    """What the provenance says of it.

    Sums are taken in another order on another number of ranks or threads, and other instructions round otherwise:
    the same recipe then gives other bits.
    """
    kind = trainer.strategy.root_device.type
    facts = {"ranks": trainer.world_size, "device": f"{kind} ({_model(kind)})", "precision": str(trainer.precision)}
    return facts | ({"threads": torch.get_num_threads()} if kind == "cpu" else {})


def use_threads(record: Mapping[str, Any]) -> None:
    """Compute with as many threads as a run was begun with, however many cores are here: the bits stay the same."""
    threads = record.get("execution", {}).get("threads")
    if isinstance(threads, int) and 0 < threads <= 1024:
        torch.set_num_threads(threads)


def _model(kind: str) -> str:
    if kind == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}" if kind == "cpu" else platform.machine()
