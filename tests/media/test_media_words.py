"""What all media share: the sentences that end their errors, and constants of which one name means one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import omnivit.media
from omnivit.media.advice import download_again, or_remove

FOLDER = Path(omnivit.media.__file__).parent
SOURCES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.rglob("*.py"))}


def test_remedies_are_whole_sentences() -> None:
    assert download_again() == "Download it again, or remove the sample from the data."
    assert download_again("its files") == "Download its files again, or remove the sample from the data."
    assert download_again(alternative="select other pages") == "Download it again, or select other pages."
    assert download_again(alternative="") == "Download it again."
    assert or_remove("Convert it") == "Convert it, or remove the sample from the data."


def test_a_constant_is_defined_once() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path, tree in SOURCES.items():
        for node in tree.body:
            for target in node.targets if isinstance(node, ast.Assign) else []:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name) and re.fullmatch(r"_?[A-Z][A-Z0-9_]+", name.id):
                        homes[name.id].append(str(path.relative_to(FOLDER)))
    assert len(homes) > 40
    assert not {name: places for name, places in homes.items() if len(places) > 1}


def test_a_limit_that_an_error_names_exists() -> None:
    """An error names the constant that a user can change, such as `omnivit.media.pages.MAX_PAGES`."""
    named = {
        match.groups()
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for match in re.finditer(r"(omnivit(?:\.[a-z_]+)+)\.([A-Z][A-Z_]+)\b", node.value)
    }
    assert len(named) > 15
    for module, constant in sorted(named):
        path = FOLDER.parent.parent / (module.replace(".", "/") + ".py")
        assert re.search(rf"^(\w+, )?{constant}\b.* = ", path.read_text(encoding="utf-8"), re.M), (module, constant)


def test_bytes_and_files_are_distinguished_in_one_place() -> None:
    tests = [
        str(path.relative_to(FOLDER))
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node) == "isinstance(media.source, bytes)"
    ]
    assert tests == ["locate.py"]
