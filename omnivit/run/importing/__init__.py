"""Files of other programs, and exports -> runs: what kinds there are, and which one a folder is.

A kind is a function `(source, run, request)` that writes a run folder, which must not exist, as a whole or not at all.
This module imports neither torch nor a kind, so that the command line can read it for its help.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast

from omnivit.errors import CheckpointError

__all__ = ["KINDS", "Kind", "Request", "default_run", "import_from", "kind_of"]
RECIPE_OPTION, TEMPLATE_OPTION = "--recipe", "--template"


@dataclass(frozen=True)
class Request:
    """What an import is asked for beside source and run."""

    recipe: Path | None = None
    """Recipe file or run folder that tensors belong to."""
    template: str | None = None
    """Chat template, where the source brings none."""
    trust: bool = False
    """Run Python code that the source or the recipe names."""


class ImportFunction(Protocol):
    """What a kind is."""

    def __call__(self, source: Path, run: Path, request: Request) -> None:
        """Write the run. Raises OmniVitError where the source is damaged or cannot be imported."""


@dataclass(frozen=True)
class Kind:
    """A form that can be imported."""

    place: str
    """`module:function`."""
    line: str
    """Its line in the help."""
    options: tuple[str, ...] = ()
    """Options of the command that it takes."""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "llava": Kind(
            "omnivit.run.importing.llava:import_run",
            "a LLaVA or LLaVA-NeXT of transformers (LlavaForConditionalGeneration, ...), also of `export --to hf`",
            (TEMPLATE_OPTION,),
        ),
        "omnivit": Kind("omnivit.run.importing.general:import_run", "the other form of `export --to hf`"),
        "safetensors": Kind(
            "omnivit.run.importing.tensors:import_run", "trained.safetensors of `export --to safetensors`",
            (RECIPE_OPTION,),
        ),
        "peft": Kind(
            "omnivit.run.importing.peft:import_run",
            "a LoRA of peft for the LLM of `--recipe`, a recipe or a run, also of `export --to peft`",
            (RECIPE_OPTION,),
        ),
    }
)  # fmt: skip
"""Name -> kind."""
NO_INVERSE = {
    ".onnx": "An ONNX graph holds computations, not the parts of a model, so no run can be made of it. Import what "
    "`--to hf` or `--to safetensors` writes.",
    ".gguf": "A GGUF file is an LLM alone. Name it in a recipe: `model.llm.path: FILE.gguf`.",
}
"""Ending of a file -> why it has no inverse, and what to do."""
TRAINED, PEFT, SETTINGS = "trained.safetensors", "adapter_config.json", "config.json"


def kind_of(source: Path) -> str:
    """The kind of a file or folder, by what is in it.

    Raises:
        CheckpointError: it is of no kind that can be imported; says what to do instead.
    """
    if not source.exists():
        raise CheckpointError(f"{source}: there is no such file or folder.")
    files = [source] if source.is_file() else sorted(source.iterdir())
    names = {file.name for file in files}
    if {"recipe.yaml", "checkpoints"} <= names:
        raise CheckpointError(f"{source} is a run already: `omnivit generate {source} ...` uses it.")
    if PEFT in names:
        return "peft"
    if TRAINED in names:
        return "safetensors"
    if SETTINGS not in names:  # folders of transformers may hold such files, too
        for ending, reason in NO_INVERSE.items():
            if any(name.endswith(ending) for name in names):
                raise CheckpointError(f"{source} cannot be imported. {reason}")
    if source.is_file():
        return "safetensors"
    settings = _settings(source)
    if settings.get("model_type") == "omnivit":
        return "omnivit"
    if any(str(name).endswith("ForCausalLM") for name in settings.get("architectures") or ()):
        raise CheckpointError(
            f"{source} is an LLM alone, so it needs no import. Name it in a recipe: `model.llm.path: {source}`."
        )
    return "llava"  # which says what is wrong with other models of transformers


def default_run(source: Path) -> Path:
    """Where a run goes if nobody says: beside its source."""
    return source.resolve().with_name(f"{source.resolve().stem if source.is_file() else source.resolve().name}-run")


def import_from(source: Path, run: Path, request: Request | None = None) -> None:
    """Create a run folder from a file or folder.

    Args:
        source: of one of `KINDS`.
        run: the run folder; must not exist. It appears when it is complete.
        request: options.

    Raises:
        CheckpointError: `run` exists or cannot be written; the source is damaged, or of no kind that can be imported.
        OmniVitError: an option that the kind does not take, or a recipe that does not fit.
    """
    request = request or Request()
    if run.exists():
        raise CheckpointError(f"{run} exists. Choose another --out, or remove it first.")
    name = kind_of(source)
    kind = KINDS[name]
    given = {RECIPE_OPTION: request.recipe, TEMPLATE_OPTION: request.template}
    if useless := [option for option, value in given.items() if value is not None and option not in kind.options]:
        raise CheckpointError(f"{source}: {useless[0]} has no effect here, because this is {kind.line}. Remove it.")
    module, _, function = kind.place.partition(":")
    write = cast("ImportFunction", getattr(importlib.import_module(module), function))
    try:
        write(source, run, request)
    except OSError as error:
        raise CheckpointError(f"{run}: cannot be written: {error}") from error


def _settings(folder: Path) -> Mapping[str, Any]:
    """config.json of a folder; nothing where there is none."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}
