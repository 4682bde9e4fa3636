"""A run as one tar file to hand on: weights, recipe, provenance and the numbers of its report; no data, no names.

The same run gives the same bytes. Whoever unpacks it opens the folder as any run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnivit.contracts.sample import Frames, Media, Sample, Text
from omnivit.data.digest import file_sha256
from omnivit.errors import CheckpointError, DataError
from omnivit.evaluate.plot import LOSS_PLOT
from omnivit.files import replacing
from omnivit.media.locate import files_of, opened
from omnivit.recipe import Recipe
from omnivit.recipe.yaml_tree import dump
from omnivit.run import provenance
from omnivit.run.folder import RECIPE, no_run
from omnivit.run.overlap import Overlap
from omnivit.run.overrides import load_opened
from omnivit.run.provenance import PROVENANCE
from omnivit.run.runs import REPORT, read_report
from omnivit.run.scrub import numbers_of, portable_recipe, rewrite_header, scrubbed, without_samples
from omnivit.run.start_file import START
from omnivit.run.trust import require as require_trust
from omnivit.train import manifest
from omnivit.train.checkpoint import CHECKPOINTS, MERGED, STATE, WEIGHTS, Checkpoint
from omnivit.train.keep import read_named

SAMPLES, MEDIA = "samples.jsonl", "media"
REPORT_TEXT = "report.md"
OTHERS = ("parameters", "overlap")
"""Mappings of report.json that are no metrics."""


def pack(
    run: Path,
    out: Path,
    checkpoint: str | None = None,
    samples: int = 0,
    overrides: Sequence[str] = (),
    trust: bool = False,
) -> list[str]:
    """Write a run into a tar file, whole or not at all.

    Args:
        run: its folder.
        out: the tar file.
        checkpoint: as of `omnivit.load`.
        samples: how many questions of the evaluation go with it, with their media as they are.
        overrides: as of `omnivit.load`: where the data are now, for example.
        trust: run readers that the recipe names as Python code; without samples, no plugin is imported.

    Returns:
        The names of the members.

    Raises:
        RecipeError: samples are read by code that is not trusted.
        CheckpointError: there is no run, no checkpoint, or the file cannot be written.
        DataError: the run has fewer questions than are asked for, or one cannot be written as a record.
    """
    if not (run / RECIPE).is_file():
        raise CheckpointError(no_run(run))
    if not out.absolute().parent.is_dir():
        raise CheckpointError(f"{out}: the folder {out.absolute().parent} does not exist. Create it first.")
    if out.exists() and not (out.is_file() and tarfile.is_tarfile(out)):
        raise CheckpointError(f"{out} exists and is no packed run, so it is not overwritten. Choose another name.")
    recipe = load_opened(run / RECIPE, overrides)
    if samples:
        require_trust(recipe, trust, run)
        if recipe.evaluation is None:
            raise DataError("--with-samples: the recipe has no `evaluation`, so there are no questions to add.")
    chosen = read_named(run / CHECKPOINTS, checkpoint, recipe.keep, _checked)
    if chosen is None:
        raise CheckpointError(f"{run} has no checkpoint yet. Train it first: `omnivit train --resume {run}`.")
    name = run.resolve().name
    try:
        with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".pack-") as temporary:
            folder = Path(temporary) / name
            folder.mkdir()
            _fill(folder, run, recipe, chosen, bool(samples))
            if samples:
                _write_samples(folder / "data", recipe, samples)
            with replacing(out.absolute()) as partial:
                return _tar(folder, partial)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written: {error}.") from error


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    manifest.check(checkpoint.path, [WEIGHTS, STATE])
    return checkpoint


def _fill(folder: Path, run: Path, recipe: Recipe, chosen: Checkpoint, with_samples: bool) -> None:
    folders = tuple(
        dict.fromkeys([Path(recipe.data.root), run.resolve(), run.resolve().parent, Path.cwd(), Path.home()])
    )

    def copy(place: Path) -> None:
        target = folder / place.relative_to(run.resolve())
        if place.is_dir():
            shutil.copytree(place, target, dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place, target)

    portable = portable_recipe(dataclasses.asdict(recipe), run, copy)
    if with_samples:  # they are the evaluation that goes with it, whatever read them here
        portable["evaluation"] |= {"data": [{"path": SAMPLES, "reader": "messages"}], "linear_probe": []}
    text = dump(portable)
    (folder / RECIPE).write_text(text, encoding="utf-8")
    start = None
    if (run / START).is_file():
        copy(run.resolve() / START)
        rewrite_header(folder / START, folders)
        start = file_sha256(folder / START)
    record = provenance.read(run / PROVENANCE) if (run / PROVENANCE).is_file() else None
    proof = None if record is None else provenance.dump(_record(record, folders, start))
    _write_checkpoint(folder / CHECKPOINTS / chosen.path.name, chosen, text, proof)
    if proof is not None:
        (folder / PROVENANCE).write_text(proof, encoding="utf-8")
    if report := read_report(run):
        numbers = scrubbed(numbers_of(report), folders)
        (folder / REPORT).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        (folder / REPORT_TEXT).write_text(_report_text(folder.name, numbers), encoding="utf-8")
    if (run / LOSS_PLOT).is_file():
        shutil.copyfile(run / LOSS_PLOT, folder / LOSS_PLOT)


def _record(record: Mapping[str, Any], folders: tuple[Path, ...], start: str | None) -> dict[str, Any]:
    """The provenance without paths and hosts."""
    history = [{key: value for key, value in entry.items() if key != "host"} for entry in record.get("history", [])]
    changed = scrubbed({**record, "history": history}, folders)
    changed["recipe"]["data"]["root"] = "data"
    if start is not None:
        changed["start"] = {**changed.get("start", {}), "sha256": start}
    result: dict[str, Any] = changed
    return result


def _write_checkpoint(folder: Path, chosen: Checkpoint, recipe: str, proof: str | None) -> None:
    """The weights of a checkpoint without the optimizer, with a manifest of their own."""
    folder.mkdir(parents=True)
    for name in (WEIGHTS, MERGED):
        if (chosen.path / name).is_file():
            _linked(chosen.path / name, folder / name)
    state = json.dumps(without_samples(chosen.state), indent=1)
    texts = {STATE: state, RECIPE: recipe} | ({} if proof is None else {PROVENANCE: proof})
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    manifest.write(folder)


def _linked(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _report_text(name: str, numbers: Mapping[str, Any]) -> str:
    """report.md of the pack: scores with intervals, and stages."""
    lines = [
        f"# {name}",
        "",
        "| metric | asked with | mean | 95% interval | questions |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    metrics = {key: value for key, value in numbers.items() if isinstance(value, Mapping) and key not in OTHERS}
    for metric, conditions in metrics.items():
        for condition, score in conditions.items():
            bounds = f"{score['low']:.3f} to {score['high']:.3f}"
            lines.append(f"| {metric} | {condition} | {score['mean']:.3f} | {bounds} | {score['n']} |")
    if "overlap" in numbers:
        lines += ["", " ".join(Overlap(**numbers["overlap"]).sentences())]
    lines += ["", "| stage | steps | samples | loss at first | at last |", "| --- | ---: | ---: | ---: | ---: |"]
    for stage in numbers["stages"]:
        losses = ["" if stage.get(key) is None else f"{stage[key]:.3f}" for key in ("first_loss", "last_loss")]
        lines.append(f"| {stage['name']} | {stage['steps']} | {stage['samples']} | {' | '.join(losses)} |")
    return "\n".join(lines) + "\n"


def _write_samples(folder: Path, recipe: Recipe, count: int) -> None:
    """The first questions of the evaluation with their media, under names that say nothing."""
    from omnivit.data.sources import open_source

    assert recipe.evaluation is not None
    (folder / MEDIA).mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for number, source in enumerate(recipe.evaluation.data):
        reader = open_source(source, recipe.data.root, recipe.where("evaluation.data") / number)
        for index in range(min(len(reader), source.limit or len(reader), count - len(records))):
            records.append(_sample_record(reader[index], len(records) + 1, folder))
    if len(records) < count:
        raise DataError(f"--with-samples {count}: the evaluation has only {len(records)} questions.")
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / SAMPLES).write_text("".join(lines), encoding="utf-8")


def _sample_record(sample: Sample, number: int, folder: Path) -> dict[str, Any]:
    copies = 0
    turns = []
    for message in sample.messages:
        parts: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, Text):
                parts.append({"type": "text", "text": part.text})
            elif isinstance(part, Media):
                paths = []
                for file in files_of(part):
                    copies += 1
                    with opened(file) as source:
                        path = f"{MEDIA}/{number:05}-{copies:03}{source.suffix}"
                        (folder / path).write_bytes(source.read())
                    paths.append(path)
                parts.append({"type": part.slot, **_source(part, paths)})
            else:
                kind = type(part).__name__.lower()
                raise DataError(f"{sample}: a part of type {kind} cannot be packed. Omit --with-samples.")
        turns.append({"role": message.role, "content": parts})
    return {"id": f"sample-{number:05}", "messages": turns}


def _source(media: Media, paths: list[str]) -> dict[str, Any]:
    """The keys of a part that name its files, as `messages` reads them."""
    if len(paths) == 1 and not isinstance(media.source, Frames | list | tuple):
        return {media.slot: paths[0]}
    rate = media.source.fps if isinstance(media.source, Frames) else None
    return {"paths": paths, **({} if rate is None else {"fps": rate})}


def _tar(folder: Path, out: Path) -> list[str]:
    """All files of a folder, sorted, with the same owner, time and mode on every machine."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    names = []
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in files:
            member = tarfile.TarInfo(path.relative_to(folder.parent).as_posix())
            member.size, member.mode, member.mtime = path.stat().st_size, 0o644, 0
            with path.open("rb") as content:
                archive.addfile(member, content)
            names.append(member.name)
    return names
