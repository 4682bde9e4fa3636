"""What the server counts, in the text form that Prometheus reads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from omnivit.run.assistant import Assistant

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATHS = ("/v1/chat/completions", "/v1/models", "/healthz", "/metrics")
"""Paths that are counted by name; others are counted together, so that strangers cannot make the list grow."""
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper ends of the buckets of latencies."""


class Histogram:
    """Durations in buckets."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[next((k for k, bound in enumerate(self.bounds) if seconds <= bound), len(self.bounds))] += 1
        self.total += seconds

    def lines(self, name: str, text: str) -> list[str]:
        """As Prometheus reads it: each bucket contains those below it."""
        lines, sum_so_far = [f"# HELP {name} {text}", f"# TYPE {name} histogram"], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            sum_so_far += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {sum_so_far}')
        return [*lines, f"{name}_sum {self.total:.6f}", f"{name}_count {sum_so_far}"]


class Metrics:
    """Counts of a server; any thread may add to them."""

    def __init__(self, assistant: Assistant) -> None:
        self._assistant, self._lock = assistant, threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._prompt = self._completion = self._cancelled = 0
        self._media: Counter[str] = Counter()
        self._first, self._total = Histogram(), Histogram()

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request has ended; status 0: its client left before the answer."""
        del seconds
        with self._lock:
            self._requests[path if path in PATHS else "other", status] += 1

    def first_token(self, seconds: float) -> None:
        """The first text of an answer has come."""
        with self._lock:
            self._first.add(seconds)

    def generated(self, prompt: int, media: dict[str, int], completion: int, seconds: float, cancelled: bool) -> None:
        """An answer has ended.

        Args:
            prompt: tokens of its prompt.
            media: slot -> tokens of media in it.
            completion: tokens of the answer.
            seconds: since the request came.
            cancelled: whether its client left, or the time was up.
        """
        with self._lock:
            self._prompt += prompt
            self._completion += completion
            self._media.update(media)
            self._cancelled += cancelled
            self._total.add(seconds)

    def text(self) -> str:
        """All metrics."""
        stats = self._assistant.engine.stats()
        with self._lock:
            lines = [
                *_counter("omnivit_requests_total", "Requests by path and status.", self._request_lines()),
                *_counter("omnivit_prompt_tokens_total", "Tokens of prompts, media included.", [("", self._prompt)]),
                *_counter(
                    "omnivit_media_tokens_total",
                    "Tokens of media in prompts.",
                    [(f'{{slot="{_quoted(slot)}"}}', count) for slot, count in sorted(self._media.items())],
                ),
                *_counter("omnivit_completion_tokens_total", "Tokens of answers.", [("", self._completion)]),
                *_counter("omnivit_cancelled_total", "Answers that were stopped.", [("", self._cancelled)]),
                *_counter("omnivit_media_cache_hits_total", "Media encoded before.", [("", stats["media_hits"])]),
                *_counter("omnivit_media_cache_misses_total", "Media encoded anew.", [("", stats["media_misses"])]),
                *_gauge("omnivit_running_requests", "Requests that run.", stats["running"]),
                *_gauge("omnivit_waiting_requests", "Requests that wait.", stats["waiting"]),
                *self._first.lines("omnivit_first_token_seconds", "From the request to the first text."),
                *self._total.lines("omnivit_answer_seconds", "From the request to the end of the answer."),
            ]
        return "\n".join(lines) + "\n"

    def _request_lines(self) -> list[tuple[str, int]]:
        return [(f'{{path="{path}",status="{status}"}}', n) for (path, status), n in sorted(self._requests.items())]


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _counter(name: str, text: str, values: Sequence[tuple[str, int]]) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} counter", *(f"{name}{label} {n}" for label, n in values)]


def _gauge(name: str, text: str, value: float) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value}"]
