"""What tests of `prefix` share: samples, and a model with prompts."""

from __future__ import annotations

from typing import Any

from llm_support import (
    NONE,
    ROWS,
    WIDTH,
    Item,
    Medium,
    batch_of,
    fill,
    llm_of,
    model_of,
)
from omnivit_adapters.prefix.adapter import PrefixAdapter, PrefixConfig

from omnivit.contracts.batch import Batch
from omnivit.model.omni import OmniModel

PAIR: tuple[Item, ...] = (Medium(0.2, count=ROWS), 7, 8, Medium(0.3, count=1), 30, 31)
SINGLE: tuple[Item, ...] = (20, 21, 22, 23, Medium(0.4, count=1), 24)
FULL: tuple[Item, ...] = (5, Medium(0.1, count=ROWS), 9, 17)


def adapter_of(**options: Any) -> PrefixAdapter:
    return PrefixAdapter(PrefixConfig(**{"prompts": ROWS, "layers": 1} | options), WIDTH, WIDTH)


def mixed_batch(left: bool = False, slots: tuple[str, ...] = ("image",)) -> Batch:
    """Samples with one medium of N rows, none, two media, and one medium of a single row."""
    return batch_of(FULL, NONE, PAIR, SINGLE, places=0, left=left, slots=slots)


def trained_model(family: str = "llama", llm: dict[str, Any] | None = None, **options: Any) -> OmniModel:
    """A model whose gates are open, by a pattern."""
    model = model_of(llm_of(family, **(llm or {})), {"image": adapter_of(**options)})
    fill(model.adapters, 3.0)
    return model
