"""What may import what, proved on the syntax trees of all sources: imports inside functions and for types included.

Law 3: the core imports no plugin, and no plugin imports another, nor a helper of tests. Inside the core, each package
imports only packages that stand before it in `ORDER`, and modules import each other in no circle. What shows authors
how to write a plugin imports public modules alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from docs_support import blocks

import omnivit

ROOT = Path(__file__).parents[1]
PLUGINS = {f"omnivit_{name}": ROOT / name for name in ("encoders", "adapters", "readers")}
FORBIDDEN = {*PLUGINS, "encoders", "adapters", "readers"}
"""The last three are our folders by their bare names, which make a second copy of every class."""
ORDER = (
    {"errors", "files", "seeds", "stamps", "console", "processes", "moved", "interrupts"},
    {"registry"},
    {"recipe"},
    {"contracts"},
    {"media"},
    {"data"},
    {"model"},
    {"train", "evaluate"},
    {"engine"},
    {"run", "testing", "scaffold"},
    {"serve"},
    {"commands"},
    {"cli", "plugin", "hf"},
    {"__main__", "__init__"},
)
"""The first level of `omnivit/`: a package imports only what stands in an earlier line. Names of one line do not import
each other, but for the modules of the first."""

PUBLIC = {"omnivit.plugin", "omnivit.testing", *(f"omnivit.{name}" for name in omnivit.__all__)}
"""What a plugin may import of us: two modules, and the names of `omnivit` itself."""


def imported(source: str, package: str) -> Iterator[str]:
    """Every dotted name that a module imports, and every string that names a plugin module.

    Args:
        source: the module's text.
        package: the package that the module stands in, which relative imports start from.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if name.split(".")[0] in PLUGINS and name.replace(".", "").isidentifier():
                yield name


def plugin_of(stem: str, stems: set[str]) -> str:
    """The plugin that a file belongs to: `timm_layouts` is part of `timm` where there is a `timm`."""
    return min((other for other in stems if stem == other or stem.startswith(f"{other}_")), key=len, default=stem)


def foreign(name: str, package: str, own: str, stems: set[str]) -> bool:
    """Whether a plugin of `package` called `own` may not import `name`."""
    top, _, rest = name.partition(".")
    if top not in FORBIDDEN:
        return False
    return top != package or plugin_of(rest.partition(".")[0], stems) != own


def core_files() -> list[Path]:
    return sorted((ROOT / "omnivit").rglob("*.py"))


def plugin_files() -> list[tuple[str, Path]]:
    """Package and path of every module of a plugin; `encoders/__init__.py` itself is of none, and lists old names."""
    return [
        (package, path)
        for package, folder in PLUGINS.items()
        for path in sorted(folder.rglob("*.py"))
        if path != folder / "__init__.py"
    ]


def test_core_imports_no_plugin() -> None:
    files = core_files()
    assert ROOT / "omnivit" / "registry" / "registry.py" in files
    for path in files:
        package = ".".join(path.parent.relative_to(ROOT).parts)
        bad = [name for name in imported(path.read_text(), package) if name.split(".")[0] in FORBIDDEN]
        assert not bad, f"{path.relative_to(ROOT)} imports {bad}"


def module_of(path: Path) -> str:
    """`omnivit.data.chat`, or the package's name for an `__init__.py`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def core_imports() -> dict[str, set[str]]:
    """Module of the core -> the modules of the core that it imports, anywhere in its text."""
    modules = {module_of(path): path for path in core_files()}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        package = ".".join(path.parent.relative_to(ROOT).parts)
        # `from a.b import c` gives a.b.c, which is a module or a name in a.b
        targets = {name if name in modules else name.rpartition(".")[0] for name in imported(path.read_text(), package)}
        graph[module] = {target for target in targets if target in modules and target != module}
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Groups of modules of which each imports, through others or not, every other."""
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        return [tuple(error.args[1])]
    return []


def first_level(module: str) -> str:
    """The first level of `omnivit/` that a module belongs to."""
    return [*module.split("."), "__init__"][1]


def test_the_order_names_the_first_level() -> None:
    named = sorted(name for line in ORDER for name in line)
    assert named == sorted({first_level(module) for module in map(module_of, core_files())})


def test_each_package_imports_only_what_stands_before_it() -> None:
    level = {name: number for number, line in enumerate(ORDER) for name in line}
    wrong = [
        f"{module} imports {target}"
        for module, targets in core_imports().items()
        for target in targets
        if first_level(module) != first_level(target)
        and level[first_level(target)] >= level[first_level(module)] > 0
        and target != "omnivit"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert not circles(core_imports())
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})


def test_no_plugin_imports_another() -> None:
    files = plugin_files()
    assert files
    for package, path in files:
        folder = PLUGINS[package]
        inside = path.relative_to(folder)
        stems = {child.stem for child in folder.iterdir() if child.suffix == ".py" or child.is_dir()}
        own = plugin_of(inside.parts[0].removesuffix(".py"), stems)
        names = imported(path.read_text(), ".".join([package, *inside.parts[:-1]]))
        bad = [name for name in names if foreign(name, package, own, stems)]
        assert not bad, f"{path.relative_to(ROOT)} imports {bad}"


def test_no_plugin_imports_a_helper_of_tests() -> None:
    for package, path in plugin_files():
        names = imported(path.read_text(), package)
        bad = [name for name in names if name == "omnivit.testing" or name.startswith("omnivit.testing.")]
        assert not bad, f"{path.relative_to(ROOT)} imports {bad}"


def examples() -> Iterator[tuple[str, str]]:
    """Place and text of all Python that shows authors how to write a plugin."""
    for path in sorted((ROOT / "tests/plugin").rglob("*.py")):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "omnivit/scaffold").rglob("*.py.in")):
        yield str(path.relative_to(ROOT)), re.sub(r"\$\{?(\w+)\}?", r"\1", path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "docs/plugins").glob("*.md")):
        for block in blocks(path):
            if block.language == "python":
                yield f"{path.relative_to(ROOT)}:{block.line}", block.text


def private(source: str) -> list[str]:
    """The modules of ours that a text imports and that are not public."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += (
                [f"omnivit.{alias.name}" for alias in node.names] if node.module == "omnivit" else [str(node.module)]
            )
    return [name for name in names if name.startswith("omnivit.") and name not in PUBLIC]


@pytest.mark.parametrize(("place", "source"), [pytest.param(*example, id=example[0]) for example in examples()])
def test_what_authors_read_imports_public_modules_alone(place: str, source: str) -> None:
    assert not private(source), place


def test_an_import_of_a_private_module_is_seen() -> None:
    lines = [
        "from omnivit.plugin import Encoder",
        "from omnivit import load, plugin",
        "import omnivit, omnivit.testing",
    ]
    assert not private("\n".join(lines))
    lines = ["from omnivit.media.arrays import read_array", "from omnivit import media", "import omnivit.testing.rule"]
    assert private("\n".join(lines)) == ["omnivit.media.arrays", "omnivit.media", "omnivit.testing.rule"]


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import omnivit_encoders.clip", "omnivit", "omnivit_encoders.clip"),
        ("def f():\n    from omnivit_adapters import mlp", "omnivit", "omnivit_adapters.mlp"),
        ("load('omnivit_encoders.clip:ClipEncoder')", "omnivit", "omnivit_encoders.clip"),
        ("from . import clip", "omnivit_encoders", "omnivit_encoders.clip"),
        ("from ..clip.net import Net", "omnivit_encoders.video", "omnivit_encoders.clip.net.Net"),
        ("from .data import chat", "omnivit", "omnivit.data.chat"),
    ],
)
def test_the_walk_sees_every_kind_of_import(source: str, package: str, expected: str) -> None:
    assert list(imported(source, package)) == [expected]


@pytest.mark.parametrize(
    ("name", "is_foreign"),
    [
        ("omnivit_encoders.timm.layouts.MODULES", False),
        ("omnivit_encoders.timm.encoder", False),
        ("omnivit_encoders.clip.ClipEncoder", True),
        ("omnivit_adapters.mlp", True),
        ("encoders.timm", True),
        ("timm.create_model", False),
    ],
)
def test_what_a_plugin_may_import(name: str, is_foreign: bool) -> None:
    assert foreign(name, "omnivit_encoders", "timm", {"timm", "timm_layouts", "clip"}) is is_foreign


def test_every_folder_of_modules_is_in_the_wheel() -> None:
    """The list of packages in pyproject.toml is written by hand."""
    names = {"omnivit": "omnivit", **{folder.name: package for package, folder in PLUGINS.items()}}
    folders = {file.parent.relative_to(ROOT) for name in names for file in (ROOT / name).rglob("*.py")}
    modules = {".".join((names[folder.parts[0]], *folder.parts[1:])) for folder in folders}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.findall(r'"([\w.]+)"', text.partition("\npackages = [")[2].partition("]")[0])
    assert set(listed) == modules
