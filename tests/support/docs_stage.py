"""A folder that looks like a checkout, and a shell in it whose commands are the real ones, cut short."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from docs_support import ROOT
from scratch_support import PIP
from warm_support import Warm

CHECKOUT = (
    "README.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml", ".ci", "omnivit",
    "encoders", "adapters", "readers", "recipes", "samples", "tools", "benchmarks", "docs", "tests",
)  # fmt: skip
LIMIT = 200
"""Seconds that the commands of a page may take."""
PIP_COMMAND = """
asked={folder}/$(echo "$*" | cksum | cut -d " " -f 1).asked
test -e "$asked" && exit
said=$({python} -m pip "$@" --dry-run 2>&1) || {{ echo "$said" >&2; exit 1; }}
wrong=$(echo "$said" | grep -e "not provide the extra" -e "^Would install" | grep -v -x "Would install omnivit-[0-9.]*")
echo "$wrong" >&2
test -z "$wrong" && touch "$asked"
"""
"""Nothing is installed: what is asked for has to be there, extras and all that they need. Asked once."""


class Stage:
    """The commands, in `folder/bin`, and what pages share: the cache with converted models."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        self._command("python", f'exec {self.bin}/warm {ROOT}/tests/support/docs_short.py "$@"')
        self._command("omnivit", f'exec {self.bin}/python -m omnivit "$@"')
        self._command("torchrun", f'exec {self.bin}/python -m torch.distributed.run "$@"')
        self._command("pip", PIP_COMMAND.format(python=sys.executable, folder=folder))
        self._command("apt-get", "echo 'tests fetch nothing' >&2; exit 100")
        self._warm = Warm(self.bin / "warm", self.environment())

    def checkout(self, folder: Path) -> Path:
        """Make one, as `make setup` leaves it. Its code is not what runs: that is what is installed here."""
        folder.mkdir()
        for name in CHECKOUT:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, folder / name)
        (folder / ".venv").mkdir()
        (folder / ".venv/bin").symlink_to(self.bin)
        for done in ("ready", "ready-dev"):
            (folder / ".venv" / done).touch()
        return folder

    def run(self, script: str, page: str, folder: Path) -> str:
        """Run a page's script in a checkout -> what was printed. Fails the test where a command fails."""
        done = subprocess.run(
            ["bash", "-c", script, page], cwd=folder, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[done.stdout.rfind("@@ line ") :]
        return done.stdout

    def environment(self) -> Mapping[str, str]:
        """Of every process: on the CPU, without a network, with a cache of its own."""
        path = os.pathsep.join([str(self.bin), str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"PATH": path, "OMNIVIT_CACHE": str(self.folder / "cache"), "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1"}
        offline = {**PIP, "PIP_QUIET": "0", "PIP_CONFIG_FILE": os.devnull, "HF_HUB_OFFLINE": "1"}
        return {**os.environ, **own, **offline}

    def close(self) -> None:
        """End its processes."""
        self._warm.close()

    def _command(self, name: str, line: str) -> None:
        file = self.bin / name
        file.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        file.chmod(0o755)
