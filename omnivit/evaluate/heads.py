"""The losses of heads on questions whose answers are given: how far the predictions of a model are from the targets.

The answer is shown to the model, as in training, so that every target has its token; what the model writes by itself
is for `omnivit.evaluate.run` to score.

Shapes: N occurrences of a head's token in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from omnivit.console import track
from omnivit.contracts.batch import Batch
from omnivit.contracts.metric import Interval
from omnivit.contracts.sample import Sample
from omnivit.data.collate import collate
from omnivit.data.prepare import Preparer
from omnivit.evaluate.intervals import bootstrap
from omnivit.model.omni import OmniModel


def head_losses(
    model: OmniModel, preparer: Preparer, asked: Sequence[Sample], answered: Sequence[Sample], batch_size: int
) -> dict[str, Interval]:
    """`HEAD.LOSS` -> its mean over targets, with a 95% interval (a bootstrap over the targets).

    Args:
        model: whose heads are read, in `eval()`.
        preparer: as it serves the model.
        asked: the questions, with the media of some condition.
        answered: the same samples as they were read, with their answers.
        batch_size: samples of one pass.

    Raises:
        DataError: a target cannot be read; names the sample.
    """
    if not preparer.heads:
        return {}
    preparer = replace(preparer, reads_targets=True)
    samples = [
        replace(question, messages=question.messages + sample.messages[len(question.messages) :])
        for question, sample in zip(asked, answered, strict=True)
    ]
    losses: dict[str, list[float]] = {}
    for start in track(range(0, len(samples), batch_size), "measuring heads", patient=True):
        encoded = [preparer(sample) for sample in samples[start : start + batch_size]]
        batch = collate(encoded, tuple(preparer.slots), preparer.chat.pad_id)
        for name, loss in _losses(model, batch.to(next(model.parameters()).device)):
            losses.setdefault(name, []).append(loss)
    return {name: bootstrap(np.array(values), np.ones(len(values))) for name, values in sorted(losses.items())}


@torch.inference_mode()
def _losses(model: OmniModel, batch: Batch) -> Iterator[tuple[str, float]]:
    """Name and loss of every target of a batch, one by one."""
    states = model.states(batch) if batch.triggers else None
    for head, triggers in batch.triggers.items():
        assert states is not None
        for i in range(len(triggers.places)):
            # one occurrence at a time: a head's losses are sums over the occurrences that it is given
            state = states[triggers.samples[i : i + 1], triggers.places[i : i + 1]]
            target: Mapping[str, torch.Tensor] = {key: value[i : i + 1] for key, value in triggers.targets.items()}
            losses = model.heads[head](state, target).losses
            yield from ((f"{head}.{name}", float(loss)) for name, loss in losses.items())
