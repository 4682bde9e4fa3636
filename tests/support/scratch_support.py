"""An environment for distributions that a test makes: it sees what is installed here, and changes none of it."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = ("omnivit", "pip", "pytest")
"""Commands of the environment that are modules installed here."""
PIP = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_QUIET": "1"}
"""Nothing is fetched; pip reads a 0 here as `--no-build-isolation`."""
MYPY = """
said=$(MYPYPATH=src:{root} {python} -m mypy --config-file={root}/pyproject.toml --cache-dir={root}/.mypy_cache \\
    --python-executable={scratch} "$@")
echo "$said"
echo "$said" | grep -q "source files" && ! echo "$said" | grep -q "^\\(src\\|tests\\)/"
"""
"""Types as `make types` checks them, in its cache, since torch takes a minute; what is wrong in our own sources is not
the subject."""


class Scratch:
    """A virtual environment in `folder`, whose commands find this one's packages behind its own."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        Path(own, "beside.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for module in MODULES:
            self._command(module, f'exec {self.python} -m {module} "$@"')
        self._command("mypy", MYPY.format(root=ROOT, python=sys.executable, scratch=self.python))

    def run(self, *command: str | Path, cwd: Path, status: int = 0) -> str:
        """Run a command; what it printed. Fails the test where the command does not end with `status`."""
        done = subprocess.run(
            command, cwd=cwd, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == status, f"{command} in {cwd}: status {done.returncode}\n{done.stdout}"
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Of processes: the environment's commands first, then those of this one (ruff)."""
        path = os.pathsep.join([str(self.bin), str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**os.environ, **PIP, "PATH": path, "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def _command(self, name: str, line: str) -> None:
        file = self.bin / name
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)
