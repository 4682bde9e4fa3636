"""`medical`: volumes (DICOM, NIfTI) and single medical images, slice by slice through any image encoder.

Each slice is windowed for its modality and encoded by the inner image encoder: timm, HF vision models, or the image
tower of an open_clip checkpoint such as BiomedCLIP. An embedding of its place in the volume can be added.

Shapes: M volumes, N slices (padded), S tokens of a slice, D width.
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
    configure_encoder,
    encode_images,
    layout_of_images,
    prepare_images,
    read_volume,
    suggest,
    synthetic,
)

POSITIONS, AXES = "positions", "axes"
"""Keys of the slices' places in an item: [N] millimetres from the middle, [N] axis (0 x, 1 y, 2 z)."""


@dataclass
class MedicalConfig:
    """Options of `medical`."""

    encoder: dict[str, Any]
    """The image encoder for each slice, such as {name: timm, model: tf_efficientnet_lite0}."""
    slices: int = 8
    """Largest number of slices of a volume (for each plane). If there are more, the middle slices of equal parts are
    used."""
    planes: tuple[Literal["axial", "coronal", "sagittal"], ...] = ("axial",)
    """For NIfTI volumes: the planes that are sliced. DICOM slices are used as acquired."""
    windows: dict[str, str | tuple[float, float]] = field(default_factory=dict)
    """Modality -> window, `*` for all others: `file` (its own), `percentile`, a name (brain, stroke, subdural,
    temporal_bone, soft_tissue, abdomen, liver, mediastinum, lung, bone) or [centre, width]. Merged with the default
    {CT: soft_tissue, "*": percentile}. Colour images are never windowed."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Percentiles that become black and white with the window `percentile`, over the slices that are used."""
    time: int = 0
    """Index of the volume in a 4-D NIfTI file; a negative index counts from the end."""
    modality: str = ""
    """Modality of files that do not contain it (NIfTI): CT, MR, ..."""
    positions: Literal["none", "learned", "sinusoidal"] = "none"
    """Embedding of a slice's position along its axis, which is added to its tokens: `learned` (starts at zero) or
    `sinusoidal` (fixed)."""
    max_distance: float = 256.0
    """Largest distance from the middle of the volume, in millimetres, with embeddings of its own for `positions:
    learned`; positions beyond it use the last embedding."""
    bins: int = 64
    """Number of learned embeddings for each axis."""
    side: int = 512
    """Longest side of a slice, in pixels; larger slices are resized before the image encoder prepares them."""
    batch_size: int | None = None
    """Most slices in one forward pass of the image encoder, to limit memory; default: all slices of a batch."""
    allow_burned_in: bool = False
    """Read DICOM images with burned-in annotations, which may contain the patient's name."""
    header: tuple[str, ...] = ()
    """DICOM header fields that are given to the LLM as text before the volume: [Modality, BodyPartExamined, ...]. Only
    technical fields are allowed; all others are dropped."""

    renamed: ClassVar[Mapping[str, str]] = {"reach": "max_distance", "at_once": "batch_size"}

    def __post_init__(self) -> None:
        if self.bins < 1 or not 0 < self.max_distance < math.inf:
            raise ValueError(f"`bins` ({self.bins}) and `max_distance` ({self.max_distance}) must be above 0.")
        require_within(self, 1, None, "batch_size")
        for name in self.header:
            if name not in READABLE:
                raise ValueError(
                    f"`header`: the field {name} is unknown, or may identify a person; {suggest(name, READABLE)}"
                )
        try:
            self.view()
        except RecipeError as error:
            raise ValueError(str(error)) from error

    def view(self) -> View:
        """What is expected of each volume."""
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
        item = prepare_images(self.inside, volume.images(), media)
        return {**item, POSITIONS: torch.from_numpy(volume.positions), AXES: torch.from_numpy(volume.axes)}

    def preface(self, media: Media) -> str:
        """`Modality: CT; SliceThickness: 5.0` and a new line: the chosen fields of a DICOM header; empty for other
        files."""
        if not (self.header and has_header(media)):
            return ""
        fields = read_header(media, self.header)
        return "; ".join(f"{name}: {value}" for name, value in fields.items()) + "\n" if fields else ""

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Tokens of all slices."""
        return layout_of_images(self.inside, without(item, POSITIONS, AXES)).tokens

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        """(n, y, x) if the image encoder's tokens fill (y, x)."""
        return layout_of_images(self.inside, without(item, POSITIONS, AXES)).grid

    def fingerprint(self) -> str:
        """Every setting, as text."""
        return f"{self.view!r} {self.header} {self.inside.fingerprint()}"


class MedicalEncoder(Encoder):
    """The tokens of each slice, slice after slice ([M, N S, D])."""

    contract = 1
    Config = MedicalConfig
    modality = "volume"
    stageable = frozenset({"encoder", "slices", "side", "windows"})
    card = Card(
        paper="the image encoder's; sinusoidal places: Vaswani et al., Attention Is All You Need, arXiv 1706.03762",
        weights="the image encoder's; BiomedCLIP (Microsoft): MIT",
        tokens="slices x those of the image encoder",
    )

    def __init__(self, config: MedicalConfig) -> None:
        """Raises RecipeError or PluginError if the image encoder cannot be built."""
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder, "encoder", "image")
        self.width = self.encoder.width
        self.places: nn.Module | None = None
        if config.positions == "learned":
            self.places = LearnedPlaces(self.width, config.bins, config.max_distance)
        elif config.positions == "sinusoidal":
            self.places = SinusoidalPlaces(self.width)

    def configure(self, config: MedicalConfig) -> None:
        """Take other slices and windows, or options of the image encoder."""
        configure_encoder(self.encoder, config.encoder, "encoder")
        self.config = config

    def load(self) -> None:
        """Load the image encoder's weights."""
        self.encoder.load()

    def processor(self) -> MedicalProcessor:
        """Prepares volumes and images."""
        return MedicalProcessor(self.encoder.processor(), self.config.view(), tuple(self.config.header))

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """Stacked items -> Features [M, N S, D], grid (n, y, x): slices in the order of their places."""
        features = encode_images(self.encoder, without(items, POSITIONS, AXES), self.config.batch_size)
        if self.places is None:
            return features
        places = self.places(items[POSITIONS], items[AXES]).to(features.values.dtype)
        rows = features.values.shape[1] // places.shape[1]
        moved = features.values + places.repeat_interleave(rows, dim=1)
        return features.with_values(moved * features.mask[..., None])

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """A small CLIP on at most three slices with learned places, and two volumes and an image."""
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
        """Of DICOM and NIfTI files; images are for the image encoders. Raises MediaError."""
        return facts_of(media)


class LearnedPlaces(nn.Module):
    """A learned embedding for each axis and bin of it, zero at first."""

    def __init__(self, width: int, bins: int, max_distance: float) -> None:
        super().__init__()
        self.bins, self.max_distance = bins, max_distance
        self.table = nn.Embedding(3 * bins, width)
        nn.init.zeros_(self.table.weight)

    def forward(self, positions: Tensor, axes: Tensor) -> Tensor:
        """[M, N] millimetres and [M, N] axes -> [M, N, D]."""
        share = (positions / self.max_distance + 1) / 2
        place = (share * self.bins).floor().clamp(0, self.bins - 1).long()
        embeddings: Tensor = self.table(axes * self.bins + place)
        return embeddings


class SinusoidalPlaces(nn.Module):
    """Sines and cosines of the place (Vaswani et al., arXiv 1706.03762, section 3.5), a third of the width for each
    axis."""

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
