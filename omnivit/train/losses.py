"""Losses of a batch: cross-entropy on answer tokens, and those of the heads. All are sums.

A sum, because a mean of means is wrong under gradient accumulation and over ranks: a step divides the loss of the text
by its global count of supervised tokens, and a head's by that of its targets.

Shapes: B samples, T tokens, N supervised tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from omnivit.contracts.batch import Batch
from omnivit.contracts.head import Head, HeadOutput
from omnivit.errors import PluginError
from omnivit.model.omni import ModelOutput
from omnivit.recipe import LM

ROWS = 256
"""Rows of logits whose losses `lm_loss_by_sample` computes together."""


def lm_loss_sum(logits: Tensor, batch: Batch) -> Tensor:
    """Sum (not mean) of the cross-entropy over the supervised tokens, in float32.

    Args:
        logits: [N, V] at the positions `batch.targets()`, in row-major order.
        batch: labels [B, T].
    """
    return functional.cross_entropy(logits.float(), batch.places.labels, reduction="sum")


def token_log_probs(logits: Tensor, batch: Batch) -> Tensor:
    """[N] log-probability of every supervised token, in float32, in row-major order."""
    scores = torch.log_softmax(logits.float(), dim=-1)
    return scores.gather(1, batch.places.labels.unsqueeze(1)).squeeze(1)


@torch.no_grad()
def lm_loss_by_sample(logits: Tensor, batch: Batch) -> Tensor:
    """[B] what each sample adds to `lm_loss_sum`, in float32; for reports. A few rows at a time, to need no memory."""
    parts = zip(torch.split(logits.detach(), ROWS), torch.split(batch.places.labels, ROWS), strict=True)
    losses = [functional.cross_entropy(rows.float(), row_labels, reduction="none") for rows, row_labels in parts]
    sums = torch.zeros(len(batch), device=logits.device)
    return sums.index_add(0, batch.places.owners, torch.cat(losses)) if losses else sums


def step_loss(output: ModelOutput, batch: Batch, weights: Mapping[str, float], step: Mapping[str, float]) -> Tensor:
    """What a micro-batch adds to the loss of its step, times the step's count of supervised tokens: 0-d.

    The step's loss is `sum of weights[x] * (sum of loss x) / step[x]` over `lm` and the heads; to divide all of it by
    `step["lm"]` is left to whoever has seen the whole step.

    Args:
        output: of the model for `batch`.
        batch: the micro-batch.
        weights: of `lm` and of heads.
        step: how many terms each loss has in the whole step, on all ranks. Without heads it is not read.
    """
    total = lm_loss_sum(output.logits, batch) * weights.get(LM, 0.0)
    for head, head_output in output.heads.items():
        head_loss = torch.stack([loss.float() for loss in head_output.losses.values()]).sum()
        total = total + head_loss * (weights[head] * step[LM] / step[head])
    return total


def check_losses(name: str, head: Head, output: HeadOutput) -> None:
    """Refuse losses that a head does not name in its class.

    Raises:
        PluginError: names those that it gives and those that it names.
    """
    if set(output.losses) != set(head.losses):
        raise PluginError(
            f"model.heads.{name}: {type(head).__name__} returns the losses {sorted(output.losses)}, but its attribute "
            f"`losses` names {list(head.losses)}. Its author can check this with `omnivit plugins check`."
        )
