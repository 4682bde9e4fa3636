"""The plugins that a run was created with: what is recorded, and whether they are installed when it is opened."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from packaging.version import InvalidVersion, Version

from omnivit import registry
from omnivit.contracts import registries
from omnivit.contracts.blocks import blocks_of
from omnivit.data.opening import AUTO
from omnivit.errors import PluginError
from omnivit.recipe import Recipe
from omnivit.registry import advice, names
from omnivit.registry.names import harmless

MODEL = ("llms", "encoders", "adapters", "heads")
"""Kinds that a model is made of."""
_GROUPS = {found.group: found for found in registries.ALL.values()}


def record(recipe: Recipe) -> dict[str, dict[str, str | int]]:
    """Where every plugin of a recipe comes from, by `GROUP:NAME`; imports them.

    Raises:
        PluginError: one cannot be used.
    """
    return {f"{known.group}:{name}": known.provenance(name) for known, name in _named(recipe)}


def record_evaluation(recipe: Recipe) -> dict[str, dict[str, str | int]]:
    """The same of the plugins that only the evaluation uses; they move no bit of the training.

    Raises:
        PluginError: one cannot be used.
    """
    evaluation = recipe.evaluation
    if evaluation is None:
        return {}
    readers = {source.reader for source in [*evaluation.data, *evaluation.linear_probe]} - {AUTO}
    used: list[tuple[registry.Registry[Any], str]] = [(registries.metrics, evaluation.metric)]
    used += [(registries.readers, name) for name in sorted(readers)]
    return {f"{known.group}:{name}": known.provenance(name) for known, name in used}


def _named(recipe: Recipe) -> Iterator[tuple[registry.Registry[Any], str]]:
    """Registry and name of every plugin in a recipe, those inside others' options too."""
    for block in blocks_of(recipe):
        if block.registry is not None and block.is_plugin:
            yield block.registry, block.name
    readers = (source.reader for stage in recipe.stages for source in stage.data)
    yield from ((registries.readers, name) for name in readers if name != AUTO)


class Recorded(NamedTuple):
    """What a run's record says of a plugin. A run may come from anywhere: show its texts by `harmless`."""

    name: str
    """As the recipe says it."""
    value: str
    """Of the entry point; the name itself for a class that the recipe names directly."""
    distribution: str
    version: str
    plugin_version: int

    @property
    def origin(self) -> str:
        """Distribution and version, for people."""
        return f"{harmless(self.distribution)} {harmless(self.version)}"

    @property
    def package(self) -> str:
        """What `pip install` takes to get a like one; empty if that cannot be said."""
        match = registry.REFERENCE.fullmatch(self.value)
        extras = [extra.strip() for extra in (match[3] or "").split(",")] if match else []
        return advice.package(self.distribution, [x for x in extras if x], advice.like(self.version))


def require(run: str, recipe: Recipe, recorded: Mapping[str, Any], kinds: Collection[str]) -> None:
    """Refuse to open a run whose plugins are not here, or are of another major version than those it was made with.

    That is another `version` of the plugin or, where the recipe asks for none (`thermal@1`), another major version of
    its distribution, whose author may have changed numbers without saying so.

    Args:
        run: the run's folder, for errors.
        recipe: its recipe; a plugin that this no longer names is not asked for.
        recorded: of its provenance, as `record` made it.
        kinds: of the plugins that are needed now.

    Raises:
        PluginError: names every such plugin, and what to install.
    """
    used = {block.name for block in blocks_of(recipe)} | {s.reader for g in recipe.stages for s in g.data}
    problems: list[tuple[str, str]] = []
    for key, entry in recorded.items():
        group, _, name = key.partition(":")
        known = _GROUPS.get(group)
        if known is not None and known.kind in kinds and name in used:
            plugin = _recorded(name, entry)
            problem = _problem(known, plugin, run)
            if problem:
                problems.append((problem, plugin.package))
    if problems:
        head = f"{run} was created with plugins that are not installed here, or that have changed:"
        texts = [problem for problem, _ in problems]
        raise PluginError("\n".join([head, *texts, *_advice([package for _, package in problems])]))


def _recorded(name: str, entry: Any) -> Recorded:
    """A record of a plugin; one from before `plugin_version` was recorded is of version 1, the only one there was."""
    facts = entry if isinstance(entry, dict) else {}
    value, distribution, release = (str(facts.get(key, "unknown")) for key in ("value", "distribution", "version"))
    version = facts.get("plugin_version", 1)
    return Recorded(name, value, distribution, release, version if isinstance(version, int) else 1)


def _problem(known: registry.Registry[Any], recorded: Recorded, run: str) -> str:
    """How a plugin differs from the one that a run was made with; empty if it does not, as far as is known."""
    who, then = f"  the {known.noun} '{harmless(recorded.name)}'", f"the run was created with {recorded.origin}"
    registered = known.knows(recorded.name)
    if not registered and recorded.value != recorded.name:
        return f"{who} is not installed; {then}"
    try:
        now = known.provenance(recorded.name)
    except PluginError as error:
        return f"{who} cannot be used; {then}. {error}".replace("\n", "\n    ")
    version, origin = now["plugin_version"], f"{harmless(str(now['distribution']))} {harmless(str(now['version']))}"
    if version != recorded.plugin_version:
        return f"{who} is of version {version} ({origin}); {then}, of version {recorded.plugin_version}" + _kept(
            known, recorded, "Or take that version from what is installed:", run
        )
    stated = names.parse(recorded.name).version is not None
    if registered and not stated and _major(recorded.version) != _major(str(now["version"])):
        return f"{who} is that of {origin}; {then}" + _kept(known, recorded, "Or, if both give the same numbers,", run)
    return ""


def _kept(known: registry.Registry[Any], recorded: Recorded, when: str, run: str) -> str:
    """Another way than to install, where what is here has the version that is wanted."""
    name = f"{recorded.name}@{recorded.plugin_version}"
    try:
        known.get(name)
    except PluginError:
        return ""
    return f"\n    {when} write `name: {harmless(name)}` in {run}/recipe.yaml"


def _advice(packages: list[str]) -> list[str]:
    missing = list(dict.fromkeys(package for package in packages if package))
    lines = [f"Install the plugins that it was created with:\n  pip install {' '.join(missing)}"] if missing else []
    if "" in packages:
        lines.append(
            "Some belong to no distribution. Get them from the author of the run, and add their folder to PYTHONPATH."
        )
    return lines


def _major(version: str) -> object:
    try:
        found = Version(version)
    except InvalidVersion:
        return version
    return found.epoch, found.major
