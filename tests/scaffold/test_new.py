"""`omnivit new`: what it makes is a distribution that works as it was created, under any name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from scratch_support import Scratch

from omnivit.cli import VERBS, main
from omnivit.errors import OmniVitError, PluginError
from omnivit.scaffold import KINDS, LONGEST, names_of, render

NAMES = {"encoder": "my-thermal2", "adapter": "x", "llm": "tiny", "reader": "logs_2-go", "head": "b" * LONGEST}
"""Of each kind one, of odd names: with a hyphen and a digit, of one letter, with both separators, the longest."""
CLASSES = {"encoder": "Encoder", "adapter": "Adapter", "llm": "LLM", "reader": "Reader", "head": "Head"}
"""What the names of their classes end with."""


class Made(NamedTuple):
    """One distribution of each kind, installed into an environment of their own."""

    scratch: Scratch
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def created(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("new")
    folders = {kind: folder / kind for kind in NAMES}
    for kind, name in NAMES.items():
        assert main(["new", kind, name, "--out", str(folders[kind])]) == 0
    scratch = Scratch(folder / "venv")
    editable = [option for kind in NAMES for option in ("-e", f"./{kind}")]
    scratch.run("pip", "install", "--no-deps", *editable, cwd=folder)
    return Made(scratch, folders)


def test_the_verb_is_one() -> None:
    assert "new" in VERBS


def test_it_says_what_it_made_and_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a folder"
    assert main(["new", "encoder", "thermal", "--out", str(folder)]) == 0
    said = capsys.readouterr().out
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert path.relative_to(folder).as_posix() in said
    assert f"cd '{folder}'" in said
    assert "omnivit plugins check thermal" in said


def test_without_a_folder_it_takes_one_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "head", "my_box"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["omnivit-my-box"]


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["new", "encoder", "thermal", "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["new", "encoder", "thermal", "--out", str(tmp_path / "file" / below)]) == 2
    assert "cannot be created" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Thermal Cam", "Try 'thermal-cam'"),
        ("2d", "Try 'd'"),
        ("-x", "Try 'x'"),
        ("x-", "Try 'x'"),
        ("a--b", "Try 'a-b'"),
        ("a.b", "Try 'a-b'"),
        ("../up", "Try 'up'"),
        ("", "Try 'thermal'"),
        ("é", "Try 'thermal'"),
        ("x:y", "Try 'x-y'"),
        ("x@1", "Try 'x-1'"),
        ("x\n", "Try 'x'"),
        ("b" * (LONGEST + 1), f"Try '{'b' * LONGEST}'"),
        ("encoders", "Try 'my-encoders'"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(name: str, hint: str) -> None:
    with pytest.raises(OmniVitError) as caught:
        names_of("encoder", name)
    assert hint in str(caught.value)
    names_of("encoder", hint.split("'")[1])


def test_a_kind_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(OmniVitError, match="'encoder'"):
        names_of("encodr", "thermal")


def test_a_name_that_another_distribution_has_is_refused() -> None:
    with pytest.raises(PluginError, match=r"distribution omnivit already has encoder 'clip'.* Try 'my-clip'"):
        names_of("encoder", "clip")
    names_of("head", "clip")


def test_a_distribution_that_is_installed_is_not_replaced_by_another(created: Made, tmp_path: Path) -> None:
    again = ["-m", "omnivit", "new"]
    created.scratch.run("python", *again, "encoder", "my-thermal2", "--out", "again", cwd=tmp_path)
    told = created.scratch.run("python", *again, "reader", "my-thermal2", cwd=tmp_path, status=2)
    assert "Try 'my-thermal2-reader'" in told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a", "my-thermal2", "z" * LONGEST])
def test_what_is_made_is_short_and_filled_in(kind: str, name: str) -> None:
    names = names_of(kind, name)
    files = render(names)
    module = files[f"src/{names.package}/__init__.py"]
    assert len(module.splitlines()) < 60
    assert len(files["tests/test_contract.py"].splitlines()) < 15
    assert f'"{names.package}:{names.stem}{CLASSES[kind]}"' in files["pyproject.toml"]
    assert {"check", "publish"} == set(yaml.safe_load(files[".github/workflows/ci.yml"])["jobs"])
    for path, text in files.items():
        assert not re.search(r"\$(?!\{\{)", text), f"{path} has a place that is not filled in"
        assert text.endswith("\n") or not text
        assert not path.endswith(".py") or max(map(len, text.splitlines()), default=0) <= 120, path


def test_they_are_found(created: Made, tmp_path: Path) -> None:
    listed = json.loads(created.scratch.run("omnivit", "plugins", "--json", cwd=tmp_path))
    for kind, name in NAMES.items():
        (found,) = [one for one in listed if one["name"] == name]
        assert (found["kind"], found["ok"]) == (f"{kind}s", True)
        assert found["distribution"] == names_of("reader" if kind == "encoder" else "encoder", name).distribution


def test_their_tests_pass(created: Made, tmp_path: Path) -> None:
    tests = [folder / "tests" for folder in created.folders.values()]
    options = ["-q", "-p", "no:dash", "-p", "no:cacheprovider", "--import-mode=importlib", f"--rootdir={tmp_path}"]
    said = created.scratch.run("pytest", *options, *tests, cwd=tmp_path)
    assert re.search(r"(9|1\d)\d passed", said), said


def test_their_style_passes(created: Made) -> None:
    for folder in created.folders.values():
        created.scratch.run("ruff", "check", "--no-cache", ".", cwd=folder)
        created.scratch.run("ruff", "format", "--no-cache", "--check", ".", cwd=folder)


@pytest.mark.parametrize("kind", KINDS)
def test_their_types_pass(created: Made, kind: str) -> None:
    created.scratch.run("mypy", "--strict", "src", "tests", cwd=created.folders[kind])


def test_their_examples_train(created: Made, tmp_path: Path) -> None:
    lines = ["import sys", "from omnivit.cli import main"]  # in one process, which imports torch once
    for kind, folder in created.folders.items():
        created.scratch.run("python", "example/make_data.py", cwd=folder)
        options = ["stages.learn.epochs=1", "stages.learn.steps=2", "evaluation=null", "trainer.accelerator=cpu"]
        train = ["train", str(folder / "example/recipe.yaml"), "--run-dir", str(tmp_path / kind), *options]
        lines.append(f"status = main({train!r})\nif status: sys.exit(status)")
    created.scratch.run("python", "-c", "\n".join(lines), cwd=tmp_path)
    for kind in created.folders:
        assert (tmp_path / kind / "report.md").is_file()
        assert f"omnivit.{kind}s:{NAMES[kind]}" in (tmp_path / kind / "provenance.json").read_text()


def test_the_head_learns(created: Made, tmp_path: Path) -> None:
    folder = created.folders["head"]
    options = ["stages.learn.epochs=5", "evaluation.data.0.limit=16", "trainer.accelerator=cpu"]
    created.scratch.run("python", "example/make_data.py", cwd=folder)
    created.scratch.run("omnivit", "train", "example/recipe.yaml", "--run-dir", tmp_path / "run", *options, cwd=folder)
    found = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))["heads"]["box.corners"]
    assert found["true"]["high"] < found["shuffled"]["low"], found
