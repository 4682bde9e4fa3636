"""The losses of heads on questions whose answers are given: how far from its targets a model points.

The answer is shown to the model, as in training, so that every target has its token; what the model writes by itself
is for `omnivit.evaluate.run` to score.

Shapes: N occurrences of a head's token in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from omnivit.data.collate import Batch, collate
from omnivit.data.prepare import Preparer
from omnivit.data.sample import Sample
from omnivit.evaluate.metrics import Interval
from omnivit.model.omni import OmniModel

RESAMPLES = 2000
"""Draws of the bootstrap."""


class Pointer(Protocol):
    """What is evaluated: `omnivit.assistant.Assistant`, or whatever is made like it."""

    @property
    def model(self) -> OmniModel: ...
    @property
    def preparer(self) -> Preparer: ...


def head_losses(
    assistant: Pointer, asked: Sequence[Sample], whole: Sequence[Sample], batch_size: int
) -> dict[str, Interval]:
    """`HEAD.LOSS` -> its mean over targets, with a 95% interval (a bootstrap over the targets).

    Args:
        assistant: whose heads are read.
        asked: the questions, with the media of some condition.
        whole: the same samples as they were read, with their answers.
        batch_size: samples of one pass.

    Raises:
        DataError: a target cannot be read; names the sample.
    """
    if not assistant.preparer.heads:
        return {}
    preparer = replace(assistant.preparer, reads_targets=True)
    samples = [
        replace(question, messages=question.messages + sample.messages[len(question.messages) :])
        for question, sample in zip(asked, whole, strict=True)
    ]
    found: dict[str, list[float]] = {}
    for start in range(0, len(samples), batch_size):
        encoded = [preparer(sample) for sample in samples[start : start + batch_size]]
        batch = collate(encoded, tuple(preparer.slots), preparer.chat.pad_id)
        for name, loss in _losses(assistant.model, batch.to(next(assistant.model.parameters()).device)):
            found.setdefault(name, []).append(loss)
    return {name: _mean(losses) for name, losses in sorted(found.items())}


@torch.inference_mode()
def _losses(model: OmniModel, batch: Batch) -> Iterator[tuple[str, float]]:
    """Name and loss of every target of a batch, one by one."""
    states = model.states(batch) if batch.triggers else None
    for head, found in batch.triggers.items():
        assert states is not None
        for one in range(len(found.places)):
            state = states[found.samples[one : one + 1], found.places[one : one + 1]]
            target: Mapping[str, torch.Tensor] = {key: value[one : one + 1] for key, value in found.targets.items()}
            losses = model.heads[head](state, target).losses
            yield from ((f"{head}.{name}", float(loss)) for name, loss in losses.items())


def _mean(losses: Sequence[float], seed: int = 0) -> Interval:
    values = np.array(losses)
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high), len(values))
