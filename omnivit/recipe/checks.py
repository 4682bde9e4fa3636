"""What a recipe must fulfil beyond its types: ranges, allowed words, names that can be folders."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence

from omnivit.recipe.convert import Where, near
from omnivit.recipe.interval import read_interval
from omnivit.recipe.schema import LM, DataSource, Evaluation, Recipe, Schedule, Stage

SCHEDULES = ("cosine", "linear", "constant")
ON_BAD_SAMPLE = ("error", "skip")
CONDITIONS = ("true", "shuffled", "none")
SUPERVISE = ("all", "last")
VALIDATION_LOSS = "validation_loss"
METRICS = ("accuracy", "word_error_rate")
TAKEN = frozenset(
    {"conversations", "history", "id", "max_new_tokens", "messages", "on_text", "path", "paths", "question", "sampling"}
    | {"self", "target", "text", "type", "url"}
)
"""What no input can be called: keys of samples and of their parts, arguments of `Assistant.ask`."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_NAME_RULE = "begins with a letter and holds letters, digits, '_' and '-' only, at most 64"

Problems = Iterator[str]


def problems(recipe: Recipe) -> Problems:
    """One line for everything that is wrong, with its place."""
    root = recipe.where("")
    yield from _model(recipe, root / "model")
    names: dict[str, Where] = {}
    for i, stage in enumerate(recipe.stages):
        where = root / "stages" / i
        yield from _stage(stage, where)
        for loss in stage.losses:
            yield from _one_of((LM, *recipe.model.heads), loss, where / "losses" / loss)
        earlier = names.setdefault(stage.name.casefold(), where / "name")
        if earlier != where / "name":
            yield f"{where / 'name'}: '{stage.name}' is the name of an earlier stage too: {earlier}."
    yield from _data(recipe, root / "data")
    if recipe.evaluation is not None:
        yield from _evaluation(recipe.evaluation, root / "evaluation")
    yield from _interval(recipe.checkpoint_every, root / "checkpoint_every")
    yield from _keep(recipe, root / "keep")
    yield from _at_least(0, recipe.nan_budget, root / "nan_budget")
    yield from _within(0, 2**32 - 1, recipe.seed, root / "seed")


def _model(recipe: Recipe, where: Where) -> Problems:
    blocks = [(recipe.model.llm, where / "llm")]
    for slot, parts in recipe.model.inputs.items():
        here = where / "inputs" / slot
        if not _NAME.fullmatch(slot):
            yield f"{here}: the name of an input {_NAME_RULE}."
        elif slot in TAKEN:
            yield f"{here}: no input can be called '{slot}', which means something else in data files. Try 'my_{slot}'."
        for part, place in [(p, here / k) for k, p in enumerate(parts)] if isinstance(parts, list) else [(parts, here)]:
            blocks += [(part.encoder, place / "encoder"), (part.adapter, place / "adapter")]
        if parts == []:
            yield f"{here}: is empty; an input is an encoder and an adapter, or a list of such."
    for head, block in recipe.model.heads.items():
        here = where / "heads" / head
        if not _NAME.fullmatch(head):
            yield f"{here}: the name of a head {_NAME_RULE}."
        elif head == LM:
            yield f"{here}: no head can be called '{LM}': so `losses` call that of the words of answers."
        blocks.append((block, here))
    for block, here in blocks:
        if "share" not in block and not (isinstance(block.get("name"), str) and block["name"]):
            yield f"{here}: lacks the mandatory key 'name' (the name of a plugin; `omnivit plugins` lists them)."


def _stage(stage: Stage, where: Where) -> Problems:
    if not _NAME.fullmatch(stage.name):
        yield f"{where / 'name'}: '{stage.name}' cannot name a folder: a name {_NAME_RULE}."
    yield from _sources(stage.data, where / "data")
    if not stage.train:
        yield f'{where / "train"}: is empty, so nothing would train. Example: train: {{"adapters.*": 1.0e-3}}.'
    for pattern, rate in stage.train.items():
        yield from _at_least(0, rate, where / "train" / pattern)
    for count in ("epochs", "batch_size", "accumulate"):
        yield from _at_least(1, getattr(stage, count), where / count)
    if stage.steps is not None:
        yield from _at_least(1, stage.steps, where / "steps")
    if stage.accumulate > 0 and stage.batch_size % stage.accumulate:
        yield f"{where / 'batch_size'}: {stage.batch_size} is not divisible by accumulate, {stage.accumulate}."
    yield from _schedule(stage.schedule, where / "schedule")
    yield from _one_of(SUPERVISE, stage.supervise, where / "supervise")
    yield from _at_least(0, stage.weight_decay, where / "weight_decay")
    for i, beta in enumerate(stage.betas):
        if not 0 <= beta < 1:
            yield f"{where / 'betas' / i}: {beta} is not in [0, 1)."
    if all(weight == 0 for weight in stage.losses.values()):
        yield f"{where / 'losses'}: weights nothing. Example: losses: {{lm: 1.0}}."
    for loss, weight in stage.losses.items():
        yield from _at_least(0, weight, where / "losses" / loss)
    if stage.validation is not None:
        yield from _sources(stage.validation.data, where / "validation" / "data")
        yield from _at_least(0, stage.validation.every, where / "validation" / "every")


def _schedule(schedule: Schedule, where: Where) -> Problems:
    yield from _one_of(SCHEDULES, schedule.name, where / "name")
    yield from _at_least(0, schedule.warmup, where / "warmup")
    if schedule.warmup > 1 and schedule.warmup % 1:
        yield f"{where / 'warmup'}: {schedule.warmup} is neither a share (below 1) nor a whole number of steps."
    yield from _within(0, 1, schedule.minimum, where / "minimum")


def _data(recipe: Recipe, where: Where) -> Problems:
    yield from _at_least(1, recipe.data.max_length, where / "max_length")
    yield from _one_of(ON_BAD_SAMPLE, recipe.data.on_bad_sample, where / "on_bad_sample")
    yield from _within(0, 1, recipe.data.skip_budget, where / "skip_budget")
    yield from _at_least(0, recipe.data.workers, where / "workers")


def _evaluation(evaluation: Evaluation, where: Where) -> Problems:
    yield from _sources(evaluation.data, where / "data")
    if not evaluation.conditions:
        yield f"{where / 'conditions'}: is empty. Available: {', '.join(CONDITIONS)}."
    for i, condition in enumerate(evaluation.conditions):
        yield from _one_of(CONDITIONS, condition, where / "conditions" / i)
        if condition in evaluation.conditions[:i]:
            yield f"{where / 'conditions' / i}: '{condition}' is listed twice."
    if evaluation.linear_probe:
        yield from _sources(evaluation.linear_probe, where / "linear_probe")
    yield from _one_of(METRICS, evaluation.metric, where / "metric")
    yield from _at_least(1, evaluation.max_new_tokens, where / "max_new_tokens")
    yield from _at_least(1, evaluation.batch_size, where / "batch_size")


def _sources(sources: Sequence[DataSource], where: Where) -> Problems:
    if not sources:
        yield f"{where}: is empty; name at least one file: [{{path: train.jsonl}}]."
    for i, source in enumerate(sources):
        if not source.path:
            yield f"{where / i / 'path'}: is empty."
        if not (math.isfinite(source.weight) and source.weight > 0):
            yield f"{where / i / 'weight'}: {source.weight} is not a finite number above 0."
        if source.limit is not None:
            yield from _at_least(1, source.limit, where / i / "limit")


def _keep(recipe: Recipe, where: Where) -> Problems:
    yield from _at_least(1, recipe.keep.last, where / "last")
    best = recipe.keep.best
    if best is None:
        return
    if best != VALIDATION_LOSS and not best.startswith(f"{VALIDATION_LOSS}/"):
        yield f"{where / 'best'}: '{best}' is no loss of a validation; say {VALIDATION_LOSS}."
    if all(stage.validation is None for stage in recipe.stages):
        yield f"{where / 'best'}: no stage validates. Say stages.NAME.validation: {{data: [...], every: 100}}."


def _interval(value: int | str, where: Where) -> Problems:
    try:
        read_interval(value)
    except ValueError as error:
        yield f"{where}: {error}"


def _at_least(least: int, value: float, where: Where) -> Problems:
    if not (math.isfinite(value) and value >= least):
        yield f"{where}: {value} is not a finite number of at least {least}."


def _within(least: int, most: int, value: float, where: Where) -> Problems:
    if not least <= value <= most:
        yield f"{where}: {value} is not in [{least}, {most}]."


def _one_of(allowed: Collection[str], value: str, where: Where) -> Problems:
    if value not in allowed:
        yield f"{where}: '{value}' is not allowed{near(value, allowed)} Allowed: {', '.join(allowed)}."
