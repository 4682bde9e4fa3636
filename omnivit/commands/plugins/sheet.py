"""The description of a plugin as text as wide as the terminal; the options are a table, or a list on a narrow one."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence

from omnivit.commands.plugins.describe import Measured, Option, Sheet, as_yaml
from omnivit.console import BOLD, GAP, paint, table, wants_colour
from omnivit.registry.names import harmless, printable

WIDE = 96
"""Columns from which the options are a table."""
USUAL = 100
"""Columns where there is no terminal."""
WIDEST = 160
"""Longer lines are hard to read."""
NARROWEST = 20
"""A column of text that is narrower cannot be read."""
LONGEST = 4000
"""Characters of a text that are printed."""
LARGEST = (24, 26, 18)
"""Largest widths of path, type and default in the table; the meaning takes the rest."""
HEADER = ("OPTION", "TYPE", "DEFAULT", "MEANING")
PLACES = {
    "encoders": "In a recipe, under model.inputs.SLOT:",
    "adapters": "In a recipe, under model.inputs.SLOT:",
    "llms": "In a recipe, under model:",
    "heads": "In a recipe, under model.heads:",
    "readers": "In a recipe, in a stage:",
    "metrics": "In a recipe:",
}

WEIGHTLESS = ("readers", "metrics")
"""Kinds that never load weights, so that nothing is said about them."""


def text(sheet: Sheet, width: int | None = None, colour: bool | None = None) -> str:
    """The description of a plugin, in lines.

    Args:
        sheet: the description.
        width: columns; default: those of the terminal, within limits.
        colour: whether titles are bold; default: on a terminal with colours.
    """
    columns = min(width or shutil.get_terminal_size((USUAL, 24)).columns, WIDEST)
    bold = wants_colour() if colour is None else colour
    sections = [_head(sheet, columns, bold), list(_facts(sheet, columns))]
    if sheet.measured is not None:
        sections.append(list(_measured(sheet.measured, columns, bold)))
    if sheet.options:
        sections.append([paint("Options", BOLD, bold), *_options(sheet.options, columns)])
    sections.append([paint(PLACES[sheet.kind], BOLD, bold), "", *map(_shown, sheet.yaml.splitlines())])
    return "\n\n".join("\n".join(lines) for lines in sections)


def _head(sheet: Sheet, width: int, bold: bool) -> list[str]:
    lines = [paint(f"{sheet.kind.removesuffix('s')} {harmless(sheet.name)}", BOLD, bold)]
    return lines + [line for paragraph in sheet.what for line in _wrapped(paragraph, width)]


def _facts(sheet: Sheet, width: int) -> Iterator[str]:
    """Names and values, one or more lines each. Empty ones are left out, except the licence and the weights."""
    contract = "not declared; assumed to be 1" if sheet.contract is None else str(sheet.contract)
    facts = {
        "from": f"{sheet.distribution} {sheet.distribution_version}".strip(),
        "class": sheet.value,
        "version": f"{sheet.version}, contract {contract}",
        "install": sheet.install,
        "reads": sheet.reads,
        "token": sheet.token,
        "tokens": sheet.card.tokens,
        "paper": sheet.card.paper,
        "licence": sheet.licence or "not stated",
        "weights": sheet.card.weights or ("none" if sheet.kind not in WEIGHTLESS else ""),
    }
    longest = max(map(len, facts))
    for name, value in facts.items():
        if value:
            yield from _hanging(f"{name.ljust(longest)}{GAP}", value, width)


def _measured(measured: Measured, width: int, bold: bool) -> Iterator[str]:
    """The tokens of the plugin's example."""
    if measured.problem:
        yield from _hanging("Tokens not measured: ", measured.problem, width)
        return
    yield paint("Tokens of its example", BOLD, bold)
    for given, rows in measured.rows.items():
        yield from _hanging("  ", f"{given}: {rows}", width, 4)
    yield from _hanging("  with ", as_yaml(measured.options) if measured.options else "its defaults", width)


def _options(options: Sequence[Option], width: int) -> Iterator[str]:
    if width < WIDE:
        for option in options:
            default = "" if option.mandatory else f" = {option.written}"
            yield from _hanging("", f"{option.path}{default}", width)
            yield from _hanging("    ", option.type + (", mandatory" if option.mandatory else ""), width)
            yield from _hanging("    ", option.doc, width) if option.doc else ()
        return
    rows = [(x.path, x.type, "(mandatory)" if x.mandatory else x.written, x.doc) for x in options]
    cells = [[_shown(" ".join(cell.split())) for cell in row] for row in rows]
    yield from table(cells, HEADER, width=width, limits=LARGEST)


def _hanging(start: str, value: str, width: int, indent: int | None = None) -> Iterator[str]:
    """A start and a text, whose further lines are indented to its first line (or to `indent`)."""
    column = len(start) if indent is None else indent
    first, *rest = _wrapped(value, max(width - len(start), NARROWEST))
    yield start + first
    if rest:
        yield from (" " * column + line for line in _wrapped(" ".join(rest), max(width - column, NARROWEST)))


def _wrapped(value: str, width: int) -> list[str]:
    return textwrap.wrap(_shown(" ".join(value.split())), width, break_on_hyphens=False) or [""]


def _shown(value: str) -> str:
    """A text of somebody else, without codes that a terminal would obey."""
    return printable(value, LONGEST)
