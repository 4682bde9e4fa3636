"""Fingerprints of a model's components: by the content of their tensors, wherever they came from.

What is hashed is what stands in memory after loading, so that other weights behind the same path, hub id, package or
conversion are seen alike, and so is an initialisation that comes out otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

WHOLE = 256 << 20
"""Components up to this many bytes are hashed completely, larger ones by samples."""
SAMPLES, SAMPLE = 16, 64 << 10
"""Of a large component: blocks of each tensor, spread evenly, and bytes of one."""


def components(model: nn.Module) -> dict[str, str]:
    """`llm`, `encoders.image`, ... -> fingerprint of all tensors that a checkpoint of it would hold."""
    groups: dict[str, dict[str, Tensor]] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in model.state_dict().items():
        identity = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and identity in seen:
            continue  # one that is tied to another
        seen.add(identity)
        parts = name.split(".")
        groups.setdefault(parts[0] if parts[0] == "llm" else ".".join(parts[:2]), {})[name] = tensor
    return {group: fingerprint(tensors) for group, tensors in groups.items()}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """`sha256:...` of names, dtypes, shapes and all bytes; above 256 MiB `sampled:...`, of 16 blocks of each tensor."""
    complete = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) <= WHOLE
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for block in _blocks(tensor, complete):
            digest.update(block.cpu().contiguous().view(torch.uint8).numpy().data)
    return f"{'sha256' if complete else 'sampled'}:{digest.hexdigest()}"


def _blocks(tensor: Tensor, complete: bool) -> Iterator[Tensor]:
    flat = tensor.reshape(-1)
    length = max(1, SAMPLE // tensor.element_size())
    if complete or len(flat) <= SAMPLES * length:
        yield flat
        return
    for number in range(SAMPLES):
        start = (len(flat) - length) * number // (SAMPLES - 1)
        yield flat[start : start + length]
