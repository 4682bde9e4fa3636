"""A new plugin: a complete distribution, created from the templates (`*.in`) in this folder.

`$name`, `$Class` and the like in a template are replaced; nothing else has a meaning there. This module imports neither
plugins nor torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from string import Template

from packaging.utils import canonicalize_name

from omnivit import __version__
from omnivit.contracts import registries
from omnivit.errors import OmniVitError, PluginError, suggest

KINDS: Mapping[str, str] = {
    "encoder": "media -> features",
    "adapter": "features of an encoder -> tokens of the LLM's width",
    "llm": "embeddings of text and media -> logits of the next token",
    "reader": "a data file -> samples",
    "head": "the LLM's hidden state at a token of the head -> a box, a mask, ...",
}
"""Kind of plugin -> its input and output."""

LONGEST = 28
"""Longest name with which no line of a template is longer than 120 characters."""

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_SHARED = {
    "pyproject.toml": "common/pyproject.toml.in",
    ".gitignore": "common/gitignore.in",
    ".github/workflows/ci.yml": "common/ci.yml.in",
}
_OWN = {
    "README.md": "$kind/README.md.in",
    "src/$package/__init__.py": "$kind/module.py.in",
    "tests/test_contract.py": "$kind/test_contract.py.in",
    "example/recipe.yaml": "$kind/recipe.yaml.in",
}
_DATA: Mapping[str, str] = {"adapter": "common/make_rows.py.in", "llm": "common/make_rows.py.in"}
"""Kind -> the template that creates the data of its example, where it shares one with other kinds."""


@dataclass(frozen=True)
class Names:
    """The names of a plugin: in recipes, on the index, in Python."""

    kind: str
    name: str
    """In recipes: `my-thermal2`."""

    @property
    def distribution(self) -> str:
        """On the index: `omnivit-my-thermal2`."""
        return f"omnivit-{self.name.replace('_', '-')}"

    @property
    def package(self) -> str:
        """In Python: `omnivit_my_thermal2`."""
        return self.distribution.replace("-", "_")

    @property
    def stem(self) -> str:
        """The start of its class names: `MyThermal2`."""
        return "".join(part[0].upper() + part[1:] for part in re.split("[-_]", self.name))

    def fields(self) -> dict[str, str]:
        """Name in a template -> the text that replaces it."""
        return {
            "kind": self.kind,
            "Kind": "LLM" if self.kind == "llm" else self.kind.capitalize(),
            "name": self.name,
            "Class": self.stem,
            "package": self.package,
            "distribution": self.distribution,
            "does": KINDS[self.kind],
            "omnivit": ".".join(__version__.split(".")[:2]),
        }


def names_of(kind: str, name: str) -> Names:
    """Check the kind and the name that the user chose.

    Raises:
        OmniVitError: an unknown kind, or a name that a distribution or plugin cannot have; suggests one that it can.
        PluginError: another installed distribution has a plugin of that kind and name.
    """
    if kind not in KINDS:
        raise OmniVitError(f"there is no kind of plugin {kind!r}: {suggest(kind, KINDS)}")
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789")[:LONGEST].rstrip("-")
        raise OmniVitError(
            f"{name[:80]!r} cannot name a plugin: a name starts with a lower-case letter and consists of lower-case "
            f"letters, digits and single '-' or '_', at most {LONGEST} characters. Try '{near or 'thermal'}'."
        )
    names = Names(kind, name)
    if names.package.removeprefix("omnivit_") in registries.ALL:
        raise OmniVitError(
            f"'{name}' would create the package {names.package}, which is part of OmniViT. Try 'my-{name}'."
        )
    _check_free(names)
    return names


def _check_free(names: Names) -> None:
    """Raises PluginError if the new distribution could not be installed next to the installed ones."""
    kind, name, distribution = names.kind, names.name, names.distribution
    entry = registries.ALL[f"{kind}s"].names().get(name)
    owner = distribution if entry is None or entry.owner is None else entry.owner.facts.name
    if canonicalize_name(owner) != distribution:
        raise PluginError(
            f"The installed distribution {owner} already has {kind} '{name}', and recipes could not distinguish the "
            f"two. Try 'my-{name}'."
        )
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return
    if entry is None:
        raise PluginError(
            f"A distribution {distribution} without {kind} '{name}' is installed already, and the new one would "
            f"replace it. Try '{name}-{kind}'."
        )


def render(names: Names) -> dict[str, str]:
    """The files of a new distribution: path (with `/`) -> text."""
    fields = names.fields()
    folder = resources.files(__name__)
    files = {f"src/{names.package}/py.typed": ""}
    data = {"example/make_data.py": _DATA.get(names.kind, f"{names.kind}/make_data.py.in")}
    for path, source in {**_SHARED, **_OWN, **data}.items():
        text = folder.joinpath(Template(source).substitute(fields)).read_text(encoding="utf-8")
        files[Template(path).substitute(fields)] = Template(text).substitute(fields)
    return dict(sorted(files.items()))


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write files into a new or empty folder.

    Raises:
        OmniVitError: something is in the folder, or it cannot be written to.
    """
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise OmniVitError(
                f"{folder} is not empty, and existing files are never overwritten. Choose another folder: --out DIR."
            )
        for path, text in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OmniVitError(
            f"{folder} cannot be created: {error.strerror} ({error.filename}). Choose another folder: --out DIR."
        ) from error
