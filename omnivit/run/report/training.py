"""The part of a report about training: what trained, losses, times, sources, cost, and what was skipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from omnivit.data.privacy import without_root
from omnivit.recipe import Recipe
from omnivit.run.markdown import as_code, as_list, as_table, duration
from omnivit.run.report.facts import Facts

if TYPE_CHECKING:
    from omnivit.train.stages import StageResult
    from omnivit.train.tally import Tally

ENDS = 10
"""Steps at the beginning and at the end of a stage whose losses are averaged for the table."""
VALIDATION = "validation_loss"
Curve = Sequence[tuple[int, float]]
Curves = Mapping[str, Curve]
"""Stage -> (step, loss)."""


def end_losses(curve: Curve) -> tuple[float | None, float | None]:
    """Mean loss over the first and over the last steps that have a finite one: `ENDS` of them, or a quarter of a short
    stage."""
    losses = [loss for _, loss in curve if math.isfinite(loss)]
    if not losses:
        return None, None
    count = max(1, min(ENDS, len(losses) // 4))
    return sum(losses[:count]) / count, sum(losses[-count:]) / count


def validation_curve(stage: StageResult) -> list[tuple[int, float]]:
    """(step, validation loss) of a stage."""
    return [(past.step, past.losses[VALIDATION]) for past in stage.validations if VALIDATION in past.losses]


def stage_record(stage: StageResult, curve: Curve, paths: Sequence[str]) -> dict[str, Any]:
    """A stage in report.json.

    Args:
        stage: what it did.
        curve: its losses.
        paths: of its data sources.
    """
    record = {"name": stage.name, "steps": stage.steps, "samples": stage.samples, "seconds": round(stage.seconds, 3)}
    first, last = end_losses(curve)
    record |= {"first_loss": first, "last_loss": last}
    if validated := validation_curve(stage):
        record["validation_loss"] = [list(point) for point in validated]
    record |= {"skipped": len(stage.skipped), "skipped_samples": stage.skipped}
    record |= {"skipped_steps": [asdict(skipped) for skipped in stage.not_finite]}
    tally = stage.tally
    if not tally.tokens:
        return record
    record |= {"tokens": tally.tokens, "tokens_per_second": round(_speed(stage), 1)}
    record |= {"waiting": tally.share_waited, "devices": tally.devices, "device": tally.kind}
    record["media"] = {slot: {"count": count, "seconds": seconds} for slot, (count, seconds) in tally.media.items()}
    record["slowest_media"] = [asdict(medium) for medium in tally.slowest]
    record["sources"] = [
        {"path": path, "samples": source.samples, "targets": source.targets}
        | ({"loss": source.mean} if len(paths) > 1 else {})
        for path, source in zip(paths, tally.sources, strict=False)
    ]
    return record


def cost_record(stages: Sequence[StageResult], facts: Facts) -> dict[str, Any]:
    """`cost` of report.json; hours of devices count those of all ranks."""
    record = {"evaluation_seconds": round(facts.evaluation_seconds, 3), "cpu_seconds": round(facts.cpu_seconds, 1)}
    return record | ({"gpu_hours": round(hours, 4)} if (hours := _gpu_hours(stages)) else {})


def training_part(
    stages: Sequence[StageResult], curves: Curves, peak_memory_mb: float, facts: Facts | None
) -> list[str]:
    """Paragraphs and tables of report.md, without the picture of the losses."""
    seconds = sum(stage.seconds for stage in stages)
    device = f", {facts.device}" if facts is not None else ""
    parts = [
        "## Training",
        f"{duration(seconds)} in all, peak memory {peak_memory_mb:,.0f} MB{device}.{_cost(stages, facts)}",
    ]
    validated = any(validation_curve(stage) for stage in stages)
    header = [
        "stage",
        "steps",
        "samples",
        "time",
        "loss at first",
        "at last",
        *["validation loss"] * validated,
        "skipped",
    ]
    parts.append(as_table(header, *(_stage_row(stage, curves.get(stage.name, ()), validated) for stage in stages)))
    note = f"The loss is the mean over the first and the last steps of a stage, up to {ENDS}."
    parts.append(note + (" The validation loss is the last one." if validated else ""))
    return parts


def detail_part(recipe: Recipe, stages: Sequence[StageResult], facts: Facts | None) -> list[str]:
    """What stands below the picture of the losses: what trained, the sources, where the time went, what was skipped."""
    parts = _recipe_part(recipe)
    parts += _components_part(facts) if facts is not None else []
    parts += _sources_part(recipe, stages) + _time_part(stages)
    reasons = list(dict.fromkeys(reason for stage in stages for reason in stage.skipped))
    parts += as_list(reasons, "Samples skipped in training")
    return parts + as_list(_steps_skipped(stages), "Steps skipped, because their loss or gradient was not finite")


def without_root_in(stage: StageResult, root: str) -> StageResult:
    """A stage whose samples are named without the folder of the data: the report may be opened elsewhere."""
    slowest = [replace(medium, sample=without_root(medium.sample, root)) for medium in stage.tally.slowest]
    not_finite = [
        replace(skipped, samples=tuple(without_root(name, root) for name in skipped.samples))
        for skipped in stage.not_finite
    ]
    return replace(stage, not_finite=not_finite, tally=replace(stage.tally, slowest=slowest))


def _stage_row(stage: StageResult, curve: Curve, validated: bool) -> tuple[str, ...]:
    losses = ["" if loss is None else f"{loss:.3f}" for loss in end_losses(curve)]
    last = validation_curve(stage)[-1:]
    losses += [f"{last[0][1]:.3f}" if last else ""] * validated
    steps, samples = f"{stage.steps:,}", f"{stage.samples:,}"
    return stage.name, steps, samples, duration(stage.seconds), *losses, str(len(stage.skipped))


def _recipe_part(recipe: Recipe) -> list[str]:
    """Model and stages in two tables."""
    rows = [("llm", _named(recipe.model.llm))]
    for slot, inputs in recipe.model.inputs.items():
        for branch in inputs if isinstance(inputs, list) else [inputs]:
            rows.append((f"input {slot}", f"{_named(branch.encoder)}, then {_named(branch.adapter)}"))
    rows += [(f"head {name}", _named(head)) for name, head in recipe.model.heads.items()]
    stages = [
        (
            stage.name,
            ", ".join(as_code(source.path) for source in stage.data),
            ", ".join(f"{as_code(pattern)} at {lr:g}" for pattern, lr in stage.train.items()),
            str(stage.batch_size),
        )
        for stage in recipe.stages
    ]
    parts = ["### The recipe in short", as_table(("part", "what"), *rows, left=2)]
    return (
        [*parts, as_table(("stage", "data", "trains, at learning rate", "batch"), *stages, left=3)] if stages else parts
    )


def _named(block: Mapping[str, Any]) -> str:
    """The plugin of a block, with the weights that it reads."""
    name = str(block.get("name") or f"shared with {block.get('share')}")
    weights = block.get("path") or block.get("model")
    if weights:
        return f"{as_code(name)} ({as_code(str(weights))})"
    config = block.get("config")
    kind = config.get("model_type") if isinstance(config, Mapping) else None
    return f"{as_code(name)} ({as_code(str(kind))} with random weights)" if kind else as_code(name)


def _components_part(facts: Facts) -> list[str]:
    stages = list(facts.components[0].trained) if facts.components else []
    rows = [
        (part.name, f"{part.parameters:,}", *(f"{part.trained[stage]:,}" for stage in stages))
        for part in facts.components
    ]
    total = sum(part.parameters for part in facts.components)
    sums = [sum(part.trained[stage] for part in facts.components) for stage in stages]
    rows.append(("all", f"{total:,}", *(f"{count:,} ({count / max(1, total):.2%})" for count in sums)))
    header = ("component", "parameters", *(f"trained in {stage}" for stage in stages))
    return ["### Parameters", as_table(header, *rows)]


def _sources_part(recipe: Recipe, stages: Sequence[StageResult]) -> list[str]:
    """A row for each data source of the stages that have several."""
    paths = {stage.name: [source.path for source in stage.data] for stage in recipe.stages}
    rows = [
        (stage.name, as_code(path), f"{source.samples:,}", f"{source.targets:,}",
         "" if source.mean is None else f"{source.mean:.3f}")
        for stage in stages
        if len(paths.get(stage.name, ())) > 1
        for path, source in zip(paths[stage.name], stage.tally.sources, strict=False)
    ]  # fmt: skip
    if not rows:
        return []
    header = ("stage", "file", "samples shown", "answer tokens", "mean loss")
    return ["### Data sources", as_table(header, *rows, left=2)]


def _time_part(stages: Sequence[StageResult]) -> list[str]:
    rows = [
        (
            stage.name,
            f"{_speed(stage):,.0f}",
            "" if stage.tally.share_waited is None else f"{stage.tally.share_waited:.1%}",
            _media(stage.tally),
        )
        for stage in stages
        if stage.tally.tokens
    ]
    if not rows:
        return []
    header = ("stage", "tokens a second", "waiting for data", "loading of media, each")
    parts = ["### Where the time went", as_table(header, *rows)]
    slow = sorted((each for stage in stages for each in stage.tally.slowest), key=lambda medium: -medium.seconds)[:3]
    if slow:
        named = "; ".join(f"{medium.sample}, {medium.slot}, {1000 * medium.seconds:,.0f} ms" for medium in slow)
        parts.append(f"The slowest media: {named}.")
    return parts


def _media(tally: Tally) -> str:
    return ", ".join(
        f"{slot} {1000 * seconds / count:,.1f} ms" for slot, (count, seconds) in tally.media.items() if count
    )


def _speed(stage: StageResult) -> float:
    """Tokens a second while the stage trained, with all waiting; validation and checkpoints included."""
    return stage.tally.tokens / max(stage.seconds, 1e-9)


def _gpu_hours(stages: Sequence[StageResult]) -> float:
    return sum(stage.seconds * stage.tally.devices for stage in stages if stage.tally.kind != "cpu") / 3600


def _cost(stages: Sequence[StageResult], facts: Facts | None) -> str:
    if facts is None:
        return ""
    texts = [f" The evaluation took {duration(facts.evaluation_seconds)}."] if facts.evaluation_seconds else []
    if hours := _gpu_hours(stages):
        texts.append(f" Training used {hours:.2f} GPU hours.")
    texts.append(f" This process and its loaders used {duration(facts.cpu_seconds)} of CPU time.")
    return "".join(texts)


def _steps_skipped(stages: Sequence[StageResult]) -> list[str]:
    return [
        f"stage {stage.name}, step {skipped.step}: {skipped.what}; samples {', '.join(skipped.samples)}"
        for stage in stages
        for skipped in stage.not_finite
    ]
