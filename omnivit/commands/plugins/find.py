"""Which plugin a name on the command line means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnivit.contracts.registries import ALL
from omnivit.errors import OmniVitError, PluginError, suggest
from omnivit.registry import Registry
from omnivit.registry.names import harmless


def of_kind(kind: str | None) -> Mapping[str, Registry[Any]]:
    """The registries that `--kind` selects, or all of them; `encoder` and `encoders` are the same.

    Raises:
        OmniVitError: there is no such kind.
    """
    if kind is None:
        return ALL
    plural = kind if kind in ALL else f"{kind}s"
    if plural not in ALL:
        raise OmniVitError(f"--kind {kind}: this kind of plugin does not exist; {suggest(kind, ALL)}")
    return {plural: ALL[plural]}


def find(name: str, kind: str | None = None) -> tuple[str, type[Any]]:
    """The kind (`encoders`, ...) and the class of a plugin, which is imported and validated.

    Args:
        name: the name in recipes.
        kind: needed where several kinds have the name; the kind of a class that is named directly is that of its base.

    Raises:
        PluginError: no plugin of these kinds has this name, several have, or it is broken.
        OmniVitError: there is no such kind.
    """
    registries = of_kind(kind)
    known = [plural for plural, registry in registries.items() if registry.knows(name)]
    if len(known) > 1:
        choices = " or ".join(f"--kind {plural.removesuffix('s')}" for plural in known)
        raise PluginError(f"Several plugins are called '{harmless(name)}' ({', '.join(known)}). Choose one: {choices}.")
    if known or len(registries) == 1:
        plural = next(iter([*known, *registries]))
        return plural, registries[plural].get(name)
    if ":" in name:
        return _of_its_kind(name, registries)
    names = {each for registry in registries.values() for each in registry.names()}
    raise PluginError(f"No plugin is called '{harmless(name)}': {suggest(name, names)} `omnivit plugins` lists them.")


def _of_its_kind(name: str, registries: Mapping[str, Registry[Any]]) -> tuple[str, type[Any]]:
    """A class that is named directly; its kind follows from its base class."""
    errors = []
    for plural, registry in registries.items():
        try:
            return plural, registry.get(name)
        except PluginError as error:
            errors.append(error)
    raise PluginError(f"{errors[0]}\n  It was tried as each kind of plugin. Set --kind to the right one.") from errors[
        0
    ]
