"""The sources of `init_from`: runs, files of weights, and LoRA that peft has saved.

A source has tensors under names of its own. They are renamed, chosen by `parts`, and taken into a `Start` in order. For
a check, names and shapes are read alone; the tensors are then on the meta device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivit.data.digest import file_sha256
from omnivit.errors import CheckpointError, RecipeError
from omnivit.model.blueprint import ModelBlueprint
from omnivit.model.build import complete
from omnivit.model.lora import ADAPTER, Lora
from omnivit.model.start import LORA, NEW_TOKENS, Demand, Merge, Origin, Start, matches, plain, texts_of
from omnivit.model.weight_file import WeightFile
from omnivit.model.weights import locate
from omnivit.recipe import InitFrom, Recipe, load
from omnivit.recipe.convert import Where, convert
from omnivit.run.folder import RECIPE
from omnivit.run.start_file import START, read_start
from omnivit.run.trust import require as require_trust
from omnivit.train.checkpoint import CHECKPOINTS, WEIGHTS, Checkpoint
from omnivit.train.keep import read_named
from omnivit.train.manifest import digests

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
PEFT_PREFIX = "base_model.model."
UNSUPPORTED = {"rank_pattern": {}, "alpha_pattern": {}, "bias": "none", "use_dora": False, "use_rslora": False}
"""Settings of a LoRA that peft has saved, with their values that are understood."""


@dataclass
class Source:
    """The tensors of a source, under its own names."""

    title: str
    """For errors: `run runs/a`."""
    tensors: dict[str, Tensor]
    record: dict[str, Any] = field(default_factory=dict)
    """For the record of the run that begins with it."""
    scaling: Callable[[str], float] | None = None
    """Path of a layer -> alpha / r of its LoRA."""
    merges: list[Merge] = field(default_factory=list)
    """LoRA that is part of its weights already."""
    texts: Callable[[], list[str]] | None = None
    """The new tokens, in the order of their rows."""
    elsewhere: tuple[str, ...] = ()
    """As in `Demand`."""
    prefix: str = ""
    """What `into` is where the recipe does not say it."""


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
            source = _run(entry, recipe, where, read)
        elif entry.file is not None:
            source = _file(entry.file, where, read)
        else:
            source = _peft(str(entry.lora), where, read)
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
    _take_rows(start, source, chosen, origins)
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


def _take_rows(start: Start, source: Source, chosen: dict[str, Tensor], origins: dict[str, Origin]) -> None:
    """Take rows of new tokens out of the tensors; they go by the texts of the tokens."""
    tables = {name.removeprefix(NEW_TOKENS): chosen.pop(name) for name in [*chosen] if name.startswith(NEW_TOKENS)}
    if not tables or source.texts is None:
        return
    for number, text in enumerate(source.texts()):
        start.rows[text] = {kind: table[number] for kind, table in tables.items()}
        origins[text] = origins[f"{NEW_TOKENS}embedding"]


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


def _run(entry: InitFrom, recipe: Recipe, where: Where, read: bool) -> Source:
    folder = Path(str(entry.run)).expanduser()
    if not (folder / RECIPE).is_file():
        raise RecipeError(f"{where / 'run'}: {folder} contains no run ({RECIPE} is missing). Train it first.")
    theirs = load(folder / RECIPE)

    def opened(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, Tensor], dict[str, Tensor]]:
        return checkpoint, _weights(checkpoint, read), checkpoint.merged()

    try:
        standing = read_named(folder / CHECKPOINTS, entry.checkpoint, theirs.keep, opened)
    except CheckpointError as error:
        raise RecipeError(f"{where / 'run'}: {error}") from error
    if standing is None:
        raise RecipeError(f"{where / 'run'}: {folder} has no checkpoint yet. Train it first.")
    checkpoint, weights, merged = standing
    before = read_start(folder / START, read) if theirs.init_from else Start()
    scaling = _scaling_of(theirs)
    order = [stage.name for stage in theirs.stages]
    halves = sorted((key for key in merged if ".lora_A." in key), key=lambda key: order.index(key.partition("/")[0]))
    merges = before.merges + [_factor(key, merged, scaling) for key in halves]
    renewed = tuple(f"{merge.layer}{LORA}" for merge in merges[len(before.merges) :])
    begun = {name: value for name, value in before.tensors.items() if not (renewed and name.startswith(renewed))}
    trained = {plain(name): value for name, value in weights.items()}
    record = {
        "run": str(folder.resolve()),
        "checkpoint": checkpoint.path.name,
        "stage": checkpoint.state["stage"],
        "step": checkpoint.state["step"],
        "sha256": digests(checkpoint.path) if read else {},
    }
    return Source(
        f"the run {folder}",
        begun | trained,
        record,
        scaling,
        [merge for merge in merges if f"{merge.layer}.weight" not in trained],
        lambda: _texts(theirs, folder),
        _elsewhere(recipe, theirs),
    )


def _weights(checkpoint: Checkpoint, read: bool) -> dict[str, Tensor]:
    return checkpoint.weights() if read else WeightFile(checkpoint.path / WEIGHTS).on_meta()


def _factor(key: str, merged: Mapping[str, Tensor], scaling: Callable[[str], float]) -> Merge:
    """The LoRA that a stage of the run has merged: `STAGE/LAYER.lora_A.default.weight` names its first half."""
    layer = key.partition("/")[2].partition(LORA)[0]
    return Merge(layer, merged[key], merged[key.replace(".lora_A.", ".lora_B.")], scaling(layer))


def _scaling_of(recipe: Recipe) -> Callable[[str], float]:
    """Path of a layer of a run -> alpha / r, which its recipe says."""

    def scaling(layer: str) -> float:
        kind, slot, *rest = layer.split(".")
        block: Any = recipe.model.llm
        path = "model.llm"
        if kind != "llm":
            parts = recipe.model.inputs[slot]
            part, path = (parts[int(rest[0])], f"model.inputs.{slot}[{rest[0]}]") if isinstance(parts, list) else (
                parts, f"model.inputs.{slot}")  # fmt: skip
            block, path = getattr(part, kind.removesuffix("s")), f"{path}.{kind.removesuffix('s')}"
        lora: Lora = convert(block["lora"], Lora, recipe.where(f"{path}.lora"))
        return lora.alpha / lora.r

    return scaling


def _texts(recipe: Recipe, folder: Path) -> list[str]:
    """The new tokens of a run's model, which only its plugins know."""
    require_trust(recipe, False, folder, readers=False)
    plan = ModelBlueprint.of(recipe)
    with torch.device("meta"):
        model = plan.build()
        complete(model, plan)
    return texts_of(model)


def _elsewhere(recipe: Recipe, theirs: Recipe) -> tuple[str, ...]:
    """Beginnings of the paths of components that both recipes make in the same way: what a run did not train of them
    is the same here."""
    same = []
    for slot, parts in recipe.model.inputs.items():
        there = theirs.model.inputs.get(slot)
        for kind in ("encoder", "adapter"):
            if there is not None and _is_same(_blocks(parts, kind), _blocks(there, kind), recipe, theirs):
                same.append(f"{kind}s.{slot}.")
    return (*same, "llm.") if _is_same(_llm_of(recipe), _llm_of(theirs), recipe, theirs) else tuple(same)


def _llm_of(recipe: Recipe) -> dict[str, Any]:
    """The options of an LLM that decide what its weights are."""
    return {key: recipe.model.llm.get(key) for key in ("name", "path", "config")}


def _blocks(parts: Any, kind: str) -> list[Any]:
    """The blocks of an input's parts, without their LoRA."""
    blocks = [getattr(part, kind) for part in (parts if isinstance(parts, list) else [parts])]
    return [{key: value for key, value in block.items() if key != "lora"} for block in blocks]


def _is_same(block: Any, there: Any, recipe: Recipe, theirs: Recipe) -> bool:
    """Equal options, and weights that are loaded, or drawn with the same seed."""
    return bool(block == there) and (recipe.seed == theirs.seed or '"path": "' in json.dumps(block))


def _file(name: str, where: Where, read: bool) -> Source:
    place = _located(name, where / "file")
    file = WeightFile(place)
    tensors = file.read() if read else file.on_meta()
    return Source(f"the file {name}", tensors, _record("file", place, file.files, read))


def _located(name: str, where: Where) -> Path:
    try:
        place = locate(name)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    if isinstance(place, str):
        raise RecipeError(f"{where}: {name!r} is a whole model on the hub. Name one file of it: `{name}/FILE`.")
    return place


def _record(kind: str, place: Path, files: tuple[Path, ...], read: bool) -> dict[str, Any]:
    return {kind: str(place), "sha256": {file.name: file_sha256(file) for file in files} if read else {}}


def _peft(name: str, where: Where, read: bool) -> Source:
    """A LoRA that peft has saved, as the LoRA of the LLM."""
    here = where / "lora"
    folder = _peft_folder(name, here)
    weights = next((folder / file for file in PEFT_WEIGHTS if (folder / file).is_file()), None)
    try:
        config = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{here}: {folder / PEFT_CONFIG} cannot be read ({type(error).__name__}: {error})."
        ) from error
    if weights is None:
        raise RecipeError(f"{here}: {folder} contains none of {', '.join(PEFT_WEIGHTS)}.")
    if config.get("peft_type") != "LORA":
        raise RecipeError(f"{here}: {folder} contains {config.get('peft_type')!r}, not LoRA.")
    for key, value in UNSUPPORTED.items():
        if config.get(key) not in (value, None):
            raise RecipeError(f"{here}: {folder / PEFT_CONFIG}: {key}: {config[key]!r} is not supported.")
    file = WeightFile(weights)
    tensors = file.read() if read else file.on_meta()
    own = {_peft_name(key): value for key, value in tensors.items()}
    record = _record("lora", folder, (folder / PEFT_CONFIG, weights), read)
    return Source(f"the LoRA {name}", own, record, lambda _: alpha / rank, prefix="llm.hf")


def _peft_folder(name: str, where: Where) -> Path:
    try:
        place = locate(name)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    if isinstance(place, Path):
        return place
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(place, allow_patterns=["adapter_*"]))


def _peft_name(key: str) -> str:
    """peft saves LoRA without the name of the adapter: `...q_proj.lora_A.weight`."""
    name = key.removeprefix(PEFT_PREFIX)
    for kind in "AB":
        name = name.replace(f".lora_{kind}.weight", f".lora_{kind}.{ADAPTER}.weight")
    return name
