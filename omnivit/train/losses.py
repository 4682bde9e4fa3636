"""Cross-entropy on answer tokens.

Shapes: B samples, T tokens, N supervised tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from omnivit.data.collate import Batch


def lm_loss_sum(logits: Tensor, batch: Batch) -> Tensor:
    """Sum (not mean) of the cross-entropy over the supervised tokens, in float32.

    A sum, because a mean of means is wrong under gradient accumulation and over ranks: the step divides by the global
    count of target tokens.

    Args:
        logits: [N, V] at the positions `batch.targets()`, in row-major order.
        batch: labels [B, T].
    """
    labels = batch.labels[:, 1:][batch.targets()[:, :-1]]
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def token_log_probs(logits: Tensor, batch: Batch) -> Tensor:
    """[N] log-probability of every supervised token, in float32, in row-major order."""
    labels = batch.labels[:, 1:][batch.targets()[:, :-1]]
    scores = torch.log_softmax(logits.float(), dim=-1)
    return scores.gather(1, labels.unsqueeze(1)).squeeze(1)
