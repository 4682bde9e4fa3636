"""Transformers' own loading, made strict: a checkpoint that lacks a weight is refused, and failures say what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omnivit.errors import OmniVitError, RecipeError

REMOTE_CODE = {"trust_remote_code": False}
"""For every Auto class of transformers: unsaid, it asks at the terminal whether to run a checkpoint's code."""


@contextmanager
def unasked() -> Iterator[None]:
    """Keep transformers from asking at the terminal: code that nobody trusted is an error at once."""
    from transformers import dynamic_module_utils

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # what its own tests use
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what transformers and the hub client raise, in many ways, into an error that says what was wanted.

    Raises:
        RecipeError: in the place of anything but an OmniVitError.
    """
    try:
        with unasked():
            yield
    except OmniVitError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        if "trust_remote_code" in reason or "remote code" in reason:
            raise RecipeError(
                f"{what}: it brings Python code of its own, which nobody said to trust. Look at that code; then say "
                f"`trust_remote_code: true` where the plugin has this option (`causal` has). ({reason[:300]})"
            ) from error
        raise RecipeError(f"{what}: {type(error).__name__}: {reason[:600]}") from error


def load_pretrained(cls: Any, place: Any, name: str, **options: Any) -> Any:
    """`cls.from_pretrained(place)`, with every weight of the model present.

    Args:
        cls: a transformers model or auto class.
        place: a folder or a hub id.
        name: what the recipe calls it, for errors.
        **options: handed through.

    Raises:
        RecipeError: nothing loadable is there, or weights are missing or of other shapes.
    """
    with explained(f"{name}: cannot be loaded"):
        model, report = cls.from_pretrained(place, output_loading_info=True, use_safetensors=True, **options)
    lacking = [*sorted(report["missing_keys"]), *map(str, report["mismatched_keys"])]
    if lacking:
        raise RecipeError(
            f"{name}: the checkpoint lacks {len(lacking)} weights of {type(model).__name__}: "
            f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}. It is damaged, or another model's."
        )
    return model


def processor_fingerprint(process: Any, *more: object) -> str:
    """16 hex digits that change with the settings of a transformers processor, and with the text of each of `more`."""
    settings = " ".join(map(str, (type(process).__name__, process.to_json_string(), *more)))
    return hashlib.sha256(settings.encode()).hexdigest()[:16]
