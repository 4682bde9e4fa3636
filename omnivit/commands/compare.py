"""`omnivit compare`: what the recipes of runs differ in, their losses and scores, and whether one answers better."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.commands.ls import as_record as run_record
from omnivit.console import table, wants_colour
from omnivit.errors import RecipeError

if TYPE_CHECKING:
    from omnivit.contracts.metric import Interval
    from omnivit.run.compare import Compared, Comparison, PairedTest

PAGE, PICTURE = ".md", ".png"
Section = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, header and rows of a table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="two or more run folders")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.md", help="write the comparison to this file, and the curves to FILE.png"
    )


def run(args: argparse.Namespace) -> int:
    """Compare, and print or write the result."""
    from omnivit.run.compare import compare

    if len({folder.resolve() for folder in args.runs}) < 2:
        raise RecipeError("omnivit compare takes two or more different runs: omnivit compare RUN RUN ...")
    if args.out is not None:
        from omnivit.commands.eval import check_writable

        if args.out.suffix != PAGE:
            raise RecipeError(
                f"--out {args.out}: the name has to end in {PAGE}. The curves go to a {PICTURE} beside it."
            )
        check_writable(args.out)
    comparison = compare(args.runs)
    if args.out is not None:
        _write(args.out, comparison)
    if args.json:
        print(json.dumps(as_record(comparison), indent=1, default=str))
        return 0
    colour = wants_colour()
    for title, header, rows in _sections(comparison):
        print(f"{title}\n" + "\n".join(f"  {line}" for line in table(rows, header, colour=colour)) + "\n")
    print("\n".join(_sentences(comparison)))
    if args.out is not None:
        print(f"\nWritten: {args.out}")
    return 0


def as_record(comparison: Comparison) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "runs": [
            run_record(each.summary)
            | {"name": each.name, "validation_loss": each.losses["validation_loss"]}
            | {"scores": {metric: _plain(scores) for metric, scores in each.scores.items()}}
            for each in comparison.runs
        ],
        "differences": comparison.differences,
        "tests": [
            {
                "first": test.first,
                "second": test.second,
                "condition": test.condition,
                "questions": list(test.questions),
                "common": test.paired.n,
                "both": test.paired.both,
                "only_first": test.paired.first,
                "only_second": test.paired.second,
                "neither": test.paired.neither,
                "difference": asdict(test.paired.difference()) if test.paired.n else None,
                "p": test.paired.p if test.paired.n else None,
            }
            for test in comparison.tests
        ],
    }


def _plain(scores: Any) -> dict[str, Any]:
    return {condition: asdict(interval) for condition, interval in scores.items()}


def _sections(comparison: Comparison) -> list[Section]:
    """The tables: runs, differences of the recipes, scores."""
    runs, names = comparison.runs, [each.name for each in comparison.runs]
    sections: list[Section] = [
        (
            "Runs",
            ("run", "state", "steps of the last stage", "loss", "validation loss"),
            [_run_row(each) for each in runs],
        )
    ]
    changed = [
        [key, *(_short(values[name]) if name in values else "-" for name in names)]
        for key, values in comparison.differences.items()
    ]
    if changed:
        count = "1 difference" if len(changed) == 1 else f"{len(changed)} differences"
        sections.append((f"Recipes: {count}", ("key", *names), changed))
    else:
        sections.append(("Recipes", ("The recipes are equal.",), []))
    kinds = dict.fromkeys((metric, name) for each in runs for metric, scores in each.scores.items() for name in scores)
    scored = [
        [metric, condition, *(_score(each.scores.get(metric, {}).get(condition)) for each in runs)]
        for metric, condition in kinds
    ]
    if scored:
        sections.append(("Scores, with 95% intervals and numbers of questions", ("metric", "media", *names), scored))
    return sections


def _run_row(each: Compared) -> Sequence[str]:
    summary, losses = each.summary, each.losses
    steps = f"{summary.step} of {summary.stage}" if summary.stage else "-"
    return each.name, summary.state, steps, _loss(losses["loss"]), _loss(losses["validation_loss"])


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _score(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}], {interval.n}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def _sentences(comparison: Comparison) -> list[str]:
    """The paired tests in words."""
    tested = {test.second for test in comparison.tests}
    base, *others = (each.name for each in comparison.runs)
    lines = [_sentence(test) for test in comparison.tests]
    lines += [
        f"{base} and {name} cannot be compared question by question: they have no answers under the same condition "
        f"(answers.jsonl, which an evaluation writes)."
        for name in others
        if name not in tested
    ]
    if len(tested) > 1:
        lines.append(f"The {len(tested)} p-values are not corrected for the number of comparisons.")
    return lines


def _sentence(test: PairedTest) -> str:
    from omnivit.evaluate.paired import SIGNIFICANT

    paired, (of_first, of_second) = test.paired, test.questions
    if not paired.n:
        none = f"{test.first} and {test.second} have no question in common"
        return f"{none}: the first was asked {of_first}, the second {of_second}."
    if of_first == of_second == paired.n:
        same = f"the same {paired.n} questions"
    else:
        same = f"{paired.n} common questions (of {of_first} and {of_second})"
    difference = paired.difference()
    if paired.p >= SIGNIFICANT:
        verdict = "the difference may be chance"
    else:
        verdict = f"{test.first if difference.mean > 0 else test.second} is better"
    return (
        f"{test.first} and {test.second} on {same}, media: {test.condition}. Both right {paired.both}, only "
        f"{test.first} {paired.first}, only {test.second} {paired.second}, neither {paired.neither}. Difference of the "
        f"accuracies {difference.mean:+.3f} (95% interval {difference.low:+.3f} to {difference.high:+.3f}); "
        f"McNemar's exact test: p = {paired.p:.2g}: {verdict}."
    )


def _write(out: Path, comparison: Comparison) -> None:
    """The page and its picture."""
    from omnivit.files import write_text
    from omnivit.run.compare import draw
    from omnivit.run.markdown import as_code, as_table

    parts = ["# " + " and ".join(as_code(each.name) for each in comparison.runs)]
    for title, header, rows in _sections(comparison):
        values = title.startswith("Recipes")  # texts of a recipe are no markup
        cells = [[as_code(cell) if values or not at else cell for at, cell in enumerate(row)] for row in rows]
        parts += [f"## {title}", as_table(header, *cells, left=len(header)) if rows else header[0]]
    parts += ["## Questions in common", *_sentences(comparison)]
    picture = out.with_suffix(PICTURE)
    if draw(picture, comparison.runs):
        parts += ["## Losses", f"![Losses]({picture.name.replace(' ', '%20')})"]
    write_text(out, "\n\n".join(parts) + "\n")
