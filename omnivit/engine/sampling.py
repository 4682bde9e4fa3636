"""How the next token is chosen: settings of one request, and the choice for all running requests at once.

Shapes: n running requests, V vocabulary, k alternatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from omnivit.errors import DataError

COLDEST = 1e-6
"""Lower temperatures are greedy: logits divided by them may leave the range of float32."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. A temperature of 0 takes the likeliest: the same question gives the same answer."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    """Of the draws; None: torch's global generator, which goes on from where it stands."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise DataError(
                f"temperature is {self.temperature}, but must be a number that is not negative; 0 is greedy, 1 the "
                "model's distribution."
            )
        if not 0 < self.top_p <= 1:
            raise DataError(f"top_p is {self.top_p}, but must be greater than 0 and at most 1.")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < COLDEST

    def options(self) -> dict[str, Any]:
        """Options of `LanguageModel.generate`; every one that a model folder might set otherwise is named."""
        if self.greedy:
            return {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
        return {"do_sample": True, "num_beams": 1, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


GREEDY = Sampling()


def generator_of(sampling: Sampling, device: torch.device) -> torch.Generator | None:
    """The source of a request's draws; None: torch's global generator."""
    return None if sampling.seed is None else torch.Generator(device).manual_seed(sampling.seed)


def draw(scores: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """The next id of one request: scores [1, V] float32 -> an id, as `transformers` draws it from the same numbers."""
    if sampling.temperature != 1:
        scores = scores / sampling.temperature
    if sampling.top_p < 1:
        no_ids: Any = scores.new_zeros(1, 0, dtype=torch.long)
        scores = TopPLogitsWarper(sampling.top_p)(no_ids, scores)
    return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=generator))


def ranked(log_probs: Tensor, id: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The log-probability of an id, and the `count` likeliest ids with theirs: log-probabilities [V]."""
    values, ids = log_probs.topk(min(count, len(log_probs)))
    return float(log_probs[id]), tuple(zip(ids.tolist(), values.tolist(), strict=True))
