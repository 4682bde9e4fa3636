"""The code blocks of a page of documentation, and what it takes to run them as a reader would: in order, in a shell."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/decisions").glob("*.md")),
]
"""Those that tell about a checkout; the pages in docs/plugins make distributions of their own."""
PROGRAMS = ("omnivit", "python", "make", "pip", "pytest", "torchrun", "bash")
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:^|\n\n)((?: {4}.*\n|\n(?= {4}))+)")
PARAGRAPH = re.compile(r"(?:^.+\n?)+", re.MULTILINE)
FILE = re.compile(r"# ((?:[\w.-]+/)*[\w-]+\.\w+)\n")
"""The first line of a block that is a file to be written: its path, from where the reader is."""
CHAIN = re.compile(r"^(.+ && .*?[^\\\n])(?: +#.*)?$", re.MULTILINE)
"""Commands of which each needs the one before: bash does not end where any but the last fails."""
END = "END_OF_BLOCK"


@dataclass(frozen=True)
class Block:
    """A block between fences, or an indented one, which is of no language."""

    language: str
    text: str
    line: int
    """Of the page, from 1, where its code begins."""

    @property
    def file(self) -> str:
        """The file that it is; empty for one that is run."""
        match = FILE.match(self.text)
        return match[1] if match and self.language in ("python", "yaml", "toml") else ""

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """What empty lines part, each with its line of the page."""
        for match in PARAGRAPH.finditer(self.text):
            yield self.line + self.text.count("\n", 0, match.start()), match[0]

    def shown(self) -> str:
        """What a session of a shell shows beside its commands."""
        return "".join(line for line in self.text.splitlines(keepends=True) if not line.startswith("$ "))

    def command(self) -> tuple[str, str]:
        """What a shell does for it: run it, or write the file. The second part stands where its code stands.

        Empty for one that is only to be read.
        """
        if self.file:
            folder = Path(self.file).parent
            return f"mkdir -p {folder}; cat > {self.file} <<'{END}'", f"{self.text}{END}\n"
        if self.language == "python":
            return f"python - <<'{END}'", f"{self.text}{END}\n"
        if self.language in ("bash", "sh"):
            return ":", CHAIN.sub(r"\1 || false", self.text)
        lines = list(self._session() if self.language == "console" else self._indented())
        return (":", "".join(f"{line}\n" for line in lines)) if any(lines) else ("", "")

    def _session(self) -> Iterator[str]:
        """Commands after a prompt. What is shown tells how one ends that shows something; others have to succeed."""
        lines = [*self.text.splitlines(), "$ "]
        for line, following in itertools.pairwise(lines):
            if line.startswith("$ "):
                yield line[2:] if following.startswith("$ ") else f"{{ {line[2:]}; }} 2>&1 || true"
            else:
                yield ""

    def _indented(self) -> Iterator[str]:
        """Paragraphs whose first word is a program."""
        lines = [""] * self.text.count("\n")
        for number, paragraph in self.paragraphs() if not self.language else ():
            if is_command(paragraph):
                own = paragraph.splitlines()
                lines[number - self.line : number - self.line + len(own)] = own
        return iter(lines)


def is_command(text: str) -> bool:
    """Whether it begins with a program."""
    return text.split(maxsplit=1)[0] in PROGRAMS


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = [_block(match, 2, match[1]) for match in FENCE.finditer(text)]
    rest = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    found += [_block(match, 1) for match in INDENTED.finditer(rest)]
    return sorted(found, key=lambda block: block.line)


def _block(match: re.Match[str], group: int, language: str = "") -> Block:
    text = textwrap.dedent(match[group])
    return Block(language, text, match.string.count("\n", 0, match.start(group)) + 1)


def script(found: list[Block]) -> str:
    """All blocks as one script for bash, which says on standard output which line of the page it has come to.

    Each line of code has the number that it has on the page, so that messages of the shell name it.
    """
    text = "set -eEuo pipefail; trap 'echo \"$0:$LINENO: ended with status $?\"' ERR\n"
    for block in found:
        before, code = block.command()
        if before:
            text += "\n" * (block.line - 2 - text.count("\n"))
            text += f"echo '@@ line {block.line}'; {before}\n{code}"
    return text


def said_at(block: Block, said: str) -> str:
    """The part of the output of a script that a block gave."""
    return said.split(f"@@ line {block.line}\n")[1].split("@@ line ")[0]


def unsaid(wanted: str, said: str) -> str:
    """The first of the wanted lines that the output has not, after those before; `...` stands for anything."""
    lines = iter(" ".join(line.split()) for line in said.splitlines())
    for line in (line for line in wanted.splitlines() if line.strip() != "..."):
        pattern = ".*".join(map(re.escape, " ".join(line.split()).split("...")))
        if not any(re.search(pattern, other) for other in lines):
            return line
    return ""
