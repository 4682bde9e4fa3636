"""Strict loading of transformers models: a checkpoint that lacks a weight is an error, and errors say what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omnivit.errors import OmniVitError, RecipeError

REMOTE_CODE = {"trust_remote_code": False}
"""For every Auto class of transformers, which otherwise asks at the terminal whether to run a checkpoint's code."""


@contextmanager
def unasked() -> Iterator[None]:
    """Inside, transformers does not ask at the terminal whether to run code of a checkpoint; it is an error at once."""
    from transformers import dynamic_module_utils

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # what its own tests use
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Inside, any exception of transformers or the hub client becomes a RecipeError that begins with `what`.

    Raises:
        RecipeError: instead of anything but an OmniVitError.
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
                f"{what}: the checkpoint contains Python code, which is not run unless you trust it. Read that code, "
                f"then set `trust_remote_code: true` if the plugin has this option (`causal` has). ({reason[:300]})"
            ) from error
        raise RecipeError(f"{what}: {type(error).__name__}: {reason[:600]}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, transformers prints neither progress bars nor its table of keys: `load_pretrained` judges them itself."""
    from transformers.utils import logging as notices

    level, bars = notices.get_verbosity(), notices.is_progress_bar_enabled()
    notices.set_verbosity_error()  # type: ignore[no-untyped-call]
    notices.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        notices.set_verbosity(level)
        if bars:
            notices.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_pretrained(cls: Any, place: Any, name: str, **options: Any) -> Any:
    """`cls.from_pretrained(place)`, with every weight of the model present.

    Args:
        cls: a transformers model or auto class.
        place: a folder or a hub id.
        name: what the recipe calls it, for errors.
        **options: passed to `from_pretrained`.

    Raises:
        RecipeError: nothing can be loaded from there, or weights are missing or have other shapes.
    """
    with explained(f"{name}: cannot be loaded"), _quiet():
        model, report = cls.from_pretrained(place, output_loading_info=True, use_safetensors=True, **options)
    lacking = [*sorted(report["missing_keys"]), *map(str, report["mismatched_keys"])]
    if lacking:
        raise RecipeError(
            f"{name}: the checkpoint lacks {len(lacking)} weights of {type(model).__name__}: "
            f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}. It is damaged, or belongs to another "
            "model."
        )
    return model


def processor_fingerprint(process: Any, *more: object) -> str:
    """16 hex digits that change with the settings of a transformers processor, and with the text of each of `more`."""
    settings = " ".join(map(str, (type(process).__name__, process.to_json_string(), *more)))
    return hashlib.sha256(settings.encode()).hexdigest()[:16]
