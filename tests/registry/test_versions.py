"""Installed versions beside the tested range: what is outside is said once, in a line; the range is recorded."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pin
import pytest

from omnivit import cli
from omnivit.registry import versions
from omnivit.registry.versions import Library, UntestedVersion, summary, survey, warn_once

ROOT = Path(__file__).parents[2]
NARROW = {
    "torch": ("2.0.0", "2.1.0"),
    "pillow": ("99.0", "99.1"),
    "numpy": ("1.0", "999.0"),
    "no-such-library": ("1", "2"),
}


@pytest.mark.parametrize(
    ("installed", "state"),
    [
        ("5.17.0", "tested"),
        ("5.24.0", "tested"),
        ("5.24.9", "tested"),
        ("5.20.2+cu130", "tested"),
        ("5.16.9", "older"),
        ("5.25.0", "newer"),
        ("5.25.0.dev0", "newer"),
        ("6.0", "newer"),
        ("git", "unreadable"),
        ("", "unreadable"),
        (None, "not installed"),
    ],
)
def test_where_a_version_stands(installed: str | None, state: str) -> None:
    assert Library("transformers", installed, "5.17.0", "5.24.0").state == state


def test_what_is_outside_is_told_in_one_line_with_what_to_install() -> None:
    said = summary(survey(NARROW))
    assert "\n" not in said and "numpy" not in said and "no-such-library" not in said
    assert "(tested: 2.0.0 to 2.1.0), pillow " in said and "`omnivit doctor`" in said
    assert said.endswith('pip install "torch>=2.0.0,<=2.1.0" "pillow>=99.0,<=99.1"')


def test_what_is_installed_here_is_tested() -> None:
    """Fails where the suite runs on other libraries than the pinned ones: `python tools/pin.py` renews the pins."""
    assert summary(survey()) == ""
    assert {"torch", "transformers", "pyyaml", "av", "bitsandbytes"} <= versions.tested().keys()


def test_the_warning_comes_once_before_a_command_and_not_with_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "tested", lambda: NARROW)
    warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for arguments in (["media", "--help"], ["media"]):
            cli.main(arguments)
        assert not caught
        for _ in range(2):
            cli.main(["check", "no-such.yaml"])
    assert [warning.category for warning in caught] == [UntestedVersion]
    said = warnings.formatwarning(caught[0].message, caught[0].category, caught[0].filename, caught[0].lineno)
    assert said.startswith("warning: OmniViT is not tested with torch") and said.count("\n") == 1
    capsys.readouterr()
    warn_once.cache_clear()
    monkeypatch.setenv("LOCAL_RANK", "1")
    with warnings.catch_warnings(record=True) as caught:
        warn_once()
    assert not caught
    warn_once.cache_clear()


def test_the_warning_imports_no_library() -> None:
    code = (
        "import sys, omnivit.registry.versions as v; v.warn_once()\n"
        "print(sorted({'torch', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="pyproject.toml is read by tomllib, which Python 3.10 lacks")
def test_pins_fit_the_ranges_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert pin.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.skipif(sys.version_info < (3, 11), reason="pyproject.toml is read by tomllib, which Python 3.10 lacks")
def test_a_range_that_is_not_proven_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "pyproject.toml"
    text = pin.PROJECT.read_text(encoding="utf-8")
    text = text.replace('"rich>=13.8,<16"', '"rich>=13,<16"').replace('"jinja2>=3.1.2,<4"', '"jinja2>=3.1.2"')
    text = text.replace('"safetensors>=0.8,<1"', '"safetensors>=9,<10"').replace('"lightning>=2.6,<3"', '"kite>=1,<2"')
    project.write_text(text, encoding="utf-8")
    monkeypatch.setattr(pin, "PROJECT", project)
    problems = "\n".join([*pin.unbounded(), *pin.misfits()])
    for problem in (
        "pyproject.toml: jinja2 has not both a lower (>=) and an upper bound (<)",
        "constraints.txt: kite is missing",
        ".ci/oldest.txt: safetensors 0.8.0 is not in <10,>=9",
        "pyproject.toml: rich >= 13 is not proven: the oldest that can be installed is newer",
        "omnivit/tested.json: is not what the other files say",
    ):
        assert problem in problems
