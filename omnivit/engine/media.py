"""Encoded media that later requests use again, by the content of the prepared tensors.

Each medium is encoded for itself, so that its tokens do not depend on other media of the request: a hit gives
the same bits.

Shapes: M media of one slot, L tokens of a medium (padded), D width.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from omnivit.contracts.batch import Batch
from omnivit.contracts.encoder import Encoder
from omnivit.contracts.features import Features
from omnivit.data.collate import EncodedSample, stacked_items
from omnivit.data.slot import instruction_of, media_of
from omnivit.model.omni import OmniModel

MB = 2**20
Encoded = dict[Encoder, Features]


class MediaCache:
    """The most recently used encoded media, within a bound of memory on the model's device.

    Where the adapter reads the instruction, what is kept is what the encoder gave; else what the adapter gave.

    Attributes:
        hits, misses: media that were there, and that had to be encoded.
    """

    def __init__(self, model: OmniModel, limit_mb: int) -> None:
        self.model, self.limit = model, limit_mb * MB
        self.hits = self.misses = self.bytes = 0
        self._kept: OrderedDict[bytes, Encoded | Features] = OrderedDict()
        self._weights: tuple[int, ...] = ()
        self._lock = threading.Lock()

    def features(self, batch: Batch, prompts: Sequence[EncodedSample]) -> dict[str, Features]:
        """Slot -> tokens [M, L, D] of all media, as `OmniModel.encode` gives them for the batch of these prompts."""
        self._forget_if_trained()
        device = batch.input_ids.device
        features = {}
        for slot in batch.media:
            items = [
                item
                for prompt in prompts
                for span, item in zip(prompt.spans, prompt.items, strict=True)
                if span.slot == slot
            ]
            features[slot] = stacked([self._of(slot, item, device) for item in items])
        return features

    def stats(self) -> dict[str, Any]:
        """Hits, misses, and memory in MB."""
        with self._lock:
            return {"media_hits": self.hits, "media_misses": self.misses, "media_mb": self.bytes / MB}

    def _of(self, slot: str, item: Mapping[str, Tensor], device: torch.device) -> Features:
        key = _digest(slot, media_of(item))
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
            self.hits, self.misses = self.hits + (kept is not None), self.misses + (kept is None)
        items = {name: tensor.to(device) for name, tensor in stacked_items([item]).items()}
        instruction = instruction_of(items)
        if kept is None:
            encoded = self.model.encoded(slot, items)
            kept = encoded if instruction is not None else self.model.adapted(slot, encoded)
            self._keep(key, kept)
        return self.model.adapted(slot, kept, instruction) if isinstance(kept, dict) else kept

    def _keep(self, key: bytes, value: Encoded | Features) -> None:
        size = _size(value)
        if size > self.limit:
            return
        with self._lock:
            self._kept[key] = value
            self.bytes += size
            while self.bytes > self.limit:
                _, oldest = self._kept.popitem(last=False)
                self.bytes -= _size(oldest)

    def _forget_if_trained(self) -> None:
        """What was encoded with other weights is worth nothing: a model may be asked between two steps of training."""
        modules: list[nn.Module] = [self.model.encoders, self.model.adapters]
        tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        weights = tuple(number for t in tensors for number in (t.data_ptr(), 0 if t.is_inference() else t._version))
        if weights != self._weights:
            with self._lock:
                self._kept.clear()
                self.bytes = 0
            self._weights = weights


def stacked(parts: Sequence[Features]) -> Features:
    """Media [1, L, D] each -> [M, L, D]; shorter ones are padded at the end."""
    if len(parts) == 1:
        return parts[0]
    length = max(part.mask.shape[1] for part in parts)
    memories = [part.memory for part in parts if part.memory is not None]
    grids = [part.grid for part in parts if part.grid is not None]
    return Features(
        torch.cat([_padded(part.values, length) for part in parts]),
        torch.cat([_padded(part.mask, length) for part in parts]),
        grid=torch.cat([_padded(grid, length) for grid in grids]) if len(grids) == len(parts) else None,
        memory=stacked(memories) if memories else None,
    )


def _padded(tensor: Tensor, length: int) -> Tensor:
    """[1, L, ...] -> [1, length, ...]."""
    room = length - tensor.shape[1]
    return tensor if not room else functional.pad(tensor, [0, 0] * (tensor.ndim - 2) + [0, room])


def _digest(slot: str, item: Mapping[str, Tensor]) -> bytes:
    digest = hashlib.blake2b(slot.encode(), digest_size=32)
    for name, tensor in sorted(item.items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"\0{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.digest()


def _tensors(value: Encoded | Features) -> Iterator[Tensor]:
    for features in value.values() if isinstance(value, dict) else (value,):
        parts = [features, *features.levels]
        yield from (t for part in parts for t in (part.values, part.mask, part.grid) if t is not None)
        if features.memory is not None:
            yield from _tensors(features.memory)


def _size(value: Encoded | Features) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(value))
