"""`omnivit media`: show what files contain, which encoders accept them, and how many tokens a recipe gives them."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.commands.generate import add_set_argument
from omnivit.console import reserved
from omnivit.errors import DataError, OmniVitError, PluginError, RecipeError
from omnivit.run.trust import add_trust_argument
from omnivit.run.trust import require as require_trust

if TYPE_CHECKING:
    from omnivit.contracts.encoder import Encoder
    from omnivit.contracts.media import MediaFacts
    from omnivit.data.slot import SlotPreparer

EXIT_UNUSABLE = 1


@dataclass
class Reading:
    """What a file contains according to one or more encoders that agree."""

    slot: str
    facts: MediaFacts
    encoders: list[str]


@dataclass
class Answer:
    """The result for one file."""

    file: Path
    readings: list[Reading] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    """Encoder -> why it does not accept the file."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Slot of the recipe -> tokens in the LLM's sequence."""
    slot_refusals: dict[str, str] = field(default_factory=dict)
    """Slot of the recipe -> why it does not accept the file."""

    def usable(self, with_recipe: bool) -> bool:
        """Whether a slot of the recipe accepts the file; without a recipe, whether an encoder does."""
        return bool(self.tokens if with_recipe else self.readings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", type=Path, help="image, video, audio, points, scan, PDF, ..."
    )
    parser.add_argument(
        "--recipe",
        metavar="RECIPE|RUN",
        type=Path,
        help="a recipe (YAML) or a run folder: also print which of its inputs accept the file, and the tokens",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    add_set_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the results; the status is 1 if a file cannot be used."""
    if args.set and args.recipe is None:
        raise RecipeError("--set changes a value of a recipe. Name the recipe or the run with --recipe.")
    if not any(file.exists() for file in args.files):
        raise DataError(f"{', '.join(map(str, args.files))}: no such file. Name files that exist.")
    from omnivit.console import quieten_transformers

    quieten_transformers()
    with reserved(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged files; one may quote the header of a DICOM file
        encoders, absent = _installed()
        slots = {} if args.recipe is None else _slots(args.recipe, args.trust, args.set)
        answers = [_answer(file, encoders, slots) for file in args.files]
    if args.json:
        print(json.dumps(_as_record(answers, absent, args.recipe is not None), indent=2, ensure_ascii=False))
    else:
        print("\n".join(line for answer in answers for line in _lines(answer, args.recipe)))
        for name, reason in absent.items():
            print(f"not available: {name}: {reason}", file=sys.stderr)
    return 0 if all(answer.usable(args.recipe is not None) for answer in answers) else EXIT_UNUSABLE


def _installed() -> tuple[dict[str, type[Encoder]], dict[str, str]]:
    """The encoders that can be used, and for the others, what is missing and how to install it."""
    from omnivit.contracts.registries import encoders

    available: dict[str, type[Encoder]] = {}
    absent = {}
    for name in encoders.names():
        health = encoders.health(name)
        if not health.ok:
            absent[name] = f"{health.problem}. Run: {health.remedy}"
            continue
        try:
            available[name] = encoders.get(name)
        except PluginError as error:
            absent[name] = " ".join(str(error).split())
    return available, absent


def _slots(place: Path, trust: bool, overrides: Sequence[str]) -> Mapping[str, SlotPreparer]:
    """The preparers of the slots of a recipe. The model is built on the meta device, without weights."""
    from omnivit.recipe import load
    from omnivit.run.folder import RECIPE, require_plugins
    from omnivit.run.overrides import load_opened

    recipe = load_opened(place / RECIPE, overrides) if place.is_dir() else load(place, overrides)
    require_trust(recipe, trust, place, readers=False)
    if place.is_dir():
        require_plugins(place, recipe)
    from omnivit.model.build import preparer_of
    from omnivit.run.check import build_on_meta

    return preparer_of(build_on_meta(recipe), recipe).slots


def _answer(file: Path, encoders: Mapping[str, type[Encoder]], slots: Mapping[str, SlotPreparer]) -> Answer:
    """Try every encoder, and every slot of the recipe."""
    from omnivit.contracts.sample import Media

    answer = Answer(file)
    for name, encoder in encoders.items():
        try:
            facts = encoder.inspect(Media(encoder.modality, str(file)))
        except OmniVitError as error:
            answer.refusals[name] = _reason(error, file)
        else:
            slot = facts.slot or encoder.modality
            _add(answer.readings, slot, replace(facts, slot=slot), name)
    for slot, prepare in slots.items():
        try:
            answer.tokens[slot] = prepare.tokens(prepare(Media(slot, str(file))))
        except OmniVitError as error:
            answer.slot_refusals[slot] = _reason(error, file)
    return answer


def _add(readings: list[Reading], slot: str, facts: MediaFacts, encoder: str) -> None:
    """Add an encoder to the reading that it agrees with, or as a new one."""
    for reading in readings:
        if (reading.slot, reading.facts) == (slot, facts):
            reading.encoders.append(encoder)
            return
    readings.append(Reading(slot, facts, [encoder]))


def _reason(error: OmniVitError, file: Path) -> str:
    """The message on one line, without the name of the file before what it says."""
    text = " ".join(str(error).split())
    for name in (str(file.resolve()), str(file)):
        text = text.replace(f"{name}: ", "")
    return text


def _lines(answer: Answer, recipe: Path | None) -> list[str]:
    """The result for a file, as text."""
    lines = [str(answer.file)]
    for reading in answer.readings:
        lines.append(f"  {reading.slot}: {_described(reading.facts)} (encoders: {', '.join(reading.encoders)})")
    if not answer.readings:
        lines += _grouped("no encoder accepts it:", answer.refusals)
    if recipe is not None:
        lines += [f"  {recipe}, slot {slot}: {_counted(rows)}" for slot, rows in answer.tokens.items()]
        lines += _grouped(f"{recipe}, not accepted:", answer.slot_refusals)
    return lines


def _described(facts: MediaFacts) -> str:
    parts = [facts.kind, *(f"{name} {size:,}" for name, size in facts.shape.items())]
    if facts.seconds is not None:
        parts.append(f"{facts.seconds:.2f} s")
    return ", ".join([*parts, *(f"{name} {value}" for name, value in facts.details.items())])


def _counted(rows: int) -> str:
    return "1 token" if rows == 1 else f"{rows:,} tokens"


def _grouped(title: str, refusals: Mapping[str, str]) -> list[str]:
    """Each reason once, with the encoders or slots that give it."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in refusals.items():
        by_reason.setdefault(reason, []).append(name)
    lines = [f"    {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    return [f"  {title}", *lines] if lines else []


def _as_record(answers: Sequence[Answer], absent: Mapping[str, str], with_recipe: bool) -> dict[str, Any]:
    """The object that `--json` prints."""
    files = []
    for answer in answers:
        record: dict[str, Any] = {
            "file": str(answer.file),
            "usable": answer.usable(with_recipe),
            "readings": [_as_object(reading) for reading in answer.readings],
            "refusals": answer.refusals,
        }
        if with_recipe:
            record["slots"] = {slot: {"tokens": rows} for slot, rows in answer.tokens.items()} | {
                slot: {"refusal": reason} for slot, reason in answer.slot_refusals.items()
            }
        files.append(record)
    return {"files": files, "not_asked": dict(absent)}


def _as_object(reading: Reading) -> dict[str, Any]:
    facts = reading.facts
    return {
        "slot": reading.slot,
        "encoders": reading.encoders,
        "kind": facts.kind,
        "shape": dict(facts.shape),
        "seconds": facts.seconds,
        "details": dict(facts.details),
    }
