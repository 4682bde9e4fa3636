"""A broken, slow or hostile distribution affects nobody who does not use it: two hundred installed, twenty broken."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "benchmarks" / "_distributions.py"
RUN = "import sys; from omnivit.cli import main; sys.exit(main(sys.argv[1:]))"
WATCH = """
import collections, json, os, sys
opened, folder = collections.Counter(), os.environ["PYTHONPATH"]
def note(event, arguments):
    if event == "open" and str(arguments[0]).startswith(folder):
        opened[str(arguments[0])[len(folder) + 1:]] += 1
sys.addaudithook(note)
"""
"""Counts the files that are opened under the folder of the two hundred."""


class Many(NamedTuple):
    folder: Path
    broken: Mapping[str, str]
    healthy: int


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Many:
    spec = importlib.util.spec_from_file_location("benchmark_distributions", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("many")
    broken = module.write(folder)
    os.utime(folder, (1e9, 1e9))  # installed long ago
    return Many(folder, broken, module.HEALTHY)


def child(many: Many, *arguments: str, code: str = RUN) -> subprocess.CompletedProcess[str]:
    """Run with the two hundred on the path."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(many.folder)})  # fmt: skip


def test_every_broken_one_is_listed_with_its_reason_and_in_time(many: Many) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = child(many, "plugins", "--json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and done.stdout.isascii()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5
    records = [record for record in json.loads(done.stdout) if record["distribution"] != "omnivit"]
    assert len(many.broken) == 20 and many.healthy == 180
    found = {record["distribution"]: record for record in records}
    assert len(found) == len(records) == 200
    for distribution, reason in many.broken.items():
        assert reason in found[distribution]["problem"], distribution
        assert found[distribution]["remedy"] and not found[distribution]["ok"]
    assert sum(record["ok"] for record in records) == 180
    names = {record["name"] for record in records}
    assert {"\x1b[2J\x1b[31mclip\a", "\u0441l\u202eip", "x" * 10_000} <= names  # unharmed, for programs


def test_the_table_shows_hostile_names_harmlessly(many: Many) -> None:
    done = child(many, "plugins")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.isascii() and done.stdout.replace("\n", "").isprintable()
    assert max(map(len, done.stdout.splitlines())) < 2200
    for shown in ("\\x1b[2J\\x1b[31mclip\\x07", "\\u0441l\\u202eip", "... (10,000 characters)"):
        assert shown in done.stdout
    assert done.stdout.count("\n") == len(done.stdout.splitlines())


def watched(many: Many, work: str) -> dict[str, Any]:
    """What is opened under the folder, and imported from it, while some work is done."""
    report = (
        "ours = [n for n, m in sys.modules.items() if str(getattr(m, '__file__', '')).startswith(folder)]\n"
        "print(json.dumps([opened, ours]))"
    )
    done = child(many, code=f"{WATCH}\n{work}\n{report}")
    assert done.returncode == 0, done.stderr
    opened, imported = json.loads(done.stdout.splitlines()[-1])
    return {"opened": opened, "imported": imported}


def test_a_list_imports_nothing_and_reads_each_file_once(many: Many) -> None:
    found = watched(
        many, "from omnivit.contracts import registries\n[known.survey() for known in registries.ALL.values()]"
    )
    assert found["imported"] == []
    often = {name: count for name, count in found["opened"].items() if count > 2}
    assert often == {}  # METADATA once for what it claims, once for who requires it
    assert sum(found["opened"].values()) < 4 * 200


def test_a_recipe_that_uses_none_reads_their_claims_once_and_nothing_else(many: Many) -> None:
    work = (
        "from omnivit.contracts import registries\n"
        "for _ in range(5):\n"
        "    registries.readers.get('llava'), registries.encoders.names(), registries.adapters.knows('mlp@1')\n"
        "    registries.encoders.health('features'), registries.readers.provenance('messages')"
    )
    found = watched(many, work)
    assert found["imported"] == []
    assert {Path(name).name for name in found["opened"]} == {"entry_points.txt"}
    assert set(found["opened"].values()) == {1}


def test_libraries_that_read_every_distribution_still_work(many: Many) -> None:
    """torch and Lightning ask for entry points of theirs, transformers for who holds which package."""
    asking = "entry_points(group='torch.backends'); assert 'packaging' in packages_distributions()"
    code = "from importlib.metadata import entry_points, packages_distributions\n"
    alone = child(many, code=code + asking)
    assert alone.returncode != 0  # what the shield is for
    assert "TypeError" in alone.stderr or "UnicodeDecodeError" in alone.stderr
    done = child(many, code=f"from omnivit.registry.shield import shield; shield()\n{code}{asking}\n{asking}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("DamagedDistribution") == 1  # told once
    assert "the entry_points.txt of the installed distribution broken_line is malformed" in done.stderr


@pytest.mark.parametrize("verb", ["show", "plugins"])
def test_the_command_line_is_shielded(many: Many, verb: str) -> None:
    arguments = ["show", str(SOURCE.parents[1] / "recipes" / "smoke.yaml")] if verb == "show" else ["plugins"]
    code = (
        "import sys; from omnivit.cli import main; main(sys.argv[1:])\n"
        "from importlib.metadata import entry_points; entry_points(group='torch.backends')"
    )
    assert child(many, *arguments, code=code).returncode == 0


def test_workers_are_shielded(many: Many, tmp_path: Path) -> None:
    """A worker that a command starts by spawn imports the main file again, then torch, before it calls anything."""
    program = tmp_path / "program.py"
    program.write_text(
        "import importlib.metadata, multiprocessing\n"
        "from omnivit.cli import main\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(len(pool.apply(importlib.metadata.entry_points, (), {'group': 'torch.backends'})))\n"
    )
    command = [sys.executable, str(program)]
    environment = {**os.environ, "PYTHONPATH": str(many.folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


@pytest.mark.slow
def test_the_library_changes_nothing_for_the_whole_process(many: Many) -> None:
    """A program that imports OmniViT decides itself whether to call `shield`."""
    code = (
        "from importlib.metadata import Distribution, PathDistribution\n"
        "before = PathDistribution.read_text, Distribution.entry_points\n"
        "import omnivit, omnivit.plugin, omnivit.cli\n"
        "{}"
        "assert (PathDistribution.read_text, Distribution.entry_points) == before"
    )
    assert child(many, code=code.format("")).returncode == 0
    command = [sys.executable, "-c", code.format("omnivit.load, omnivit.Assistant\n")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
