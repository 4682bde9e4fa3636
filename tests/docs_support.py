"""The code blocks of a page of documentation, and what it takes to run them as a reader would: in order, in a shell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ((?:[\w.-]+/)*[\w-]+\.\w+)\n")
"""The first line of a block that is a file to be written: its path, from where the reader is."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str
    line: int
    """Of the page, from 1, where its code begins."""

    @property
    def file(self) -> str:
        """The file that it is; empty for one that is run."""
        match = FILE.match(self.text)
        return match[1] if match and self.language in ("python", "yaml", "toml") else ""

    def command(self) -> str:
        """What a shell does for it: run it, or write the file. Empty for one that is only to be read."""
        if self.file:
            folder = Path(self.file).parent
            return f"mkdir -p {folder}\ncat > {self.file} <<'END_OF_BLOCK'\n{self.text}END_OF_BLOCK\n"
        if self.language == "python":
            return f"python - <<'END_OF_BLOCK'\n{self.text}END_OF_BLOCK\n"
        return self.text if self.language == "bash" else ""


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in FENCE.finditer(text)]


def script(found: list[Block]) -> str:
    """All blocks as one script, which says on standard output which line of the page it has come to."""
    commands = [(block, block.command()) for block in found]
    return "set -euo pipefail\n" + "".join(f"echo '@@ line {b.line}'\n{command}" for b, command in commands if command)
