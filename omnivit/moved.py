"""Modules that have moved: their old names still work, and warn once per caller what to write instead.

They work for plugins of contract 1. docs/plugins/migrating.md has the table. Knows no plugin and imports none.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, MappingProxyType, ModuleType
from typing import Any

from omnivit.errors import ContractWarning

GUIDE = "docs/plugins/migrating.md"
DOOR = "omnivit.plugin"
MOVED = MappingProxyType(
    {
        "omnivit.assistant": "omnivit.run.assistant",
        "omnivit.cache": "omnivit.files",
        "omnivit.check": "omnivit.run.check",
        "omnivit.check_samples": "omnivit.run.check_samples",
        "omnivit.claims": "omnivit.registry.claims",
        "omnivit.contract": "omnivit.registry.contract",
        "omnivit.data.assembly": "omnivit.data.labels",
        "omnivit.data.index": "omnivit.data.containers.index",
        "omnivit.data.sample": "omnivit.contracts.sample",
        "omnivit.data.scan": "omnivit.data.containers.scan",
        "omnivit.data.targets": "omnivit.data.head_targets",
        "omnivit.device": "omnivit.model.device",
        "omnivit.doctor": "omnivit.run.doctor",
        "omnivit.evaluate.report": "omnivit.run.report",
        "omnivit.examples": "omnivit.contracts.examples",
        "omnivit.interval": "omnivit.recipe.interval",
        "omnivit.lifeline": "omnivit.processes",
        "omnivit.listener": "omnivit.run.listener",
        "omnivit.media.dicom": "omnivit.media.volume.dicom",
        "omnivit.media.dicom_pixels": "omnivit.media.volume.dicom_pixels",
        "omnivit.media.facts": "omnivit.contracts.media",
        "omnivit.media.files": "omnivit.media.locate",
        "omnivit.media.nifti": "omnivit.media.volume.nifti",
        "omnivit.media.pictures": "omnivit.media.image_decode",
        "omnivit.media.points": "omnivit.media.points.read",
        "omnivit.media.points_files": "omnivit.media.points.decode",
        "omnivit.media.points_kinds": "omnivit.media.points.formats",
        "omnivit.media.points_sampling": "omnivit.media.points.sampling",
        "omnivit.media.points_scene": "omnivit.media.points.scene",
        "omnivit.media.slices": "omnivit.media.volume.slices",
        "omnivit.media.video": "omnivit.media.video.read",
        "omnivit.media.video_decode": "omnivit.media.video.decode",
        "omnivit.media.video_pictures": "omnivit.media.video.images",
        "omnivit.media.video_sampling": "omnivit.media.video.sampling",
        "omnivit.media.video_stream": "omnivit.media.video.stream",
        "omnivit.media.volumes": "omnivit.media.volume.read",
        "omnivit.model.adapter": "omnivit.contracts.adapter",
        "omnivit.model.context": "omnivit.contracts.context",
        "omnivit.model.encoder": "omnivit.contracts.encoder",
        "omnivit.model.faults": "omnivit.contracts.faults",
        "omnivit.model.features": "omnivit.contracts.features",
        "omnivit.model.generate": "omnivit.contracts.generate",
        "omnivit.model.head": "omnivit.contracts.head",
        "omnivit.model.import_hf": "omnivit.run.importing.llava",
        "omnivit.model.llm": "omnivit.contracts.llm",
        "omnivit.model.parts": "omnivit.contracts.nested",
        "omnivit.model.pictures": "omnivit.model.images",
        "omnivit.model.surgery": "omnivit.model.patching",
        "omnivit.naming": "omnivit.registry.names",
        "omnivit.options": "omnivit.contracts.options",
        "omnivit.output": "omnivit.console",
        "omnivit.precision": "omnivit.model.precision",
        "omnivit.privacy": "omnivit.data.privacy",
        "omnivit.probe": "omnivit.registry.introspection",
        "omnivit.progress": "omnivit.console",
        "omnivit.quiet": "omnivit.console",
        "omnivit.recipe_checks": "omnivit.recipe.checks",
        "omnivit.recipe_compose": "omnivit.recipe.compose",
        "omnivit.recipe_resolve": "omnivit.recipe.interpolate",
        "omnivit.recipe_source": "omnivit.recipe.yaml_tree",
        "omnivit.remedies": "omnivit.registry.advice",
        "omnivit.reply": "omnivit.run.reply",
        "omnivit.run.import_hf": "omnivit.run.importing.llava",
        "omnivit.shield": "omnivit.registry.shield",
        "omnivit.testing.made": "omnivit.media.synthetic",
        "omnivit.train.background": "omnivit.run.provenance.background",
        "omnivit.train.execution": "omnivit.run.provenance.execution",
        "omnivit.train.fingerprints": "omnivit.run.provenance.weights",
        "omnivit.train.folder": "omnivit.run.folder",
        "omnivit.train.lock": "omnivit.run.lock",
        "omnivit.train.media_table": "omnivit.run.provenance.media_table",
        "omnivit.train.plugins": "omnivit.run.provenance.plugins",
        "omnivit.train.provenance": "omnivit.run.provenance",
        "omnivit.train.record": "omnivit.run.provenance.record",
        "omnivit.train.report": "omnivit.run.train",
        "omnivit.train.run_precision": "omnivit.run.precision",
        "omnivit.train.survey": "omnivit.run.provenance.survey",
        "omnivit.train.trial": "omnivit.run.trial",
        "omnivit.trust": "omnivit.run.trust",
        "omnivit.typed": "omnivit.recipe.convert",
        "omnivit.versions": "omnivit.registry.versions",
    }
)
"""Old module -> the module that its names are in now."""
_MOVED_PLUGINS: dict[str, str] = {}
"""The same of distributions of plugins, which add theirs."""
NAMES = MappingProxyType(
    {
        ("omnivit.registry", "encoders"): "omnivit.contracts.registries",
        ("omnivit.registry", "adapters"): "omnivit.contracts.registries",
        ("omnivit.registry", "llms"): "omnivit.contracts.registries",
        ("omnivit.registry", "readers"): "omnivit.contracts.registries",
        ("omnivit.registry", "heads"): "omnivit.contracts.registries",
        ("omnivit.registry", "ALL"): "omnivit.contracts.registries",
        ("omnivit.media.audio", "look"): "omnivit.media.audio",
        ("omnivit.media.images", "look"): "omnivit.media.images",
        ("omnivit.media.pages", "look"): "omnivit.media.pages",
        ("omnivit.train.stages", "train"): "omnivit.run.runner",
        ("omnivit.assistant", "load"): "omnivit.run.loading",
        ("omnivit.train.checkpoint", "write_text"): "omnivit.files",
        ("omnivit.train.checkpoint", "fsync"): "omnivit.files",
    }
)
"""(module that stays, name that moved out of it) -> the module that the name is in now."""
_MISSING = object()
RENAMED = MappingProxyType(
    {
        "Surgery": "Patching",
        "look": "facts_of",
        "Clip": "Video",
        "Cloud": "PointCloud",
        "encode_pictures": "encode_images",
        "layout_of_pictures": "layout_of_images",
        "prepare_pictures": "prepare_images",
    }
)
"""Old name -> new name, of what an old module or the door exported."""


def attribute(module: str, name: str) -> Any:
    """The value of a name of an old module; warns once for each line that asks for it.

    Raises:
        AttributeError: the module never had such a name.
    """
    home = NAMES.get((module, name)) or MOVED.get(module) or _MOVED_PLUGINS.get(module)
    if home is None or name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    door, current = importlib.import_module(DOOR), RENAMED.get(name, name)
    exported = getattr(door, current, _MISSING)
    # The module comes first: the door may export a name of another module that is spelt alike.
    value = getattr(importlib.import_module(home), current, exported)
    if value is _MISSING:
        raise AttributeError(f"module {module!r} has no attribute {name!r}; its names are in {home} now")
    _warn(module, name, f"from {DOOR if exported is value else home} import {current}")
    return value


def renamed(module: str, name: str) -> Any:
    """The value of a name that a module exports under a new name now; warns once for each line that asks for it.

    Raises:
        AttributeError: the module exports no such name.
    """
    current = RENAMED.get(name)
    if current is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), current)
    _warn(module, name, f"from {module} import {current}")
    return value


def _warn(module: str, name: str, instead: str) -> None:
    caller = sys._getframe(2)
    while caller.f_back is not None and _is_on_the_way(caller):
        caller = caller.f_back
    known = caller.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(
        f"{module}.{name} has moved or has a new name; the old name works for contract 1 only. Write: {instead} "
        f"({GUIDE})",
        ContractWarning,
        caller.f_code.co_filename,
        caller.f_lineno,
        registry=known,
    )


def _is_on_the_way(frame: FrameType) -> bool:
    """Whether a frame belongs to the import system, or is the `__getattr__` of a module."""
    module: str = frame.f_globals.get("__name__", "")
    return module.startswith("importlib.") or frame.f_code.co_name in ("<lambda>", "__getattr__")


class _Loader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name, f"Moved: see {GUIDE}.")
        vars(module)["__getattr__"] = lambda name: attribute(spec.name, name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        del module  # its names are looked up when they are asked for


class _Finder(MetaPathFinder):
    """Finds modules by their old names, after all other finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        return ModuleSpec(name, _Loader()) if name in MOVED or name in _MOVED_PLUGINS else None


def add(modules: Mapping[str, str]) -> None:
    """Let old modules of a distribution of plugins be found, each under the name of the module that replaces it."""
    _MOVED_PLUGINS.update(modules)


def install() -> None:
    """Make old names importable; called once, when `omnivit` is imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
