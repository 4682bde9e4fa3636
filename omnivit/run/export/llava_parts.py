"""What of a run a LLaVA of transformers is made of, or why it is none.

    encoder                          adapter                                   in transformers
    clip (CLIP or SigLIP)            linear, mlp                               LlavaForConditionalGeneration
    document of `clip`, cut as       chain of linear or mlp and markers        LlavaNextForConditionalGeneration
    LLaVA-NeXT does it               with `row: true`

Encoders and adapters are known by the names of their classes, since this package imports no plugin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from omnivit.model.omni import Branch
from omnivit.run.export.opened import OpenRun
from omnivit.run.export.plain import plain_state
from omnivit.run.importing.llava import CLASS_TOKEN

CLIP, DOCUMENT, CHAIN, MARKERS = "ClipEncoder", "DocumentEncoder", "ChainAdapter", "MarkersAdapter"
ADAPTERS = ("LinearAdapter", "MLPAdapter")
"""Classes of the adapters that LLaVA's projector can be."""
NOT_EXACT = {
    "WhisperEncoder": "Qwen2Audio computes something else: it averages pairs of tokens before the last norm of Whisper "
    "and hides the silence after the audio from the tokens before it"
}
"""Class of an encoder -> why the model of transformers that is nearest to it is not the same."""


class NotLlava(Exception):
    """Why a run is no LLaVA of transformers."""


@dataclass(frozen=True)
class Parts:
    """The parts of a run that a LLaVA is made of."""

    slot: str
    encoder: Any
    """The `clip` encoder."""
    adapter: Any
    """The projector: `linear` or `mlp`."""
    grids: tuple[tuple[int, int], ...] = ()
    """Rows and columns of tiles that an image may be cut into; none: images are not cut."""
    newline: Tensor | None = None
    """[D_llm], after each line of a cut image."""


def parts_of(opened: OpenRun) -> Parts:
    """The parts. Raises NotLlava where the run is no LLaVA of transformers; says why."""
    slot, (encoder, adapter) = _only_branch(opened)
    parts = _tiled(slot, encoder, adapter) if type(encoder).__name__ == DOCUMENT else Parts(slot, encoder, adapter)
    _check_encoder(parts.encoder)
    _check_adapter(parts.adapter, parts.encoder.width, opened.llm.width)
    return parts


def _tiled(slot: str, encoder: Any, adapter: Any) -> Parts:
    """The parts of a LLaVA-NeXT."""
    config = encoder.config
    grids = tuple(tuple(grid) for grid in config.choices())
    steps = list(adapter.steps) if type(adapter).__name__ == CHAIN else [adapter]
    markers = steps[-1] if type(steps[-1]).__name__ == MARKERS else None
    reasons = {
        f"`cropping: {config.cropping}` is set, and LLaVA-NeXT cuts with `any_resolution`": config.cropping
        != "any_resolution",
        "`joined: true` and `global_beside: true` are not set, as LLaVA-NeXT needs them": not config.global_beside,
        "`positions` are learned": config.positions,
        "a grid has one tile": (1, 1) in grids,
        "its adapter is no chain of `linear` or `mlp` and `markers`": len(steps) != 2 or markers is None,
        "`markers` must have `row: true` and nothing else": markers is not None
        and (markers.row is None or any(getattr(markers, name) is not None for name in ("begin", "end", "frame"))),
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise NotLlava(f"in its encoder `document`, {wrong[0]}")
    assert markers is not None, "said above"
    return Parts(slot, encoder.encoder, steps[0], grids, markers.row.detach())


def _only_branch(opened: OpenRun) -> tuple[str, Branch]:
    model, recipe = opened.assistant.model, opened.recipe
    if list(model.heads):
        raise NotLlava(f"it has heads ({', '.join(model.heads)})")
    if len(model.encoders) != 1:
        raise NotLlava(f"it has {len(model.encoders)} inputs ({', '.join(model.encoders)}), not one")
    slot = next(iter(model.encoders))
    branches = model.branches(slot)
    if len(branches) != 1:
        raise NotLlava(f"its input {slot!r} has {len(branches)} branches")
    block = recipe.model.inputs[slot]
    if getattr(block, "combine", "tokens") != "tokens":
        raise NotLlava(f"its input {slot!r} combines the media of a turn")
    if opened.llm._patching is not None:
        raise NotLlava("an adapter changes layers of its LLM")
    return slot, branches[0]


def _check_encoder(encoder: Any) -> None:
    kind = getattr(getattr(encoder, "_settings", None), "model_type", None)
    config: Any = getattr(encoder, "config", None)
    if type(encoder).__name__ != CLIP or kind not in CLASS_TOKEN:
        more = f". {NOT_EXACT[type(encoder).__name__]}" if type(encoder).__name__ in NOT_EXACT else ""
        raise NotLlava(
            f"its encoder is {type(encoder).__name__} ({kind}), and LLaVA takes {', '.join(CLASS_TOKEN)}{more}"
        )
    reasons = {
        "several layers are joined": config.join is not None,
        "`norm` is set": config.norm,
        "`class_token: only` is set": config.class_token == "only",
        f"`fit: {config.fit}` is set": config.fit not in ("crop", "pad"),
        "`fill: white` is set": config.fit == "pad" and config.fill == "white",
        "images have another size than the tower's": not _usual_size(encoder),
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise NotLlava(f"in its encoder {wrong[0]}")


def _usual_size(encoder: Any) -> bool:
    side, patch = encoder._settings.image_size, encoder._settings.patch_size
    return tuple(encoder.patches) == (side // patch, side // patch)


def _check_adapter(adapter: Any, width: int, llm_width: int) -> None:
    if type(adapter).__name__ not in ADAPTERS:
        raise NotLlava(f"its adapter is {type(adapter).__name__}, and LLaVA takes `linear`, and `mlp` of depth 1 or 2")
    shapes = [value.shape for name, value in plain_state(adapter).items() if name.endswith("weight")]
    if shapes not in ([(llm_width, width)], [(llm_width, width), (llm_width, llm_width)]):
        raise NotLlava("its adapter is no `mlp` of depth 1, or of depth 2 with the hidden width of the LLM")
