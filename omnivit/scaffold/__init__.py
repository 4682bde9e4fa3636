"""A new plugin: a ready distribution, filled in from the templates (`*.in`) in this folder.

`$name`, `$Class` and the like in a template are replaced; nothing else has a meaning there. Knows no plugin, no torch.
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
    "encoder": "media -> rows of features",
    "adapter": "an encoder's rows -> rows of the LLM's width",
    "llm": "embeddings of text and media -> logits of the next token",
    "reader": "a data file -> samples",
    "head": "the LLM's state at a token of its own -> a box, a mask, ...",
}
"""What can be made, and what each turns into what."""

LONGEST = 28
"""Letters of a name: with them, no line of a template becomes longer than 120."""

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
"""Kind -> what makes the data of its example, where that is not its own."""


@dataclass(frozen=True)
class Names:
    """What a plugin is called in its various places."""

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
        """What its classes begin with: `MyThermal2`."""
        return "".join(part[0].upper() + part[1:] for part in re.split("[-_]", self.name))

    def fields(self) -> dict[str, str]:
        """What stands in templates -> what takes its place."""
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
    """Check what the user asks for.

    Raises:
        OmniVitError: no such kind, or the name cannot be that of a distribution and of a plugin; says which can.
        PluginError: another distribution that is installed has a plugin of that kind and name.
    """
    if kind not in KINDS:
        raise OmniVitError(f"there is no scaffold for a plugin of kind {kind!r}: {suggest(kind, KINDS)}")
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789")[:LONGEST].rstrip("-")
        raise OmniVitError(
            f"{name[:80]!r} cannot name a plugin: a name begins with a lower-case letter and holds lower-case letters, "
            f"digits and single '-' or '_', at most {LONGEST}. Try '{near or 'thermal'}'."
        )
    names = Names(kind, name)
    if names.package.removeprefix("omnivit_") in registries.ALL:
        raise OmniVitError(f"'{name}' would make a package {names.package}, which OmniViT has itself. Try 'my-{name}'.")
    _check_free(names)
    return names


def _check_free(names: Names) -> None:
    """Raises PluginError where what is made could not be installed beside what is there."""
    kind, name, own = names.kind, names.name, names.distribution
    entry = registries.ALL[f"{kind}s"].names().get(name)
    owner = own if entry is None or entry.owner is None else entry.owner.facts.name
    if canonicalize_name(owner) != own:
        raise PluginError(
            f"{owner}, which is installed, has {kind} '{name}' already: recipes could not tell the two apart. "
            f"Try 'my-{name}'."
        )
    try:
        metadata.distribution(own)
    except metadata.PackageNotFoundError:
        return
    if entry is None:
        raise PluginError(
            f"{own} is installed already, without {kind} '{name}': the new one would be installed in its place. "
            f"Try '{name}-{kind}'."
        )


def render(names: Names) -> dict[str, str]:
    """The files of a new distribution: path, with `/`, -> text."""
    fields = names.fields()
    folder = resources.files(__name__)
    files = {f"src/{names.package}/py.typed": ""}
    data = {"example/make_data.py": _DATA.get(names.kind, f"{names.kind}/make_data.py.in")}
    for path, source in {**_SHARED, **_OWN, **data}.items():
        text = folder.joinpath(Template(source).substitute(fields)).read_text(encoding="utf-8")
        files[Template(path).substitute(fields)] = Template(text).substitute(fields)
    return dict(sorted(files.items()))


def write(files: Mapping[str, str], folder: Path) -> None:
    """Put files into a folder that is new or empty.

    Raises:
        OmniVitError: something is in the folder, or it cannot be written to.
    """
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise OmniVitError(f"{folder} is not empty, and nothing in it is overwritten. Choose another: --out DIR.")
        for path, text in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OmniVitError(
            f"{folder} cannot be made: {error.strerror} ({error.filename}). Choose another: --out DIR."
        ) from error
