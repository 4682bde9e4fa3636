"""300 requests with media, one by one and at once: memory stays what it was, and so do the answers."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from assistant_support import make_run
from PIL import Image

import omnivit
from omnivit.engine import Engine
from omnivit.recipe import Recipe

REQUESTS, TOKENS, CLIENTS = 300, 3, 12
KEPT = 40_000
"""Bytes of encoded media that are kept: of about ten images."""
GROWTH = 10 * 2**20
"""Bytes that the process may grow by: 2 MB were measured; the images of 240 requests would be 21, if they were kept."""


def resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from /proc")
def test_memory_is_flat_over_300_requests(load_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    assistant = omnivit.load(make_run(load_recipe(), tmp_path / "runs" / "tiny"), device="cpu")
    engine = assistant.engine = Engine(assistant.model, assistant.preparer.chat, slots=8)
    engine._media.limit = KEPT
    levels: list[float] = []

    def ask(number: int) -> str:
        pixels = np.random.default_rng(number).integers(0, 255, (150, 200, 3), dtype=np.uint8)
        turn = assistant.turn(f"Question {number % 7}?" * (1 + number % 3), [("image", Image.fromarray(pixels))])
        answer = assistant.respond([turn], max_new_tokens=TOKENS + number % 5).text
        levels.append(float(engine.stats()["media_mb"]))
        return answer

    def ask_at_once(numbers: Sequence[int]) -> list[str]:
        with ThreadPoolExecutor(CLIENTS) as clients:
            return list(clients.map(ask, numbers))

    first = [ask(number) for number in range(30)]
    assert ask_at_once(range(30)) == first and len(set(first)) > 10
    before = resident()
    for number in range(30, REQUESTS // 2):
        ask(number)
    ask_at_once(range(REQUESTS // 2, REQUESTS - 30))
    assert ask_at_once(range(30)) == first
    grown = resident() - before
    assert grown < GROWTH, f"{grown / 2**20:.0f} MB more than before {REQUESTS} requests"
    stats = engine.stats()
    assert 0 < max(levels) * 2**20 <= KEPT, "the bound of the media cache"
    assert stats["media_misses"] >= REQUESTS and stats["running"] == stats["waiting"] == 0
    assert engine._together is not None and not engine._together.rows
    rows = engine._together.decoding._rows  # type: ignore[attr-defined]
    assert rows.row_room == 8 and rows.column_room <= 512 and not rows.starts
    engine.close()
