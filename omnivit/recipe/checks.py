"""Checks of a recipe beyond the types and ranges of `schema`: names, and keys that depend on each other."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import get_args

from omnivit.recipe.convert import Where, near
from omnivit.recipe.interval import read_interval
from omnivit.recipe.schema import LM, Condition, DataSource, Evaluation, InitFrom, Recipe, Stage

VALIDATION_LOSS = "validation_loss"
TAKEN = frozenset(
    {"conversations", "history", "id", "max_new_tokens", "messages", "on_text", "path", "paths", "question", "sampling"}
    | {"prompt", "self", "target", "text", "type", "url"}
)
"""Names that no input can have: keys of samples and of their parts, arguments of `Assistant.ask`."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_NAME_RULE = "begins with a letter and contains only letters, digits, '_' and '-', at most 64"

Problems = Iterator[str]


def problems(recipe: Recipe) -> Problems:
    """One line for each problem, with its place."""
    root = recipe.where("")
    yield from _model(recipe, root / "model")
    for i, source in enumerate(recipe.init_from):
        yield from _init_from(source, root / "init_from" / i)
    names: dict[str, Where] = {}
    for i, stage in enumerate(recipe.stages):
        where = root / "stages" / i
        yield from _stage(stage, where)
        for loss in stage.losses:
            yield from _one_of((LM, *recipe.model.heads), loss, where / "losses" / loss)
        earlier = names.setdefault(stage.name.casefold(), where / "name")
        if earlier != where / "name":
            yield f"{where / 'name'}: '{stage.name}' is also the name of an earlier stage: {earlier}."
    if recipe.evaluation is not None:
        yield from _evaluation(recipe.evaluation, root / "evaluation")
    yield from _interval(recipe.checkpoint_every, root / "checkpoint_every")
    yield from _keep(recipe, root / "keep")


def _model(recipe: Recipe, where: Where) -> Problems:
    blocks = [(recipe.model.llm, where / "llm")]
    for slot, parts in recipe.model.inputs.items():
        here = where / "inputs" / slot
        if not _NAME.fullmatch(slot):
            yield f"{here}: the name of an input {_NAME_RULE}."
        elif slot in TAKEN:
            yield f"{here}: an input cannot have the name '{slot}', which has another meaning in data files. Try "
            f"'my_{slot}'."
        for part, place in [(p, here / k) for k, p in enumerate(parts)] if isinstance(parts, list) else [(parts, here)]:
            blocks += [(part.encoder, place / "encoder"), (part.adapter, place / "adapter")]
        if isinstance(parts, list) and len({part.combine for part in parts}) > 1:
            yield f"{here}: the branches of an input need the same `combine`, because they have the same media."
        if parts == []:
            yield f"{here}: is empty; expected an encoder and an adapter, or a list of such pairs."
    for head, block in recipe.model.heads.items():
        here = where / "heads" / head
        if not _NAME.fullmatch(head):
            yield f"{here}: the name of a head {_NAME_RULE}."
        elif head == LM:
            yield f"{here}: a head cannot have the name '{LM}', which is the language-modelling loss in `losses`."
        blocks.append((block, here))
    for block, here in blocks:
        if "share" not in block and not (isinstance(block.get("name"), str) and block["name"]):
            yield f"{here}: the mandatory key 'name' is missing (the name of a plugin; `omnivit plugins` lists them)."


def _stage(stage: Stage, where: Where) -> Problems:
    if not _NAME.fullmatch(stage.name):
        yield f"{where / 'name'}: '{stage.name}' cannot name a folder: a name {_NAME_RULE}."
    yield from _sources(stage.data, where / "data")
    if not stage.train:
        yield f'{where / "train"}: is empty, so nothing would train. Example: train: {{"adapters.*": 1.0e-3}}.'
    if stage.accumulate > 0 and stage.batch_size % stage.accumulate:
        yield f"{where / 'batch_size'}: {stage.batch_size} is not divisible by accumulate, {stage.accumulate}."
    warmup = stage.schedule.warmup
    if warmup > 1 and warmup % 1:
        here = where / "schedule" / "warmup"
        yield f"{here}: {warmup} is neither a fraction (below 1) nor an integer number of steps."
    if all(weight == 0 for weight in stage.losses.values()):
        yield f"{where / 'losses'}: no loss has a weight above 0. Example: losses: {{lm: 1.0}}."
    if stage.validation is not None:
        yield from _sources(stage.validation.data, where / "validation" / "data")


def _init_from(source: InitFrom, where: Where) -> Problems:
    kinds = {"run": source.run, "file": source.file, "lora": source.lora}
    given = [kind for kind, place in kinds.items() if place is not None]
    if len(given) != 1:
        yield f"{where}: expected exactly one of run, file and lora; given: {', '.join(given) or 'none'}."
        return
    if not kinds[given[0]]:
        yield f"{where / given[0]}: is empty."
    if source.checkpoint is not None and given != ["run"]:
        yield f"{where / 'checkpoint'}: only a `run` has checkpoints. Remove it."
    if source.merge and given == ["file"]:
        yield f"{where / 'merge'}: only the LoRA of a `run` or `lora` can be merged. Remove it."
    if source.tokens and given != ["file"]:
        yield f"{where / 'tokens'}: is for a `file`. Rows of a run are found by the texts of its tokens. Remove it."


def _evaluation(evaluation: Evaluation, where: Where) -> Problems:
    yield from _sources(evaluation.data, where / "data")
    if not evaluation.conditions:
        yield f"{where / 'conditions'}: is empty. Available: {', '.join(get_args(Condition))}."
    for i, condition in enumerate(evaluation.conditions):
        if condition in evaluation.conditions[:i]:
            yield f"{where / 'conditions' / i}: '{condition}' is listed twice."
    if evaluation.linear_probe:
        yield from _sources(evaluation.linear_probe, where / "linear_probe")


def _sources(sources: Sequence[DataSource], where: Where) -> Problems:
    if not sources:
        yield f"{where}: is empty; expected at least one file: [{{path: train.jsonl}}]."
    for i, source in enumerate(sources):
        if not source.path:
            yield f"{where / i / 'path'}: is empty."


def _keep(recipe: Recipe, where: Where) -> Problems:
    best = recipe.keep.best
    if best is None:
        return
    if best != VALIDATION_LOSS and not best.startswith(f"{VALIDATION_LOSS}/"):
        yield f"{where / 'best'}: '{best}' is not a validation loss; write {VALIDATION_LOSS}."
    if all(stage.validation is None for stage in recipe.stages):
        yield f"{where / 'best'}: no stage has a validation. Add stages.NAME.validation: {{data: [...], every: 100}}."


def _interval(value: int | str, where: Where) -> Problems:
    try:
        read_interval(value)
    except ValueError as error:
        yield f"{where}: {error}"


def _one_of(allowed: Collection[str], value: str, where: Where) -> Problems:
    if value not in allowed:
        yield f"{where}: '{value}' is not allowed{near(value, allowed)} Allowed: {', '.join(allowed)}."
