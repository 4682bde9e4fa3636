"""Media of several images (frames of a video, slices of a volume, crops of a page), each encoded by an image encoder.

An encoder for such media contains an image encoder (`omnivit.contracts.nested.build_encoder`). Its processor cuts a
medium into images and passes them to `prepare_images`; its forward pass gives the stacked items to `encode_images`.
Media may have different numbers of images: padding of the collator never reaches the image encoder.

Shapes: M media, N images of a medium (padded), P images of all media, S tokens of an image, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from omnivit.contracts.encoder import Encoder, Processor, layout_of
from omnivit.contracts.features import Features, Layout
from omnivit.contracts.sample import Media

INSIDE_EXAMPLES = {
    "name": "clip",
    "config": {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 16, "hidden_size": 16}
    | {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
}
"""The `encoder` block in examples of encoders for such media: a small image encoder with random weights."""
PICTURES = "pictures"
"""Key of the number of images in an item; the tensors of the images have their processor's keys."""


def prepare_images(inside: Processor, images: Sequence[Image.Image], media: Media) -> dict[str, Tensor]:
    """Prepare a medium's images -> its item: `pictures` [] their number, and [N, ...] for each of `inside`'s tensors.

    Args:
        inside: the image encoder's processor. The seed of augmentation is the same for all images of a medium.
        images: at least one.
        media: the medium that they come from.
    """
    items = [inside(replace(media, source=image, root=None)) for image in images]
    stacked = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    return {PICTURES: torch.tensor(len(images)), **stacked}


def layout_of_images(inside: Processor, item: Mapping[str, Tensor]) -> Layout:
    """Tokens of a medium: those of its first image times their number, in a grid (n, y, x) where one has (y, x)."""
    count = int(item[PICTURES])
    first = layout_of(inside, {key: value[0] for key, value in without(item, PICTURES).items()})
    grid = (count, *first.grid) if first.grid is not None and len(first.grid) == 2 else None
    return Layout(count * first.tokens, grid)


def without(items: Mapping[str, Tensor], *keys: str) -> dict[str, Tensor]:
    """An item, or a stack of items, without the tensors that are not the inner encoder's."""
    return {key: value for key, value in items.items() if key not in keys}


def encode_images(encoder: Encoder, items: Mapping[str, Tensor], at_once: int | None = None) -> Features:
    """Encode every image by itself -> Features [M, N S, D], image by image, with a grid (n, y, x) or none.

    Args:
        encoder: the image encoder.
        items: as stacked by the collator: `pictures` [M], the others [M, N, ...].
        at_once: most images that pass through the encoder together, to limit memory; None: all.
    """
    counts, inner = items[PICTURES], without(items, PICTURES)
    most = next(iter(inner.values())).shape[1]
    # Only real images go through the encoder, all media together; padding costs nothing.
    real = torch.arange(most, device=counts.device) < counts[:, None]
    pictures = {key: value[real] for key, value in inner.items()}
    total = int(counts.sum())
    step = total if at_once is None else at_once
    parts = [
        encoder({key: value[start : start + step] for key, value in pictures.items()})
        for start in range(0, total, max(1, step))
    ]
    values, mask = (_laid(torch.cat([getattr(part, name) for part in parts]), real) for name in ("values", "mask"))
    return Features(values, mask, _grid(parts, real))


def _laid(rows: Tensor, real: Tensor) -> Tensor:
    """[P, S, ...] -> [M, N S, ...], zero where there is no image."""
    table = rows.new_zeros(*real.shape, *rows.shape[1:])
    return table.index_put(real.nonzero(as_tuple=True), rows).flatten(1, 2)


def _grid(parts: Sequence[Features], real: Tensor) -> Tensor | None:
    grids = [part.grid for part in parts if part.grid is not None and part.grid.shape[2] == 2]
    if len(grids) < len(parts):
        return None
    places = torch.cat(grids)
    number = real.nonzero()[:, 1]
    return _laid(torch.cat([number[:, None, None].expand(*places.shape[:2], 1), places], dim=2), real)
