"""The sources of `init_from`, in order: what is taken of each, and under which names.

A source has tensors under names of its own. They are renamed, chosen by `parts`, and taken into a `Start` in order. For
a check, names and shapes are read alone; the tensors are then on the meta device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from omnivit.errors import RecipeError
from omnivit.model.lora import ADAPTER
from omnivit.model.start import LORA, NEW_TOKENS, Demand, Merge, Origin, Start, matches, plain
from omnivit.recipe import InitFrom, Recipe
from omnivit.recipe.convert import Where
from omnivit.run.start_peft import open_peft
from omnivit.run.start_run import open_run
from omnivit.run.start_source import Source, open_file


def open_sources(recipe: Recipe, read: bool = True) -> Start:
    """Read what `init_from` names.

    Args:
        recipe: the recipe.
        read: False: names and shapes alone.

    Raises:
        RecipeError: a source does not exist, cannot be read, or does not contain what is asked of it.
        CheckpointError: a run has no such checkpoint, or it is damaged.
    """
    start = Start()
    for number, entry in enumerate(recipe.init_from):
        where = recipe.where(f"init_from[{number}]")
        if entry.run is not None:
            source = open_run(entry, recipe, where, read)
        elif entry.file is not None:
            source = open_file(entry.file, where, read)
        else:
            source = open_peft(str(entry.lora), where, read)
        _take(start, source, entry, where)
        start.sources.append({"where": where.path, **source.record})
    return start


def _take(start: Start, source: Source, entry: InitFrom, where: Where) -> None:
    """Add what is chosen of a source."""
    into = source.prefix if entry.into is None else entry.into
    chosen: dict[str, Tensor] = {}
    origins: dict[str, Origin] = {}
    for theirs, value in source.tensors.items():
        name = _here(theirs, entry.rename, into)
        if name is not None and (not entry.parts or matches(name, entry.parts)):
            if name in chosen:
                raise RecipeError(f"{where / 'rename'}: both {origins[name].name!r} and {theirs!r} become {name!r}.")
            chosen[name] = value
            origins[name] = Origin(str(where), source.title, theirs)
    merges = [merge for merge in _chosen_merges(source, entry, into) if f"{merge.layer}.weight" not in chosen]
    origins |= {merge.layer: Origin(str(where), source.title, _lora_name(merge.layer)) for merge in merges}
    covered = frozenset(chosen) | {f"{merge.layer}.weight" for merge in merges}
    _check_patterns(source, entry, covered | {_lora_name(merge.layer) for merge in merges}, where)
    _take_rows(start, source, chosen, origins, _Rows(entry.tokens, where))
    if entry.merge:
        merges += _lora_as_merges(source, chosen, origins, where)
    layers = {name.partition(LORA)[0] for name in chosen if LORA in name}
    scaling = (
        {} if source.scaling is None else {layer: source.scaling(_source_path(layer, origins)) for layer in layers}
    )
    start.add(chosen, merges, scaling, origins)
    patterns = tuple(entry.parts) or ((f"{into}.*",) if entry.into else ())
    if patterns and entry.lora is None:
        start.demands.append(Demand(str(where), source.title, patterns, covered, source.elsewhere))


def _chosen_merges(source: Source, entry: InitFrom, into: str) -> Iterator[Merge]:
    """LoRA that is part of the source's weights already: with the weights, and with LoRA that was trained upon them."""
    for merge in source.merges:
        weight = _here(f"{merge.layer}.weight", entry.rename, into)
        if weight is not None:
            layer = weight.removesuffix(".weight")
            if not entry.parts or matches(weight, entry.parts) or matches(_lora_name(layer), entry.parts):
                yield replace(merge, layer=layer)


def _lora_name(layer: str) -> str:
    return f"{layer}.lora_A.{ADAPTER}.weight"


def _source_path(layer: str, origins: Mapping[str, Origin]) -> str:
    """The path of a layer in its source."""
    name = next(name for name in origins if name.startswith(f"{layer}{LORA}"))
    return origins[name].name.partition(LORA)[0]


def _here(theirs: str, rename: Mapping[str, str], into: str) -> str | None:
    """The name of a tensor in this recipe; None where `rename` leaves it out."""
    name = plain(theirs)
    if rename:
        before = next((before for before in rename if name.startswith(before)), None)
        if before is None:
            return None
        name = rename[before] + name.removeprefix(before)
    return f"{into}.{name}" if into else name


def _check_patterns(source: Source, entry: InitFrom, names: Collection[str], where: Where) -> None:
    """Refuse a part that matches nothing, and a source of which nothing is taken."""
    available = sorted({".".join(name.split(".")[:2]) + ".*" for name in map(plain, source.tensors)})
    listed = (
        f"{source.title} contains {', '.join(available[:8]) or 'no tensors'}{', ...' if len(available) > 8 else ''}"
    )
    for number, pattern in enumerate(entry.parts):
        if not any(matches(name, [pattern]) for name in names):
            raise RecipeError(f"{where / 'parts' / number}: {pattern!r} matches nothing: {listed}.")
    if not names:
        raise RecipeError(f"{where}: nothing is taken: {listed}.")


@dataclass(frozen=True)
class _Rows:
    """Which rows of a file's tables the new tokens have, as the recipe says it."""

    numbers: Mapping[str, int]
    where: Where

    def of(self, source: Source, tables: Mapping[str, Tensor]) -> Mapping[str, int]:
        """New token -> its row. Raises RecipeError where the recipe does not say it, or the tables have no such row."""
        if source.texts is not None:
            return {text: number for number, text in enumerate(source.texts())} if tables else {}
        where = self.where / "tokens"
        if self.numbers and not tables:
            raise RecipeError(
                f"{where}: {source.title} contains no table of tokens among what is taken. Say with `rename` which "
                f"tensor is `{NEW_TOKENS}embedding`."
            )
        if tables and not self.numbers:
            raise RecipeError(
                f"{where}: is missing: {source.title} contains a table of tokens ({NEW_TOKENS}{next(iter(tables))}), "
                f"but not which row is which token's. Write `tokens: {{TOKEN: ROW}}`, or leave the table out."
            )
        for text, number in self.numbers.items():
            short = next((table for table in tables.values() if not 0 <= number < len(table)), None)
            if short is not None:
                raise RecipeError(
                    f"{where / text}: is row {number}, but the table of {source.title} has {len(short)} rows."
                )
        return self.numbers


def _take_rows(
    start: Start, source: Source, chosen: dict[str, Tensor], origins: dict[str, Origin], rows: _Rows
) -> None:
    """Take rows of new tokens out of the tensors; they go by the texts of the tokens."""
    tables = {name.removeprefix(NEW_TOKENS): chosen.pop(name) for name in [*chosen] if name.startswith(NEW_TOKENS)}
    for text, number in rows.of(source, tables).items():
        start.rows[text] = {kind: table[number] for kind, table in tables.items()}
        origins[text] = origins[f"{NEW_TOKENS}{next(iter(tables))}"]


def _lora_as_merges(source: Source, chosen: dict[str, Tensor], origins: dict[str, Origin], where: Where) -> list[Merge]:
    """Take LoRA out of the tensors, to be merged."""
    names = [name for name in chosen if LORA in name]
    if not names:
        raise RecipeError(f"{where / 'merge'}: {source.title} contains no LoRA among what is taken. Remove `merge`.")
    if other := [name for name in names if ".lora_A." not in name and ".lora_B." not in name]:
        raise RecipeError(f"{where / 'merge'}: {source.title} contains DoRA ({other[0]}), which cannot be merged.")
    assert source.scaling is not None
    merges = []
    for layer in dict.fromkeys(name.partition(LORA)[0] for name in names):
        scaling = source.scaling(_source_path(layer, origins))
        a, b = (chosen.pop(f"{layer}.lora_{kind}.{ADAPTER}.weight", None) for kind in "AB")
        if a is None or b is None:
            raise RecipeError(f"{where}: {source.title} contains one half of the LoRA of {layer} alone.")
        merges.append(Merge(layer, a, b, scaling))
        origins[layer] = origins[_lora_name(layer)]
    return merges
