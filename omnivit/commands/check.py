"""`omnivit check`: validate a recipe without loading weights, and describe what training it will do."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.commands.check_time import time_table
from omnivit.console import reserved
from omnivit.errors import RecipeError
from omnivit.run.trust import add_trust_argument

if TYPE_CHECKING:
    from omnivit.recipe import Recipe, Stage
    from omnivit.run.check import StageSummary, Summary
    from omnivit.run.trial import Part


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("recipe", nargs="?", type=Path, help="a recipe (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides")
    parser.add_argument("--without-data", action="store_true", help="do not read the data files")
    parser.add_argument(
        "--all",
        action="store_true",
        help="open all media; default: those of 16 records of each file",
    )
    parser.add_argument(
        "--time",
        action="store_true",
        help="estimate the time of the run: load the model, train two steps of each stage",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Check and describe."""
    if args.recipe is None:
        raise RecipeError("No recipe is given. Usage: omnivit check RECIPE [key=value ...].")
    from omnivit.run.verbs import check_recipe

    if args.time and args.without_data:
        raise RecipeError("--time trains on real data. Remove --without-data.")
    with reserved():
        summary = check_recipe(
            args.recipe, args.overrides, with_data=not args.without_data, all_media=args.all, trust=args.trust
        )
        recipe = summary.recipe
        times = _timed(recipe) if args.time else []
    if args.json:
        print(json.dumps(_as_record(args.recipe, recipe, summary, times), indent=1, ensure_ascii=False))
        return 0
    print(f"{args.recipe}: ok\n")
    print("\n".join(_components(recipe, summary)))
    print(summary.precision)
    for stage, checked in zip(recipe.stages, summary.stages, strict=True):
        print("\n" + "\n".join(_stage(stage, checked, summary)))
    if summary.asked:
        print(f"\nevaluation: {summary.asked} questions. {_overlap(summary)}")
    if times:
        print("\n" + "\n".join(time_table(times)))
    return 0


def _timed(recipe: Recipe) -> list[Part]:
    """The estimated times on this machine."""
    from omnivit.console import quieten_lightning
    from omnivit.run.trial import time_run

    quieten_lightning()
    return time_run(recipe)


def _as_record(path: Path, recipe: Recipe, summary: Summary, times: Sequence[Part]) -> dict[str, Any]:
    """What `--json` prints."""
    from omnivit.run.check import count, memory

    model = summary.model
    parts = {"llm": count(model.llm)}
    for kind, group in (("encoders", model.encoders), ("adapters", model.adapters)):
        parts |= {f"{kind}.{slot}": count(part) for slot, part in group.items()}
    parts |= {f"heads.{name}": count(head) for name, head in model.named_heads()}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    stages = [
        {
            "name": stage.name,
            "trained_parameters": sum(sizes[name] for name in checked.rates),
            "steps": checked.steps,
            "samples": checked.samples,
            "opened": checked.opened,
            "longest": checked.longest,
            "supervised": checked.supervised,
            "refused": checked.refused,
            "memory_bytes": memory(model, checked, stage.batch_size // stage.accumulate),
        }
        for stage, checked in zip(recipe.stages, summary.stages, strict=True)
    ]
    overlap = {"overlap": summary.overlap.record()} if summary.overlap is not None else {}
    return {
        "recipe": str(path),
        "parameters": parts,
        "tokens": summary.rows,
        "precision": summary.precision,
        "stages": stages,
        "evaluation": {"questions": summary.asked, **overlap},
        "times": [{**asdict(part), "seconds": part.seconds} for part in times],
    }


def _components(recipe: Recipe, summary: Summary) -> list[str]:
    from omnivit.model.blueprint import branches_of
    from omnivit.run.check import count

    model = summary.model
    lines = [f"llm       {recipe.model.llm['name']:<10} {_number(count(model.llm)):>9} parameters"]
    for slot in recipe.model.inputs:
        rows = f"{summary.rows[slot]} tokens per medium" if slot in summary.rows else "no medium was opened"
        for (_, block), branch in zip(branches_of(recipe, slot), model.branches(slot), strict=True):
            for kind, named, part in zip(("encoder", "adapter"), (block.encoder, block.adapter), branch, strict=True):
                name = named.get("name") or f"shared with {named['share']}"
                lines.append(f"{kind}   {slot}: {name:<10} {_number(count(part)):>9} parameters")
        lines[-1] += f", {rows}"
    for name, head in model.named_heads():
        plugin = recipe.model.heads[name]["name"]
        lines.append(f"head      {name}: {plugin:<10} {_number(count(head)):>9} parameters, at {head.token}")
    return lines


def _stage(stage: Stage, checked: StageSummary, summary: Summary) -> list[str]:
    from omnivit.run.check import memory

    sizes = {name: p.numel() for name, p in summary.model.named_parameters()}
    by_lr: Counter[float] = Counter()
    for name, lr in checked.rates.items():
        by_lr[lr] += sizes[name]
    trains = ", ".join(f"{_number(n)} parameters at lr {lr:g}" for lr, n in sorted(by_lr.items(), reverse=True))
    lines = [f"stage {stage.name}: trains {trains} ({', '.join(stage.train)})"]
    if checked.steps is not None and checked.longest is not None and checked.supervised is not None:
        lines.append(
            f"  {checked.steps} steps of {stage.batch_size} over {checked.samples} samples; all records were read, the "
            f"media of {checked.opened} opened: longest {checked.longest} tokens, {checked.supervised:.0%} of tokens "
            "supervised"
        )
    if checked.question:
        lines.append(f"  asks, for example: {checked.question!r}")
    if stage.validation is not None:
        every = stage.validation.every
        often = f"every {every} steps and " if every and (checked.steps is None or every < checked.steps) else ""
        lines.append(f"  validates {often}at its end")
    if checked.refused:
        lines.append(f"  {len(checked.refused)} records are bad, training skips them: {checked.refused[0]}")
    parts = memory(summary.model, checked, stage.batch_size // stage.accumulate)
    detail = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items())
    return [*lines, f"  memory on one device, estimated: {_bytes(sum(parts.values()))} ({detail})"]


def _overlap(summary: Summary) -> str:
    return "" if summary.overlap is None else " ".join(summary.overlap.sentences())


def _number(value: int) -> str:
    return f"{value / 1e9:.2f}B" if value >= 1e9 else f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value:,}"


def _bytes(value: float) -> str:
    return f"{value / 2**30:.1f} GB" if value >= 2**30 else f"{value / 2**20:.0f} MB"
