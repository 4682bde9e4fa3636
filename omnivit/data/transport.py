"""How batches come from loader workers: each in one piece of shared memory, which costs one open file.

torch uses one file descriptor for each tensor that it sends to another process, and a batch has a dozen tensors or
more. With many workers, or where all batches of a step are in memory, a process soon reaches its 1024 open files.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnivit.contracts.batch import Batch

_ALIGNMENT = 64
"""Bytes; a tensor begins at a multiple of them, so that it can be a view of any dtype."""


def packed(batch: Batch) -> Batch:
    """The same batch, whose tensors are views of one buffer."""
    # `map` visits the tensors in the same order each time: first to measure them, then to copy them
    tensors: list[Tensor] = []
    batch.map(lambda tensor: _noted(tensor, tensors))
    starts, total = [], 0
    for tensor in tensors:
        starts.append(total)
        total += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    buffer, places = torch.empty(total, dtype=torch.uint8), iter(starts)

    def placed(tensor: Tensor) -> Tensor:
        start = next(places)
        view = buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        return view.copy_(tensor)

    return batch.map(placed)


def owned(batch: Batch) -> Batch:
    """The same batch in the memory of this process: it keeps no file open."""
    return batch.map(lambda tensor: tensor.clone() if tensor.is_shared() else tensor)  # type: ignore[no-untyped-call]


def _noted(tensor: Tensor, noted: list[Tensor]) -> Tensor:
    noted.append(tensor)
    return tensor
