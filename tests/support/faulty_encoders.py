"""Encoders with one fault each; FAULTS says which rule is to find it. Those of rows and weights have their own file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from faulty_encoder_state import (
    AddsKey,
    CachesByAddress,
    CastsDown,
    CountsWrongAtEight,
    MakesTable,
    NormalisesTheBatch,
    ReadsInConstructor,
    ReturnsFloat32,
    SeedsGlobally,
    UnpacksHeaders,
)
from faulty_encoder_tokens import (
    AveragesFilling,
    BuildsForReal,
    CountsInEval,
    DrawsWeights,
    ForgetsDraw,
    GraphsWhenFrozen,
    HasUnused,
    KeepsConstant,
    LeavesNaN,
    LosesPrecision,
    OnlyFloat32,
    ReversesGrid,
    SeesNeighbours,
    ShowsFilling,
    StaysOnCpu,
    WritesInputs,
    WrongWidth,
)
from pcm_encoder import Pcm, PcmConfig, PcmProcessor
from torch import Tensor, nn

from omnivit.contracts.encoder import Encoder
from omnivit.contracts.examples import EncoderExample
from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError


class Undeclared(Pcm):
    """Says a contract that there is not."""

    contract = 0


class NoExample(Pcm):
    """Gives no example."""

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        return Encoder.example.__func__(cls, folder)  # type: ignore[attr-defined]


@dataclass
class BareConfig(PcmConfig):
    loud: bool = False


class Bare(Pcm):
    """A field of its Config says nothing of itself."""

    Config = BareConfig


@dataclass
class ObjectConfig(PcmConfig):
    dtype: Any = torch.float32
    """What to compute in."""


class Objects(Pcm):
    """Its Config holds what YAML cannot."""

    Config = ObjectConfig


class With(Pcm):
    """A Pcm with another processor."""

    processor_class: ClassVar[type[PcmProcessor]]

    def processor(self) -> PcmProcessor:
        return self.processor_class(self.config.scale, self.config.noise)


class Reserving(PcmProcessor):
    def __call__(self, media: Media) -> dict[str, Tensor]:
        item = super().__call__(media)
        return item | {"instruction.frames": item["frames"]}


class TakesReservedKey(With):
    """Its items hold a key of the collator's."""

    processor_class = Reserving


class Mixed(PcmProcessor):
    def __call__(self, media: Media) -> dict[str, Tensor]:
        item = super().__call__(media)
        return item | {"frames": item["frames"].to(torch.int32 if len(item["samples"]) > 5 else torch.int64)}


class MixesDtypes(With):
    """Long media have another dtype than short ones."""

    processor_class = Mixed


class Remembering(PcmProcessor):
    last: ClassVar[list[float]] = [0.0]

    def __call__(self, media: Media) -> dict[str, Tensor]:
        item = super().__call__(media)
        samples = item["samples"] + self.last[-1]
        self.last.append(float(item["samples"].mean()))
        return item | {"samples": samples}


class Remembers(With):
    """A medium depends on the one before it."""

    processor_class = Remembering


class Global(PcmProcessor):
    def __call__(self, media: Media) -> dict[str, Tensor]:
        item = super().__call__(Media(media.slot, media.source, media.root))
        loud = 0.0 if media.seed is None else np.random.standard_normal()
        return item | {"samples": item["samples"] + np.float32(loud)}


class DrawsGlobally(With):
    """Augments by numpy's global generator."""

    processor_class = Global


class Counting(PcmProcessor):
    asked: ClassVar[list[Media]] = []

    def preface(self, media: Media) -> str:
        self.asked.append(media)
        return f"Sound {len(self.asked)}:\n"


class CountsPrefaces(With):
    """Tells the LLM how often it was asked."""

    processor_class = Counting


class CountingItems(PcmProcessor):
    described: ClassVar[list[int]] = []

    def description(self, item: Mapping[str, Tensor]) -> str:
        self.described.append(len(item))
        return f" That was sound {len(self.described)}. "


class CountsDescriptions(With):
    """Tells the LLM how often it has described an item."""

    processor_class = CountingItems


class HoldsLambda(Pcm):
    """Its processor does not pickle."""

    def processor(self) -> PcmProcessor:
        made = super().processor()
        object.__setattr__(made, "shown", lambda: None)
        return made


class HoldsTable(Pcm):
    """Its processor pickles to 2 MB."""

    def processor(self) -> PcmProcessor:
        made = super().processor()
        object.__setattr__(made, "table", np.zeros(250_000))
        return made


class HoldsItself(Pcm):
    """Its processor holds a layer."""

    def processor(self) -> PcmProcessor:
        made = super().processor()
        object.__setattr__(made, "layer", self.frame)
        return made


class Loading(PcmProcessor):
    loaded: ClassVar[list[nn.Module]] = []

    def __call__(self, media: Media) -> dict[str, Tensor]:
        if not self.loaded:
            self.loaded.append(nn.Linear(2, 2))
        return super().__call__(media)


class LoadsInWorker(With):
    """Its processor loads a model when it is first called."""

    processor_class = Loading


class Addressed(PcmProcessor):
    def fingerprint(self) -> str:
        return f"{object.__repr__(self)} {super().fingerprint()}"


class FingerprintsAddress(With):
    """Its fingerprint holds an address."""

    processor_class = Addressed


class Forgetful(PcmProcessor):
    def fingerprint(self) -> str:
        return f"pcm {self.noise}"


class ForgetsScale(With):
    """Its fingerprint leaves a setting out."""

    processor_class = Forgetful


class Floors(PcmProcessor):
    def length(self, item: Mapping[str, Tensor]) -> int:
        return max(1, int(item["frames"]) - 1)


class CountsOneLess(With):
    """Its length leaves the last frame out."""

    processor_class = Floors


class Opening(PcmProcessor):
    def __call__(self, media: Media) -> dict[str, Tensor]:
        if isinstance(media.source, str) and not Path(media.root or "", media.source).exists():
            raise FileNotFoundError(media.source)
        return super().__call__(media)


class RaisesOther(With):
    """What Python raises for a missing file reaches the trainer."""

    processor_class = Opening


class Trusting(PcmProcessor):
    def __call__(self, media: Media) -> dict[str, Tensor]:
        if isinstance(media.source, str) and ".." in media.source:
            media = Media(media.slot, str(Path(media.root or "", media.source)), seed=media.seed)
        return super().__call__(media)


class LeavesRoot(With):
    """Follows `..` out of the data root."""

    processor_class = Trusting


class Mute(PcmProcessor):
    def __call__(self, media: Media) -> dict[str, Tensor]:
        try:
            return super().__call__(media)
        except MediaError:
            raise MediaError("the sound cannot be read") from None


class NamesNothing(With):
    """Its errors do not say which file."""

    processor_class = Mute


class InspectsAnything(Pcm):
    """Tells of files that are not there."""

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        del media
        return MediaFacts("audio", {"samples": 0})


FAULTS: dict[type[Pcm], tuple[str, ...]] = {
    Undeclared: ("declared",),
    NoExample: ("example",),
    Bare: ("config_documented",),
    Objects: ("config_serialisable",),
    TakesReservedKey: ("items",),
    MixesDtypes: ("items",),
    Remembers: ("determinism",),
    DrawsGlobally: ("seed",),
    CountsPrefaces: ("preface",),
    CountsDescriptions: ("description",),
    HoldsLambda: ("pickle",),
    HoldsTable: ("pickle",),
    HoldsItself: ("weightless",),
    LoadsInWorker: ("worker",),
    FingerprintsAddress: ("fingerprint",),
    ForgetsScale: ("fingerprint_changes",),
    WrongWidth: ("shapes",),
    CountsOneLess: ("length",),
    ShowsFilling: ("length",),
    ReversesGrid: ("grid",),
    LeavesNaN: ("mask",),
    AveragesFilling: ("batch",),
    SeesNeighbours: ("batch",),
    WritesInputs: ("inputs",),
    BuildsForReal: ("meta",),
    DrawsWeights: ("initialisation",),
    HasUnused: ("gradient",),
    CountsInEval: ("frozen",),
    GraphsWhenFrozen: ("frozen",),
    ForgetsDraw: ("saved",),
    StaysOnCpu: ("device",),
    KeepsConstant: ("device",),
    OnlyFloat32: ("double",),
    LosesPrecision: ("bfloat16",),
    RaisesOther: ("bad_media",),
    LeavesRoot: ("bad_media",),
    NamesNothing: ("bad_media",),
    InspectsAnything: ("inspect",),
    CountsWrongAtEight: ("length",),
    UnpacksHeaders: ("bad_media",),
    SeedsGlobally: ("seed",),
    NormalisesTheBatch: ("training",),
    ReadsInConstructor: ("meta",),
    MakesTable: ("meta",),
    CastsDown: ("double",),
    ReturnsFloat32: ("double",),
    AddsKey: ("inputs",),
    CachesByAddress: ("stateless",),
}
"""Fault -> the rule that is to find it. What follows from it is not tried."""
