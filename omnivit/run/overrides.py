"""What may be set when a run is opened (`--set KEY=VALUE`): where things are, how it computes, what it is asked.

What would make another model of a trained run is refused, and so is what has no effect: nobody should believe in a
setting that does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omnivit.contracts.blocks import blocks_of
from omnivit.errors import CheckpointError, RecipeError
from omnivit.recipe import Recipe, load
from omnivit.recipe.convert import MISSING, Keys, Where
from omnivit.recipe.identity import content
from omnivit.recipe.yaml_tree import read
from omnivit.run.provenance import Change, differences

OPENING = re.compile(
    r"(data\.(root|on_bad_sample|skip_budget|privacy)|evaluation|keep|stages\[\d+\]\.(data|validation))(?![a-z_])"
)
"""Where the data of a run are, which samples are refused, what it is asked, and which checkpoint is `best`."""
PLACES = re.compile(r"model\.(.+\.)?(path|tokenizer)")
"""Where weights and tokenizers are; the weights behind a new path are compared (`omnivit.run.same_weights`)."""
PRECISION = re.compile(r"model\.(.+\.)?(dtype|attention|quantize)")
"""How the same weights compute; answers may differ in the last digits."""
WITHOUT_EFFECT = re.compile(
    r"(data\.(workers|relative_root)|trainer|checkpoint_every|nan_budget|stages\[\d+\]\.(steps|epochs|batch_size"
    r"|accumulate|schedule|weight_decay|betas|optimizer|ema|batching|losses|train|group_by_length))(?![a-z_])"
)
"""Only training reads it."""
KEYS = (
    "data.root, data.on_bad_sample, data.skip_budget, data.privacy, evaluation, keep, the `data` and `validation` of "
    "stages; in the model: `path`, `tokenizer`, `dtype`, `attention` and `quantize`"
)


def changes_of(before: Recipe, after: Recipe) -> list[Change]:
    """How two recipes differ: `model.llm.path: was ..., is ...`."""
    return list(differences(content(before), content(after), ""))


def load_opened(file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a run that is used, with what its user sets.

    Args:
        file: RUN/recipe.yaml.
        overrides: `key.path=value`, as of a recipe.

    Raises:
        RecipeError: the recipe or an override cannot be read, or the override would change the trained model, or
            nothing.
    """
    if not overrides:
        return load(file)
    recipe = load(file, overrides)
    before = load(file, _filling(file, overrides))
    refused = [_refusal(change) for change in changes_of(before, recipe) if not _allowed(change.path)]
    if refused:
        raise RecipeError("\n".join([*refused, f"When a run is opened, these can be set: {KEYS}."]))
    return recipe


def require_places(recipe: Recipe) -> None:
    """Refuse a model whose weights or tokenizers are no longer where the recipe says, before any is read.

    Raises:
        CheckpointError: names the key, the file, and what to write.
    """
    for block in blocks_of(recipe):
        for key in ("path", "tokenizer"):
            value = block.options.get(key)
            if isinstance(value, str) and Path(value).is_absolute() and not Path(value).exists():
                place = block.where / key
                raise CheckpointError(
                    f"{place}: there is no file or folder {value}. If it was moved, give its new place: "
                    f"`--set {place.path}=NEW`."
                )


def _filling(file: Path, overrides: Sequence[str]) -> list[str]:
    """The overrides of values that a recipe leaves to its user (`???`), as that of a pack does: it has none before."""
    unset = {Where(keys).path for keys in _leaves(read(file).plain()) if keys[-1:] == (MISSING,)}
    return [text for text in overrides if (Where.of(text.partition("=")[0]) / MISSING).path in unset]


def _leaves(value: Any, keys: Keys = ()) -> Iterator[Keys]:
    """The way to each scalar of plain values, with the scalar as its end."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _leaves(entry, (*keys, key))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _leaves(entry, (*keys, number))
    else:
        yield (*keys, value)


def _allowed(path: str) -> bool:
    return any(rule.match(path) if rule is OPENING else rule.fullmatch(path) for rule in (OPENING, PLACES, PRECISION))


def _refusal(change: Change) -> str:
    if WITHOUT_EFFECT.match(change.path):
        return f"--set {change.path}: only training reads this key, so it has no effect on a trained run. Remove it."
    return (
        f"--set {change}. This would make another model than the one that was trained. Train a new run with it: "
        "`omnivit train RUN/recipe.yaml KEY=VALUE`."
    )
