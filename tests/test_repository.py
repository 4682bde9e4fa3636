"""Files of the repository that no program of ours reads: workflows, templates, pre-commit, the citation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import omnivit

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
YAML = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]
PAGES = ("SECURITY.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "README.md")
TARGET = re.compile(r"^([\w-]+):(?!=)", re.MULTILINE)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def pyproject() -> str:
    """As text: Python 3.10 has no tomllib."""
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def commands(workflow: Path) -> Iterator[str]:
    """Every simple command of a workflow's steps, those in `$(...)` included."""
    for job in read(workflow)["jobs"].values():
        for step in job["steps"]:
            for command in re.split(r"&&|\|\||[;\n()]|\$\(", step.get("run", "")):
                if command.strip():
                    yield command.strip()


def missing(command: str) -> list[str]:
    """The make targets and files that a command names and that do not exist."""
    program, *arguments = command.split()
    if program == "make":
        targets = TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8"))
        return [name for name in arguments if not name.startswith("-") and "=" not in name and name not in targets]
    if program in ("bash", "python"):
        return [name for name in arguments[:1] if not (ROOT / name).is_file()]
    return []


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_every_yaml_file_parses(path: Path) -> None:
    assert isinstance(read(path), dict)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_runs_exists(workflow: Path) -> None:
    steps = list(commands(workflow))
    assert any(step.startswith(("make ", "bash ")) for step in steps)
    assert [step for step in steps if missing(step)] == []


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert missing("make lint typos") == ["typos"]
    assert missing("bash .ci/wheels") == [".ci/wheels"]
    assert not missing("make -s PYTHON=python3.12 debian") and not missing("sudo apt-get update -qq")


def test_workflows_run_the_checks_of_this_checkout() -> None:
    steps = [step for workflow in WORKFLOWS for step in commands(workflow)]
    expected = ("make lint types test", "bash .ci/wheel", "bash .ci/versions oldest", "bash .ci/versions newest")
    assert [command for command in expected if command not in steps] == []


def test_the_matrix_has_every_python_that_is_allowed() -> None:
    """From the oldest to the newest of `requires-python`, whose upper bound is excluded."""
    match = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"$', pyproject(), re.MULTILINE)
    assert match
    matrix = read(ROOT / ".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{minor}" for minor in range(int(match[1]), int(match[2]))]


def test_a_bug_report_asks_for_the_doctor() -> None:
    fields = {field.get("id"): field for field in read(ROOT / ".github/ISSUE_TEMPLATE/bug.yml")["body"]}
    assert "`omnivit doctor`" in fields["doctor"]["attributes"]["label"]
    assert fields["doctor"]["validations"]["required"]


def test_pre_commit_has_the_ruff_of_the_constraints() -> None:
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    revisions = {
        repo["repo"].rpartition("/")[2]: repo["rev"] for repo in read(ROOT / ".pre-commit-config.yaml")["repos"]
    }
    assert revisions["ruff-pre-commit"] == f"v{pinned[1]}"


def test_the_citation_is_of_this_version() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format 1.2.0 requires
    assert citation["cff-version"] == "1.2.0" and citation["authors"] == [{"name": "The OmniViT authors"}]
    assert str(citation["version"]) == omnivit.__version__
    assert f'\nversion = "{omnivit.__version__}"\n' in pyproject()
    assert f'\nlicense = "{citation["license"]}"\n' in pyproject()


def test_the_folders_of_tests_are_those_of_the_code() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    packages = {path.parent.name for path in (ROOT / "omnivit").glob("*/__init__.py")}
    beside = {"adapters", "bridges", "docs", "encoders", "golden", "plugin", "readers", "support", "tools", "zoo"}
    assert folders - beside <= packages and beside <= folders


@pytest.mark.parametrize("folder", ["omnivit", "encoders", "adapters", "readers"])
def test_each_package_is_marked_as_typed(folder: str) -> None:
    package = folder if folder == "omnivit" else f"omnivit_{folder}"
    assert (ROOT / folder / "py.typed").is_file()
    assert re.search(rf'^{package} = \[.*"py\.typed"', pyproject(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), f"{page}: {target}"


def test_the_wheel_has_every_file_of_the_package_that_is_no_module() -> None:
    """Templates, and the files of the web pages."""
    line = re.search(r"(?m)^omnivit = (\[.*\])$", pyproject().partition("[tool.setuptools.package-data]")[2])
    assert line is not None
    package = ROOT / "omnivit"
    packaged = {path for pattern in yaml.safe_load(line[1]) for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert len([file for file in files if file.parent.name == "static"]) > 20
    assert sorted(files - packaged) == []
