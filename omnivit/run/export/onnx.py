"""`onnx`: the encoders of a slot with their adapters, as one ONNX graph for each input slot.

    SLOT.onnx     names of the inputs: those of the processor's tensors; outputs: `tokens` [M, L, D] and `mask` [M, L]
    SLOT.json     what a program needs beside it: shapes, dtypes, what the processor does, tokens of each medium

The number of media M is free. Sizes that are the same for all media of a processor are fixed; others are free where the
encoder allows it. The LLM is not part of the graph: its prompt takes the tokens where `mask` is true.

Shapes: M media, L tokens of a medium, D LLM width, Q instruction tokens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import io
import json
import logging
import re
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from omnivit.contracts.adapter import Instruction
from omnivit.contracts.features import Features, joined
from omnivit.contracts.sample import Media
from omnivit.contracts.views import encode_all, owner_of
from omnivit.data.collate import stacked_items
from omnivit.data.slot import SlotPreparer, encoder_items
from omnivit.errors import CheckpointError, MediaError, PluginError
from omnivit.model.omni import OmniModel
from omnivit.model.weights import require
from omnivit.run.export import known_options

if TYPE_CHECKING:
    from omnivit.run.export.opened import OpenRun

log = logging.getLogger(__name__)
OPSET = 20
"""The first opset with GELU as an operator; onnxruntime has it since 1.17."""
TOLERANCE = 1e-5
"""Largest difference between torch and onnxruntime, as a share of the largest value, in float32."""
_TORCH = re.compile(r"[/\\](torch|sympy|onnxscript|contextlib\.py)([/\\]|$)")
"""Files whose frames say nothing of the code that is exported."""
_IDS, _MASK = "instruction.input_ids", "instruction.attention_mask"


class SlotTower(nn.Module):
    """The branches of a slot as one module: stacked items -> tokens [M, L, D] and their mask [M, L].

    The computation is that of `OmniModel.encode`, but without what a graph cannot hold: errors that name the plugin,
    and instructions that are cut to the longest of the batch.
    """

    def __init__(self, model: OmniModel, slot: str) -> None:
        super().__init__()
        self.branches = model.branches(slot)
        self.encoders = model.slot_encoders(slot)
        self.parts = nn.ModuleList([*self.encoders, *(branch.adapter for branch in self.branches)])

    def forward(self, items: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Items [M, ...] by the names that the processor gives them."""
        features = self.features(items)
        return features.values, features.mask

    def features(self, items: Mapping[str, Tensor]) -> Features:
        """The same as `Features`."""
        instruction = Instruction(items[_IDS], items[_MASK]) if _IDS in items else None
        encoded: dict[Any, Any] = {}
        for number, encoder in enumerate(self.encoders):
            readers = dict.fromkeys(b.encoder for b in self.branches if owner_of(b.encoder) is encoder)
            encoded |= encode_all(list(readers), encoder_items(items, number, len(self.encoders)))
        return joined([branch.adapter(encoded[branch.encoder], instruction) for branch in self.branches])


def export(opened: OpenRun, folder: Path, options: Mapping[str, Any]) -> list[Path]:
    """Write a graph and its description for each input slot.

    Args:
        opened: the run, on the CPU.
        folder: where the files go.
        options: `slots`: names with commas between them, default all; `media`: a file to try the graph of the only
            slot with, where the encoder has no example of its own.

    Raises:
        CheckpointError: an encoder or adapter cannot be exported, or the graph computes something else; says why.
        PluginError: onnx or onnxscript is not installed.
    """
    require("onnx", "onnxscript", extra="onnx", purpose="to write ONNX graphs")
    chosen = known_options(options, {"slots": "", "media": ""}, "onnx")
    model, slots = opened.assistant.model, opened.assistant.preparer.slots
    names = [name.strip() for name in (chosen["slots"] or ",".join(slots)).split(",")]
    if unknown := [name for name in names if name not in slots]:
        raise CheckpointError(f"this model has no input slot {unknown[0]!r}. Available: {', '.join(slots)}.")
    if chosen["media"] and len(names) > 1:
        raise CheckpointError("`media` is a file of one slot. Name the slot, too: slots=SLOT media=FILE.")
    model.float()  # tolerance and graph are those of float32
    written = []
    for slot in names:
        items = _trial_items(model, slot, slots[slot], chosen["media"] or None)
        written += write_slot(model, slot, slots[slot], items, folder)
    return written


def write_slot(
    model: OmniModel, slot: str, preparer: SlotPreparer, items: Sequence[Mapping[str, Tensor]], folder: Path
) -> list[Path]:
    """Write the graph of a slot, compare it with the model, and describe it.

    Args:
        model: in float32 on the CPU.
        slot: name of the input.
        preparer: of the slot.
        items: of at least two media, as the preparer makes them.
        folder: where the files go.
    """
    items = [item for item in items if item.keys() == items[0].keys()]  # of an encoder with several kinds of media
    tower = SlotTower(model, slot).eval()
    free = _free(items)
    file = folder / f"{slot}.onnx"
    _check_tokens(tower, stacked_items(items[:1]), slot)
    _write(tower, stacked_items((items * 2)[:2]), free, file, slot)
    difference = _compare(tower, stacked_items([*items, items[0]]), file, slot)
    changed = getattr(model.llm, "_patching", None) is not None
    if changed:
        log.warning(
            "%s: an adapter of this model changes layers of the LLM. The graph gives the right tokens, but the LLM "
            "alone computes something else with them.",
            slot,
        )
    facts = _describe(tower, slot, preparer, items[0], free, difference, changed)
    described = folder / f"{slot}.json"
    described.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return [file, described]


def _trial_items(model: OmniModel, slot: str, preparer: SlotPreparer, file: str | None) -> list[dict[str, Tensor]]:
    """Items of at least two media: those of the encoder's example, or the user's file twice."""
    with tempfile.TemporaryDirectory() as scratch:
        if file is not None:
            media: Sequence[Media] = [Media(slot, Path(file))] * 2
        else:
            encoder = model.slot_encoders(slot)[0]
            try:
                examples = type(encoder).example(Path(scratch)).media
                named = [m for m in examples if m.slot == slot] or examples  # of an encoder of several modalities
                media = [dataclasses.replace(m, slot=slot) for m in named]
            except PluginError as error:
                raise CheckpointError(
                    f"{slot}: the encoder {type(encoder).__name__} has no example to try the graph with. Name a "
                    f"medium: slots={slot} media=FILE."
                ) from error
        try:
            items = [preparer(medium, "What is this?") for medium in media]
        except MediaError as error:
            raise CheckpointError(
                f"{slot}: the graph cannot be tried, because its trial medium cannot be read: {error} Name another: "
                f"slots={slot} media=FILE."
            ) from error
    return items if len(items) > 1 else items * 2


def _free(items: Sequence[Mapping[str, Tensor]]) -> dict[str, list[int]]:
    """Input -> its dimensions [M, ...] whose sizes differ from medium to medium."""
    shapes = {name: [tuple(item[name].shape) for item in items] for name in items[0]}
    return {
        name: [axis for axis, sizes in enumerate(zip(*found, strict=True), start=1) if len(set(sizes)) > 1]
        for name, found in shapes.items()
    }


@torch.no_grad()
def _check_tokens(tower: SlotTower, batch: dict[str, Tensor], slot: str) -> None:
    """Refuse adapters whose output is not, or not only, tokens of the LLM's sequence."""
    features = tower.features(batch)
    if features.memory is not None or not features.values.shape[1]:
        names = ", ".join(type(branch.adapter).__name__ for branch in tower.branches)
        raise CheckpointError(
            f"{slot}: cannot be exported to ONNX, because the layers of the LLM read what its adapter ({names}) "
            "returns, and the LLM is not in the graph. Use `--to hf`, or `omnivit serve`."
        )


def _write(
    tower: SlotTower, batch: dict[str, Tensor], free: Mapping[str, Sequence[int]], file: Path, slot: str
) -> None:
    media = torch.export.Dim("media", min=1)
    dynamic: Any = torch.export.Dim.DYNAMIC
    shapes = {name: {0: media} | dict.fromkeys(free[name], dynamic) for name in batch}
    names = list(batch)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                tower,
                kwargs={"items": batch},
                dynamo=True,
                dynamic_shapes={"items": shapes},
                input_names=names,
                output_names=["tokens", "mask"],
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None, "dynamo=True returns a program"
            program.save(file, external_data=False)
    except Exception as error:  # torch.export and the exporter fail in many ways, by what the model does
        raise CheckpointError(
            f"{slot}: {' and '.join(type(part).__name__ for part in tower.parts)} cannot be exported to ONNX, because "
            f"torch.export cannot follow it{_place(error)}: {_reason(error)} What it computes depends on the "
            "values of its input, or uses an operation that ONNX does not have. Use `--to hf`, or `omnivit serve`."
        ) from error


def _place(error: BaseException) -> str:
    """Where the code of an encoder or adapter stopped it: ` at "..." (file, line)`; empty where it is not known."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _TORCH.search(frame.filename)]
    if not frames or Path(frames[-1].filename) == Path(__file__):
        return ""
    last = frames[-1]
    return f" at `{last.line}` ({'/'.join(Path(last.filename).parts[-2:])}, line {last.lineno})"


def _reason(error: BaseException) -> str:
    """The innermost message, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if line.endswith(".") else f"{line}."


def _compare(tower: SlotTower, batch: dict[str, Tensor], file: Path, slot: str) -> float | None:
    """Largest difference between the graph and the model for another number of media; None: no onnxruntime here.

    Raises:
        CheckpointError: it is above `TOLERANCE`.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    asked = {found.name: found.shape for found in session.get_inputs()}
    if fixed := [name for name, shape in asked.items() if not isinstance(shape[0], str)]:
        raise CheckpointError(
            f"{slot}: the ONNX graph takes {asked[fixed[0]][0]} media only ({fixed[0]} {asked[fixed[0]]}): code of the "
            "encoder or adapter reads their number as a constant. (`len(tensor)` does; `tensor.shape[0]` does not.)"
        )
    tokens, mask = session.run(None, {name: value.numpy() for name, value in batch.items() if name in asked})
    with torch.no_grad():
        expected, kept = tower(batch)
    if tokens.shape != expected.shape or not torch.equal(torch.from_numpy(mask), kept):
        raise CheckpointError(f"{slot}: the ONNX graph returns other tokens than the model. It was not kept.")
    scale = max(1.0, float(expected.abs().max()))
    difference = float((torch.from_numpy(tokens) - expected).abs().max()) / scale
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"{slot}: the ONNX graph differs from the model by {difference:.1e} of the largest value (allowed: "
            f"{TOLERANCE:.0e}). It was not kept. Please report this with the recipe."
        )
    return difference


def _describe(
    tower: SlotTower,
    slot: str,
    preparer: SlotPreparer,
    item: Mapping[str, Tensor],
    free: Mapping[str, Sequence[int]],
    difference: float | None,
    changed: bool,
) -> dict[str, Any]:
    return {
        "slot": slot,
        "modalities": sorted({encoder.modality for encoder in tower.encoders}),
        "encoders": [type(encoder).__name__ for encoder in tower.encoders],
        "adapters": [type(branch.adapter).__name__ for branch in tower.branches],
        "opset": OPSET,
        "inputs": {
            name: {
                "shape": ["media", *(None if axis in free[name] else n for axis, n in enumerate(value.shape, start=1))],
                "dtype": str(value.dtype).removeprefix("torch."),
            }
            for name, value in item.items()
        },
        "outputs": {"tokens": ["media", "tokens", "width"], "mask": ["media", "tokens"]},
        "tokens": None if any(free.values()) else preparer.tokens(item),
        "processors": [_facts(processor) for processor in preparer.processors],
        "llm_is_changed": changed,
        "difference": difference,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")},
    }


def _facts(processor: Any) -> dict[str, Any]:
    """What a processor does to a medium, as far as its fields are plain or know how to describe themselves."""
    facts: dict[str, Any] = {"class": type(processor).__name__, "fingerprint": processor.fingerprint()}
    fields = dataclasses.fields(processor) if dataclasses.is_dataclass(processor) else ()
    for name, value in ((field.name, getattr(processor, field.name)) for field in fields):
        if hasattr(value, "to_dict"):
            facts[name] = json.loads(json.dumps(value.to_dict(), default=str))
        elif isinstance(value, (str, int, float, bool, list, tuple, type(None))):
            facts[name] = json.loads(json.dumps(value, default=str))
    return facts


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's graphs, and its notes on packages that it could use, too."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sink = io.StringIO()
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
