"""`omnivit data`: what a data file contains, and whether training on it would fail."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from omnivit.console import BOLD, GREEN, RED, paint, reserved, wants_colour
from omnivit.errors import RecipeError, suggest
from omnivit.run.trust import add_trust_argument
from omnivit.run.trust import require as require_trust

if TYPE_CHECKING:
    from omnivit.contracts.reader import Reader
    from omnivit.data.prepare import Preparer
    from omnivit.recipe import DataSource, Recipe, Stage
    from omnivit.run.data_report import DataReport, Example

EXIT_BAD = 1
SHOWN = 10
"""Problems and duplicates that are printed."""
_BAR = 40


@dataclass(frozen=True)
class Opened:
    """A data file, and what a recipe does with it."""

    reader: Reader
    preparer: Preparer | None = None
    stage: str = ""
    max_length: int = 0
    allowed: int = 0
    """Bad records that training skips."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a data file")
    parser.add_argument(
        "--recipe",
        metavar="RECIPE",
        type=Path,
        help="a recipe (YAML): encode the records as its stage does, with the reader and options of this file there",
    )
    parser.add_argument("--stage", metavar="NAME", help="the stage of the recipe; default: the first one with the file")
    parser.add_argument("--reader", metavar="NAME", help="a reader; default: the recipe's, else by the first record")
    parser.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the reader (VALUE in YAML); may be given several times",
    )
    parser.add_argument("--root", metavar="FOLDER", type=Path, help="where paths of media start; default: beside FILE")
    parser.add_argument("--all", action="store_true", help="decode all media; default: those of 16 records")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Examine the file; the status is 1 if training on it would fail."""
    from omnivit.console import quieten_transformers
    from omnivit.run.data_report import examine

    quieten_transformers()
    with reserved():
        opened = _opened(args)
        report = examine(opened.reader, opened.preparer, args.all)
    fails = report.bad > opened.allowed
    if args.json:
        print(json.dumps(_as_record(report, opened, fails), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(args.file, report, opened, fails, wants_colour())))
    return EXIT_BAD if fails else 0


def _opened(args: argparse.Namespace) -> Opened:
    from omnivit.data.opening import AUTO, open_reader

    options = _options(args.option)
    if args.recipe is None:
        if args.stage is not None:
            raise RecipeError("--stage names a stage of a recipe. Add --recipe RECIPE.")
        root = args.root or args.file.parent
        return Opened(open_reader(args.reader or AUTO, args.file.resolve(), root.resolve(), options=options))
    return _of_recipe(args, options)


def _of_recipe(args: argparse.Namespace, options: dict[str, Any]) -> Opened:
    from omnivit.data.opening import AUTO, open_reader
    from omnivit.data.sources import open_source, skips_allowed
    from omnivit.model.build import preparer_of
    from omnivit.recipe import load
    from omnivit.run.check import build_on_meta
    from omnivit.run.precision import settled_here

    recipe = load(args.recipe, [])
    require_trust(recipe, args.trust, args.recipe)
    recipe = settled_here(recipe).recipe
    stage, source = _place_in(recipe, args.file, args.stage)
    if source is not None and args.reader is None and args.root is None and not options:
        reader = open_source(source, recipe.data.root)
    else:
        name = args.reader or (AUTO if source is None else source.reader)
        root = args.root or args.file.parent
        reader = open_reader(name, args.file.resolve(), root.resolve(), options=options)
    preparer = preparer_of(build_on_meta(recipe), recipe, stage)
    allowed = skips_allowed(recipe.data, len(reader)) if recipe.data.on_bad_sample == "skip" else 0
    return Opened(reader, preparer, stage.name if stage is not None else "", recipe.data.max_length, allowed)


def _place_in(recipe: Recipe, file: Path, name: str | None) -> tuple[Stage | None, DataSource | None]:
    """The stage that is asked for, or the first that uses the file, else the first; and its source of the file."""
    stages = [stage for stage in recipe.stages if name is None or stage.name == name]
    if name is not None and not stages:
        raise RecipeError(f"The recipe has no stage {name!r}; {suggest(name, [stage.name for stage in recipe.stages])}")
    for stage in stages:
        for source in stage.data:
            if (Path(recipe.data.root) / source.path).resolve() == file.resolve():
                return stage, source
    return (stages[0] if stages else None), None


def _options(given: list[str]) -> dict[str, Any]:
    import yaml

    options = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise RecipeError(f"--option {text}: expected KEY=VALUE, such as --option tags=first.")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"--option {text}: the value is not YAML. Put it in quotes.") from error
    return options


def _lines(file: Path, report: DataReport, opened: Opened, fails: bool, colour: bool) -> Iterator[str]:
    turns = ", ".join(f"{count:,} of the {role}" for role, count in report.turns.items()) or "none"
    yield f"{paint(str(file), BOLD, colour)}: {report.records:,} records, read by {type(opened.reader).__name__}"
    yield f"  turns: {turns}"
    for slot, count in report.media.items():
        lost = report.missing[slot]
        yield f"  {slot}: {count:,} media, " + (paint(f"{lost:,} missing", RED, colour) if lost else "all files exist")
    if not report.media:
        yield "  no media"
    yield from _tokens(report, opened)
    yield from _duplicates(report)
    for example in report.examples:
        yield from _example(example, colour)
    if report.bad:
        yield f"\n{paint(f'{report.bad:,} bad records', RED, colour)}" + (
            f"; training skips up to {opened.allowed}" if opened.allowed else ""
        )
        yield from (_problem(problem.where, problem.reason) for problem in report.problems[:SHOWN])
        yield from [f"  and {report.bad - SHOWN:,} more"] if report.bad > SHOWN else []
    yield "\n" + (paint("training on this file would fail", RED, colour) if fails else "no problem that stops training")


def _tokens(report: DataReport, opened: Opened) -> Iterator[str]:
    from omnivit.run.data_report import histogram

    if not report.lengths:
        return
    lengths = report.lengths
    share = report.supervised / max(1, sum(lengths))
    yield (
        f"  tokens in stage {opened.stage}: {min(lengths)} to {max(lengths)}, median {median(lengths):.0f}; "
        f"{share:.0%} are learnt"
    )
    yield f"    (the media of {report.decoded:,} records were decoded; all others count as the shortest of these)"
    bins = histogram(lengths)
    most = max(count for _, _, count in bins)
    for low, high, count in bins:
        lengths_of = f"{low}" if low == high else f"{low} to {high}"
        yield f"    {lengths_of:<16} {'#' * -(-count * _BAR // most):<{_BAR}} {count:,}"
    if report.cut:
        yield f"  {report.cut:,} records are longer than data.max_length ({opened.max_length}) and are cut"


def _duplicates(report: DataReport) -> Iterator[str]:
    if report.repeated:
        yield f"  {report.repeated:,} records are equal to an earlier one:"
        yield from (f"    {place} = {first}" for place, first in report.duplicates[:SHOWN])


def _example(example: Example, colour: bool) -> Iterator[str]:
    """A record; what is learnt is green, or between [[ and ]] where there are no colours."""
    yield f"\n{example.where}, learnt {'in green' if colour else 'between [[ and ]]'}:"
    text = ""
    for piece in example.pieces:
        learnt = piece.kind == "learnt"
        text += piece.text if not learnt else paint(piece.text, GREEN, True) if colour else f"[[{piece.text}]]"
    yield "  " + text.strip().replace("\n", "\n  ")


def _problem(where: str, reason: str) -> str:
    return f"  {reason}" if where in reason else f"  {where}: {reason}"


def _as_record(report: DataReport, opened: Opened, fails: bool) -> dict[str, Any]:
    from omnivit.run.data_report import histogram

    tokens = None
    if report.lengths:
        lengths = report.lengths
        tokens = {
            "stage": opened.stage,
            "least": min(lengths),
            "median": median(lengths),
            "most": max(lengths),
            "learnt": report.supervised,
            "all": sum(lengths),
            "histogram": [{"from": low, "to": high, "records": count} for low, high, count in histogram(lengths)],
            "cut": report.cut,
            "decoded": report.decoded,
        }
    return {
        "reader": type(opened.reader).__name__,
        "records": report.records,
        "turns": dict(report.turns),
        "media": {slot: {"count": count, "missing": report.missing[slot]} for slot, count in report.media.items()},
        "tokens": tokens,
        "duplicates": {
            "count": report.repeated,
            "records": [{"record": place, "equal_to": first} for place, first in report.duplicates],
        },
        "bad": report.bad,
        "allowed": opened.allowed,
        "problems": [{"where": problem.where, "reason": problem.reason} for problem in report.problems],
        "examples": [
            {"where": example.where, "pieces": [{"text": p.text, "kind": p.kind} for p in example.pieces]}
            for example in report.examples
        ],
        "fails": fails,
    }
