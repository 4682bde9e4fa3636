"""What makes a recipe the recipe that it is: its values, without keys that it does not use and that came later.

A run of an earlier version is compared with its recipe as it is read today. A key that the schema did not have at that
time has its default there, and must not count as a change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

FIRST: Mapping[str, frozenset[str]] = {
    "Recipe": frozenset(
        {"model", "stages", "data", "trainer", "evaluation", "checkpoint_every", "keep", "nan_budget", "seed"}
    ),
    "Model": frozenset({"llm", "inputs", "heads"}),
    "Slot": frozenset({"encoder", "adapter"}),
    "DataSource": frozenset({"path", "reader", "weight", "media_root", "limit", "ignore"}),
    "Stage": frozenset(
        {"name", "data", "train", "epochs", "steps", "batch_size", "accumulate", "schedule", "weight_decay", "betas"}
        | {"losses", "template", "supervise", "markup", "group_by_length", "validation"}
    ),
    "Schedule": frozenset({"name", "warmup", "minimum"}),
    "Validation": frozenset({"data", "every"}),
    "Data": frozenset(
        {"root", "max_length", "truncate", "on_bad_sample", "skip_budget", "workers", "privacy"},
    ),
    "Evaluation": frozenset({"data", "conditions", "linear_probe", "metric", "max_new_tokens", "batch_size"}),
    "Keep": frozenset({"last", "best"}),
}
"""Name of a class of the schema -> its keys when runs were first compared. Later ones count where they are set. This
list does not grow."""


def content(value: Any) -> Any:
    """A recipe, or a part of it, as plain values; without later keys that have their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: content(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if _counts(type(value).__name__, field, getattr(value, field.name))
        }
    if isinstance(value, Mapping):
        return {key: content(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(content, value))
    return value


def _counts(owner: str, field: dataclasses.Field[Any], value: Any) -> bool:
    if owner not in FIRST or field.name in FIRST[owner]:
        return True
    made = field.default_factory
    default = field.default if made is dataclasses.MISSING else made()
    return bool(value != default)
