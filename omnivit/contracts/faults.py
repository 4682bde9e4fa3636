"""Errors of plugins, with the plugin's name: whose code failed, where the recipe asks for it, what to do."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from omnivit import registry
from omnivit.errors import MediaError, OmniVitError, PluginError, RecipeError
from omnivit.registry.names import harmless, printable


@contextmanager
def naming(where: object, cls: type[nn.Module], doing: str) -> Iterator[None]:
    """Inside, an exception of a plugin's code becomes an error that names the plugin.

    Args:
        where: the place in the recipe that asks for it.
        cls: the plugin.
        doing: what the plugin does there, such as "in its constructor".

    Raises:
        RecipeError: the plugin raised it; its message begins with the place.
        PluginError: the plugin raised anything but an OmniVitError or an error of memory.
    """
    try:
        yield
    except RecipeError as error:
        known = str(error).startswith(str(where))
        raise error if known else RecipeError(f"{where}: {error}") from error
    except (OmniVitError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise PluginError(_message(where, cls, doing, error)) from error


@contextmanager
def reading(media: object, processor: type[object]) -> Iterator[None]:
    """Inside, an exception of a processor becomes a MediaError, so that recipes can skip the sample.

    Raises:
        MediaError: the processor raised anything but an OmniVitError or an error of memory.
    """
    try:
        yield
    except (OmniVitError, MemoryError):
        raise
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}")
        raise MediaError(
            f"{media}: {_owned(processor)} failed on it{_place(processor, error)}: {reason}. Either the file is "
            "damaged in a way that the plugin does not expect, or the plugin has a defect: report it to its authors."
        ) from error


def _owned(cls: type[object]) -> str:
    """`module:Class (distribution NAME VERSION)`."""
    distribution, version = registry.registered_owner(cls)
    owner = f"distribution {harmless(distribution)} {harmless(version)}"
    return f"{harmless(cls.__module__)}:{harmless(cls.__qualname__)} ({owner})"


def _message(where: object, cls: type[nn.Module], doing: str, error: Exception) -> str:
    reason = printable(f"{type(error).__name__}: {error}")
    return (
        f"{where}: {harmless(cls.__qualname__)} failed {doing}{_place(cls, error)}: {reason}\n"
        f"  plugin: {_owned(cls)}\n"
        "  remedy: correct the recipe if the message says how; otherwise report it to the authors of the plugin. "
        "OMNIVIT_TRACEBACK=1 shows the traceback"
    )


def _place(cls: type[object], error: Exception) -> str:
    """` at FILE, line N`: the last line of the plugin's own package that ran; else the line that raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    home = getattr(sys.modules.get(cls.__module__), "__file__", None)
    folder = str(Path(home).parent) if home else ""
    of_plugin = [frame for frame in frames if folder and frame.filename.startswith(folder)]
    last = next(iter([*reversed(of_plugin), *reversed(frames)]), None)
    return f" at {printable(last.filename)}, line {last.lineno}" if last else ""
