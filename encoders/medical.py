"""`medical`: volumes (DICOM, NIfTI) and single medical pictures, slice by slice through any image encoder.

Each slice is windowed for its modality and seen by the image encoder inside: timm, HF vision models, or the image tower
of an open_clip checkpoint such as BiomedCLIP. Its place in the volume can be added to its rows.

Shapes: M volumes, N slices (padded), S rows a slice, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from omnivit.contracts.options import require_within
from omnivit.media.volume.dicom import READABLE
from omnivit.media.volume.read import facts_of, has_header, read_header
from omnivit.media.volume.slices import OTHERS, View, Window
from omnivit.model.images import INSIDE_EXAMPLES, without
from omnivit.plugin import (
    Card,
    Encoder,
    EncoderExample,
    Features,
    Media,
    MediaFacts,
    Processor,
    RecipeError,
    build_encoder,
    encode_pictures,
    layout_of_pictures,
    prepare_pictures,
    read_volume,
    suggest,
    synthetic,
)

POSITIONS, AXES = "positions", "axes"
"""Keys of the slices' places in an item: [N] millimetres from the middle, [N] axis (0 x, 1 y, 2 z)."""


@dataclass
class MedicalConfig:
    """What a recipe may say to `medical`."""

    encoder: dict[str, Any]
    """The image encoder that sees each slice, such as {name: timm, model: tf_efficientnet_lite0}."""
    slices: int = 8
    """Most slices of a volume (of each plane). Of more, the middles of so many equal parts are taken."""
    planes: tuple[Literal["axial", "coronal", "sagittal"], ...] = ("axial",)
    """Of NIfTI volumes: which planes are cut. DICOM slices are shown as they were acquired."""
    windows: dict[str, str | tuple[float, float]] = field(default_factory=dict)
    """Modality -> window, `*` for all others: `file` (its own), `percentile`, a name (brain, stroke, subdural,
    temporal_bone, soft_tissue, abdomen, liver, mediastinum, lung, bone) or [centre, width]. Laid over the default {CT:
    soft_tissue, "*": percentile}. Colours are never windowed."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Black and white of the window `percentile`, over the slices that are shown."""
    time: int = 0
    """Which volume of a 4-D NIfTI file; negative: from the end."""
    modality: str = ""
    """Of files that do not tell theirs (NIfTI): CT, MR, ..."""
    positions: Literal["none", "learned", "sinusoidal"] = "none"
    """Add the slice's place along its axis to its rows: a learned table that starts at zero, or fixed sines."""
    max_distance: float = 256.0
    """Millimetres from the middle that the learned table covers, to both sides; places beyond it share its ends."""
    bins: int = 64
    """Entries of the learned table for each axis."""
    side: int = 512
    """Slices are made smaller to so many pixels before the image encoder prepares them."""
    batch_size: int | None = None
    """Most slices that pass through the image encoder together, to bound memory; null: all of a batch."""
    allow_burned_in: bool = False
    """Read DICOM pictures that say that annotations are burned in; these may name the patient."""
    header: tuple[str, ...] = ()
    """DICOM header fields that the LLM reads as text before the volume: [Modality, BodyPartExamined, ...], technical
    ones only. All others are dropped."""

    renamed: ClassVar[Mapping[str, str]] = {"reach": "max_distance", "at_once": "batch_size"}

    def __post_init__(self) -> None:
        if self.bins < 1 or not 0 < self.max_distance < math.inf:
            raise ValueError(f"`bins` is {self.bins} and `max_distance` {self.max_distance}; both must be above 0.")
        require_within(self, 1, None, "batch_size")
        for name in self.header:
            if name not in READABLE:
                raise ValueError(f"`header`: {name} may identify a person, or is unknown; {suggest(name, READABLE)}")
        try:
            self.view()
        except RecipeError as error:
            raise ValueError(str(error)) from error

    def view(self) -> View:
        """What is wanted of each volume."""
        windows: dict[str, Window] = {"CT": "soft_tissue", OTHERS: "percentile", **self.windows}
        options = {name: getattr(self, name) for name in View.__dataclass_fields__}
        return View(**(options | {"planes": tuple(self.planes), "windows": windows}))


@dataclass(frozen=True)
class MedicalProcessor:
    """One volume -> its slices' tensors and places; picklable, no weights."""

    inside: Processor
    """The image encoder's."""
    view: View
    header: tuple[str, ...] = ()
    """Fields for the preface."""

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare one volume: `pictures` [], `positions` [N], `axes` [N], and `inside`'s tensors [N, ...].

        Raises:
            MediaError: see `omnivit.media.volume.read.read_volume`.
        """
        volume = read_volume(media, self.view)
        item = prepare_pictures(self.inside, volume.images(), media)
        return {**item, POSITIONS: torch.from_numpy(volume.positions), AXES: torch.from_numpy(volume.axes)}

    def preface(self, media: Media) -> str:
        """`Modality: CT; SliceThickness: 5.0` and a new line: the wanted fields of a DICOM header; else nothing."""
        if not (self.header and has_header(media)):
            return ""
        found = read_header(media, self.header)
        return "; ".join(f"{name}: {value}" for name, value in found.items()) + "\n" if found else ""

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Rows of all slices."""
        return layout_of_pictures(self.inside, without(item, POSITIONS, AXES)).rows

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        """(n, y, x) where the image encoder's rows fill (y, x)."""
        return layout_of_pictures(self.inside, without(item, POSITIONS, AXES)).grid

    def fingerprint(self) -> str:
        """Every setting, as text."""
        return f"{self.view!r} {self.header} {self.inside.fingerprint()}"


class MedicalEncoder(Encoder):
    """The rows of each slice, slice after slice ([M, N S, D])."""

    contract = 1
    Config = MedicalConfig
    modality = "volume"
    card = Card(
        paper="the image encoder's; sinusoidal places: Vaswani et al., Attention Is All You Need, arXiv 1706.03762",
        weights="the image encoder's; BiomedCLIP (Microsoft): MIT",
        tokens="slices x those of the image encoder",
    )

    def __init__(self, config: MedicalConfig) -> None:
        """Raises RecipeError or PluginError where the image encoder cannot be built."""
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder, "encoder", "image")
        self.width = self.encoder.width
        self.places: nn.Module | None = None
        if config.positions == "learned":
            self.places = LearnedPlaces(self.width, config.bins, config.max_distance)
        elif config.positions == "sinusoidal":
            self.places = SinusoidalPlaces(self.width)

    def load(self) -> None:
        """Fill in the image encoder's weights."""
        self.encoder.load()

    def processor(self) -> MedicalProcessor:
        """Prepares volumes and pictures."""
        return MedicalProcessor(self.encoder.processor(), self.config.view(), tuple(self.config.header))

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """Stacked items -> Features [M, N S, D], grid (n, y, x): slices in the order of their places."""
        features = encode_pictures(self.encoder, without(items, POSITIONS, AXES), self.config.batch_size)
        if self.places is None:
            return features
        places = self.places(items[POSITIONS], items[AXES]).to(features.values.dtype)
        rows = features.values.shape[1] // places.shape[1]
        moved = features.values + places.repeat_interleave(rows, dim=1)
        return features.with_values(moved * features.mask[..., None])

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """A small CLIP on at most three slices with learned places, and two volumes and a picture."""
        import nibabel

        volume: Any = nibabel.Nifti1Image
        for shape in ((9, 7, 5), (6, 8, 2)):
            nibabel.save(volume(synthetic.noise(*shape), np.eye(4)), folder / f"{shape[2]}.nii.gz")
        synthetic.picture(folder / "slice.png", 37, 41)
        media = [Media("volume", path.name, str(folder)) for path in sorted(folder.iterdir())]
        config = {"encoder": INSIDE_EXAMPLES, "slices": 3, "positions": "learned", "bins": 8}
        return EncoderExample(media, config)

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Of DICOM and NIfTI files; pictures are for the image encoders. Raises MediaError."""
        return facts_of(media)


class LearnedPlaces(nn.Module):
    """A learned row for each axis and stretch of it, zero at first."""

    def __init__(self, width: int, bins: int, reach: float) -> None:
        super().__init__()
        self.bins, self.reach = bins, reach
        self.table = nn.Embedding(3 * bins, width)
        nn.init.zeros_(self.table.weight)

    def forward(self, positions: Tensor, axes: Tensor) -> Tensor:
        """[M, N] millimetres and [M, N] axes -> [M, N, D]."""
        share = (positions / self.reach + 1) / 2
        place = (share * self.bins).floor().clamp(0, self.bins - 1).long()
        found: Tensor = self.table(axes * self.bins + place)
        return found


class SinusoidalPlaces(nn.Module):
    """Sines and cosines of the place (Vaswani et al., arXiv 1706.03762, section 3.5), a third of the width an axis."""

    SHORTEST, LONGEST = 2.0, 2000.0
    """Wave lengths in millimetres."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.waves = width, width // 6

    def forward(self, positions: Tensor, axes: Tensor) -> Tensor:
        """[M, N] millimetres and [M, N] axes -> [M, N, D]; zero in the thirds of the other axes."""
        steps = torch.arange(self.waves, device=positions.device) / max(1, self.waves - 1)
        lengths = self.SHORTEST * (self.LONGEST / self.SHORTEST) ** steps
        angles = positions[..., None] * (2 * math.pi / lengths)
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        here = nn.functional.one_hot(axes, 3).to(waves.dtype)
        placed = (here[..., None] * waves[..., None, :]).flatten(-2)
        return nn.functional.pad(placed, (0, self.width - placed.shape[-1]))
