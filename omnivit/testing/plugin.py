"""Rules for plugins of every kind, and rules for plugins with options in a recipe."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from omnivit.contracts.card import Plugin
from omnivit.contracts.options import describe_config, merge_options
from omnivit.errors import OmniVitError, PluginError
from omnivit.registry.contract import CONTRACT, judge, warn
from omnivit.testing.replaced import replaced
from omnivit.testing.rules import Broken, Contract, NotApplicable, rule

PLACE = "example.config"
"""The place of an example's options, for errors."""


class PluginContract(Contract):
    """Rules for every plugin."""

    @rule(needs=())
    def test_declared(self, tmp_path: Path) -> None:
        """A plugin declares the version of its contract, and this OmniViT accepts it and all that it uses."""
        del tmp_path
        plugin = self.plugin()
        if not hasattr(plugin, "contract"):
            raise Broken(f"{plugin.__qualname__} has no `contract`.", f"Write `contract = {CONTRACT}` in the class.")
        verdict = judge(plugin, Plugin, self.kind)
        if verdict.problem:
            raise Broken(f"{verdict.problem}.", f"{verdict.remedy}.")
        warn(plugin.__qualname__, verdict)

    @rule(needs=())
    def test_imports(self, tmp_path: Path) -> None:
        """Importing a plugin leaves the functions of torch and of OmniViT as they are: others use them too."""
        del tmp_path
        if names := sorted(set(replaced(self.plugin()))):
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise Broken(
                f"{self.plugin().__module__} replaces `{names[0]}`{more}.",
                "Call your function directly; for layers of the LLM use `llm.patching`.",
            )

    @rule(needs=())
    def test_example(self, tmp_path: Path) -> None:
        """A plugin gives an example of itself, small and without downloads, from which it can be built and tried."""
        try:
            self.plugin().example(fresh(tmp_path))
        except PluginError as error:
            raise Broken(str(error)) from error
        self.prepare(tmp_path)

    def prepare(self, folder: Path) -> None:
        """Build what the other rules try from the example; its files go to `folder`."""


def require_documented(config: type[Any]) -> None:
    """Raise Broken if a field of a `Config` has no docstring."""
    bare = [found.name for found in describe_config(config) if not found.doc]
    if bare:
        more = f", and {len(bare) - 1} others have none either" if len(bare) > 1 else ""
        raise Broken(f"`{bare[0]}` has none{more}.", f'Write """What it does.""" on the line after `{bare[0]}`.')


class ConfiguredContract(PluginContract):
    """Rules for plugins that have a `Config`."""

    @rule(needs=())
    def test_config_documented(self, tmp_path: Path) -> None:
        """Each field of `Config` is followed by a docstring, which `omnivit plugins info` shows to users."""
        del tmp_path
        require_documented(self.plugin().Config)

    @rule
    def test_config_serialisable(self, tmp_path: Path) -> None:
        """The example's `Config` is the same after a round trip through YAML, as in the recipe that a run keeps."""
        plugin = self.plugin()
        before = dataclasses.asdict(config_of(plugin, example_of(plugin, tmp_path).config))
        written = {name: _through_yaml(name, value) for name, value in before.items()}
        after = dataclasses.asdict(config_of(plugin, written))
        for name, value in before.items():
            if _plain(value) != _plain(after[name]):
                raise Broken(
                    f"`{name}` is {value!r} before and {after[name]!r} after.",
                    "Check values in `__post_init__`, but do not change them.",
                )


def fresh(folder: Path) -> Path:
    """A new, empty folder in a folder: an example may write files, and a rule may need it twice."""
    return Path(tempfile.mkdtemp(dir=folder))


def example_of(plugin: type[Any], folder: Path) -> Any:
    """A plugin's example. If there is none, which the rule `example` reports, the rule does not apply."""
    try:
        return plugin.example(folder)
    except PluginError as error:
        raise NotApplicable("it gives no example.") from error


def config_of(plugin: type[Any], options: Mapping[str, Any]) -> Any:
    """A plugin's `Config` with the options of its example.

    Raises:
        Broken: the `Config` refuses them.
    """
    try:
        return merge_options(plugin.Config, options, PLACE)
    except OmniVitError as error:
        raise Broken(
            f"its example is refused: {error}", "Return options from `example` that `Config` accepts."
        ) from error


def _through_yaml(name: str, value: Any) -> Any:
    try:
        return yaml.safe_load(yaml.safe_dump(_plain(value)))
    except yaml.YAMLError as error:
        raise Broken(
            f"`{name}` contains a {type(value).__name__}, which YAML cannot write.",
            "Use a number, a string or a list in the recipe, and create the object from it in the constructor.",
        ) from error


def _plain(value: Any) -> Any:
    """With lists for tuples and strings for paths, as in a recipe."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
