"""The command line skeleton: help without imports, statuses, messages, and `omnivit plugins`."""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import omnivit
from omnivit import cli, console
from omnivit.commands.plugins import verb as plugins
from omnivit.contracts.registries import ALL
from omnivit.errors import RecipeError
from omnivit.registry import Health, Listing

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "lightning", "omegaconf", "numpy", "rich", "PIL"}
RUN = "import sys; from omnivit.cli import main; status = main(sys.argv[1:]);"


def child(*arguments: str, code: str = f"{RUN} sys.exit(status)", **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})


def cpu_seconds(*arguments: str) -> float:
    """User and system time of one `omnivit` process; the least of three, since the machine is shared."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert child(*arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A command module in the place of `chat`; tests set its `run`."""
    module = ModuleType("omnivit.commands.chat")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run")
        parser.add_argument("overrides", nargs="*")
        parser.add_argument("--image")

    module.__dict__["add_arguments"] = add_arguments
    monkeypatch.setitem(sys.modules, "omnivit.commands.chat", module)
    return module


def test_version_is_that_of_the_project() -> None:
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert stated is not None and omnivit.__version__ == stated[1]
    assert child("--version").stdout == f"omnivit {omnivit.__version__}\n"


def test_unknown_attribute_of_the_package() -> None:
    with pytest.raises(AttributeError, match="module 'omnivit' has no attribute 'lode'"):
        _ = omnivit.lode


def test_load_is_found_lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = ModuleType("omnivit.run.loading")
    loading.__dict__["load"] = len
    monkeypatch.setitem(sys.modules, "omnivit.run.loading", loading)
    assert omnivit.load is len


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["plugins", "--json"], ["plugins", "--kind", "head"]])
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    done = child(*arguments, code=f"{RUN} print(sorted(sys.modules), file=sys.stderr)")
    loaded = set(re.findall(r"'([^']+)'", done.stderr))
    assert "omnivit.cli" in loaded
    assert not HEAVY & loaded
    assert ("omnivit.commands" in loaded) is (arguments != ["--help"])


def test_help_lists_every_verb() -> None:
    text = child("--help").stdout
    for verb, line in cli.VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(line)}$", text, flags=re.MULTILINE)


def test_verbs_and_modules_are_the_same() -> None:
    folder = ROOT / "omnivit" / "commands"
    modules = {path.stem for path in [*folder.glob("*.py"), *folder.glob("*/__init__.py")]} - {"__init__"}
    modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
    parts = {"check_time"}
    assert modules - parts == {verb.replace("-", "_") for verb in cli.VERBS}
    assert parts <= modules


def test_start_up_is_quick() -> None:
    assert cpu_seconds("--help") < 0.3
    assert cpu_seconds("plugins") < 0.5


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "import-hf" in err


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--nonsense"]) == 2
    assert cli.main(["plugins", "--nonsense"]) == 2
    assert "usage: omnivit plugins" in capsys.readouterr().err
    assert cli.main(["trian", "x"]) == 2
    assert "error: omnivit has no command 'trian': did you mean 'train'?" in capsys.readouterr().err


def test_options_may_stand_between_positionals(verb: ModuleType) -> None:
    seen: list[argparse.Namespace] = []

    def run(args: argparse.Namespace) -> int:
        seen.append(args)
        return 7

    verb.__dict__["run"] = run
    assert cli.main(["chat", "r", "--image", "i", "a=1", "b=2"]) == 7
    assert vars(seen[0]) == {"run": "r", "image": "i", "overrides": ["a=1", "b=2"]}


def fail(error: BaseException) -> int:
    raise error


def test_an_error_of_the_user(
    verb: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    verb.__dict__["run"] = lambda _: fail(RecipeError("a.yaml, line 3: no"))
    assert cli.main(["chat", "r"]) == 2
    assert capsys.readouterr().err == "error: a.yaml, line 3: no\n"


def test_a_defect(verb: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    verb.__dict__["run"] = lambda _: fail(ValueError("odd"))
    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    assert cli.main(["chat", "r"]) == 1
    quiet = capsys.readouterr().err
    assert "ValueError: odd" in quiet and "This is a defect" in quiet and "OMNIVIT_TRACEBACK=1" in quiet
    assert "Traceback" not in quiet
    monkeypatch.setenv(cli.TRACEBACK, "1")
    assert cli.main(["chat", "r"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_unknown_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "a.yaml", "--rundir", "x"]) == 2
    assert "there is no option --rundir: did you mean '--run-dir'?" in capsys.readouterr().err
    for verb in ("check", "show", "train"):
        assert cli.main([verb]) == 2
        assert capsys.readouterr().err.startswith("error: No recipe is given. Usage: omnivit ")


def test_examples_in_help_can_be_parsed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_with_tested_versions", lambda _: lambda _: 0)  # parsed, and not run
    for verb, example in cli.EXAMPLES.items():
        if verb == cli.DOCTOR:
            continue
        program, *arguments = shlex.split(example)
        assert (program, arguments[0]) == ("omnivit", verb)
        assert cli.main(arguments) == 0, capsys.readouterr().err
    assert cli.main(["ls", "--help"]) == 0
    assert f"Example: {cli.EXAMPLES['ls']}" in capsys.readouterr().out


def test_an_interrupt(verb: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    verb.__dict__["run"] = lambda _: fail(KeyboardInterrupt())
    assert cli.main(["chat", "r"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("size", [10, 1_000_000], ids=["at the flush", "in print"])
def test_a_reader_that_goes_away(size: int, unbuffered: str) -> None:
    code = (
        "import sys, types; m = types.ModuleType('omnivit.commands.chat'); m.add_arguments = lambda p: None\n"
        f"m.run = lambda a: print('x' * {size}) or 0\n"
        f"sys.modules[m.__name__] = m\n{RUN} sys.exit(status)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    variables = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", code, "chat"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, env=variables)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_broken_pipe_is_a_defect(verb: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    verb.__dict__["run"] = lambda _: fail(BrokenPipeError("to a loader worker"))
    assert cli.main(["chat", "r"]) == 1
    assert "to a loader worker" in capfd.readouterr().err


def test_plugins_as_json() -> None:
    done = child("plugins", "--json")
    assert done.returncode == 0
    records = json.loads(done.stdout)
    assert {(r["kind"], r["name"]) for r in records} >= {("encoders", "clip"), ("readers", "llava"), ("llms", "causal")}
    for record in records:
        assert set(record) == {"kind", "name", "value", "distribution", "version", "ok", "problem", "remedy"}
        assert record["ok"] is (record["problem"] == "")
    ours = next(r for r in records if r["name"] == "clip" and r["distribution"] == "omnivit")
    assert ours["version"] == metadata.version("omnivit")
    assert ours["value"] == ALL["encoders"].names()["clip"].value


def test_plugins_as_a_table() -> None:
    listings = [
        Listing("encoders", "clip", "a:B", "omnivit", "0.1.0", Health(True)),
        Listing("adapters", "a-long-name", "c:D", "foo", "12.0", Health(False, "no lens", "buy one")),
    ]
    assert plugins.plugin_table(listings).splitlines() == [
        "KIND      NAME         DISTRIBUTION  VERSION  HEALTH",
        "encoders  clip         omnivit       0.1.0    ok",
        "adapters  a-long-name  foo           12.0     broken",
        "    problem: no lens",
        "    remedy:  buy one",
    ]
    assert "\x1b[31mbroken\x1b[0m" in plugins.plugin_table(listings, colour=True)
    assert "reinstall omnivit" in plugins.plugin_table([])
    assert "\x1b" not in child("plugins").stdout


def test_colour_only_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    cli.main(["plugins"])
    assert console.BOLD in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    cli.main(["plugins"])
    assert console.BOLD not in capsys.readouterr().out
