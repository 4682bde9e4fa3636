"""Loader workers that hang can still be ended, though signals for the run do not reach them."""

from __future__ import annotations

import signal
import time
from multiprocessing import active_children
from typing import Any

from torch.utils.data import Dataset

from omnivit.data.loader import Loader


class Hanging(Dataset[int]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        if index:
            time.sleep(300)
        return index


def test_a_worker_that_hangs_is_ended_by_terminate() -> None:
    before = set(active_children())
    loader: Loader[int] = Loader(Hanging(), num_workers=1)
    rows: Any = iter(loader)
    assert next(rows).item() == 0
    [worker] = set(active_children()) - before
    rows._shutdown_workers()  # waits five seconds for the worker, then calls terminate
    worker.join(10)
    assert worker.exitcode == -signal.SIGKILL
