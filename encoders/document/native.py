"""`document_native`: pages at their own shape, with a limit on the number of patches (Pix2Struct, NaFlex).

Pix2Struct (Lee et al., arXiv 2210.03347, section 3.1) scales a page up or down, its ratio kept, to the most patches
that a budget allows, and learns an embedding for each row and column of patches. SigLIP 2's NaFlex models (Tschannen et
al., arXiv 2502.14786, section 2.4; after NaViT, arXiv 2307.06304) do so with interpolated positions. Pages are prepared
by the checkpoint's own image processor, and the tokens are the model's last hidden states after its final norm.

Pix2Struct draws the question on top of the page; here it is asked as text.

Shapes: M media, N pages of a medium, P pages of all media, S patches of a page (padded), L tokens of a medium, D width.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoImageProcessor

from omnivit.contracts.options import require_within
from omnivit.media.pages import LONGEST, MAX_PAGES, facts_of
from omnivit.model.arguments import accepted
from omnivit.model.hf_tower import Tower, require_one_source
from omnivit.plugin import (
    Card,
    Encoder,
    EncoderExample,
    Features,
    Media,
    MediaFacts,
    RecipeError,
    explained,
    load_pretrained,
    locate,
    processor_fingerprint,
    read_pages,
    require_weights,
    suggest,
    synthetic,
)


@dataclass
class DocumentNativeConfig:
    """Options of `document_native`. Either `path` or `config`."""

    path: str | None = None
    """Pretrained weights: a hub id or folder of a Pix2Struct or a SigLIP 2 NaFlex model; its vision tower is used."""
    config: dict[str, Any] | None = None
    """Random weights instead of `path`: a transformers config with its `model_type`: pix2struct_vision_model or
    siglip2_vision_model."""
    max_patches: int | None = None
    """Most patches of a page, which is the number of tokens; default: the value of the checkpoint's image processor
    (2048 and 256)."""
    pages: int = 1
    """Number of first pages that are read if the record does not choose pages (`report.pdf#page=3`)."""
    max_side: int = LONGEST
    """Longer side, in pixels, of a page that is rendered from a PDF. Images of pages keep their size."""
    batch_size: int = 8
    """Most pages in one forward pass of the model."""

    renamed: ClassVar[Mapping[str, str]] = {"longest": "max_side", "at_once": "batch_size"}

    def __post_init__(self) -> None:
        require_one_source(self.path, self.config)
        require_within(self, 1, 1 << 14, "max_patches")
        require_within(self, 1, MAX_PAGES, "pages")
        require_within(self, 16, 8192, "max_side")
        require_within(self, 1, None, "batch_size")


class Family(ABC):
    """The input format of a family of models. Stateless."""

    model: ClassVar[str]
    """Class name of the vision model in transformers."""
    processor: ClassVar[str]
    """Class name of its image processor."""
    budget: ClassVar[str]
    """The image processor's name for the largest number of patches."""

    @staticmethod
    @abstractmethod
    def options(settings: Any) -> dict[str, Any]:
        """The image processor's options for a model of this config."""

    @staticmethod
    @abstractmethod
    def patches(prepared: Mapping[str, Tensor]) -> tuple[Tensor, tuple[int, int]]:
        """The image processor's output for one page -> patches [y * x, pixels] and (y, x)."""

    @staticmethod
    @abstractmethod
    def run(model: Any, patches: Tensor, shapes: Tensor, mask: Tensor) -> Tensor:
        """Patches [P, S, pixels], shapes [P, 2] (y, x) and mask [P, S] -> last hidden states [P, S, D]."""


class Pix2Struct(Family):
    """Patches contain their row and column, counted from 1; 0 is padding."""

    model = "Pix2StructVisionModel"
    processor = "Pix2StructImageProcessor"
    budget = "max_patches"

    @staticmethod
    def options(settings: Any) -> dict[str, Any]:
        side = math.isqrt(settings.patch_embed_hidden_size // 3)
        return {"patch_size": {"height": side, "width": side}, "is_vqa": False}

    @staticmethod
    def patches(prepared: Mapping[str, Tensor]) -> tuple[Tensor, tuple[int, int]]:
        flat = prepared["flattened_patches"][0]
        y, x = int(flat[:, 0].max()), int(flat[:, 1].max())
        return flat[: y * x, 2:], (y, x)

    @staticmethod
    def run(model: Any, patches: Tensor, shapes: Tensor, mask: Tensor) -> Tensor:
        places = (_places(shapes, patches.shape[1]) + 1) * mask[..., None]
        flat = torch.cat([places.to(patches.dtype), patches], dim=2)
        # `flat` contains rows and columns, so it stays in float32: bfloat16 represents integers only up to 256
        hook = model.embeddings.patch_projection.register_forward_pre_hook(_as_its_weight)
        try:
            hidden: Tensor = model(
                **accepted(model, flattened_patches=flat, attention_mask=mask.long())
            ).last_hidden_state
        finally:
            hook.remove()
        return hidden


class NaFlex(Family):
    """SigLIP 2 of varying size: positions are interpolated to the shape of the page."""

    model = "Siglip2VisionModel"
    processor = "Siglip2ImageProcessor"
    budget = "max_num_patches"

    @staticmethod
    def options(settings: Any) -> dict[str, Any]:
        return {"patch_size": settings.patch_size}

    @staticmethod
    def patches(prepared: Mapping[str, Tensor]) -> tuple[Tensor, tuple[int, int]]:
        y, x = prepared["spatial_shapes"][0].tolist()
        return prepared["pixel_values"][0, : y * x], (y, x)

    @staticmethod
    def run(model: Any, patches: Tensor, shapes: Tensor, mask: Tensor) -> Tensor:
        inputs = accepted(model, pixel_values=patches, pixel_attention_mask=mask.long(), spatial_shapes=shapes)
        made = model(**inputs)
        hidden: Tensor = made.last_hidden_state
        return hidden


FAMILIES: dict[str, type[Family]] = {"pix2struct_vision_model": Pix2Struct, "siglip2_vision_model": NaFlex}


@dataclass(frozen=True)
class DocumentNativeProcessor:
    """Pages -> `count` [] their number, `patches` [N, S, pixels] and `shapes` [N, 2] (y, x); picklable, no weights."""

    process: Any
    """A transformers image processor."""
    family: type[Family]
    max_patches: int
    pages: int
    longest: int

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read and prepare the pages of a document. Raises MediaError."""
        made = [self._patches(page) for page in read_pages(media, self.pages, self.longest)]
        return {
            "count": torch.tensor(len(made)),
            "patches": pad_sequence([patches for patches, _ in made], batch_first=True),
            "shapes": torch.tensor([shape for _, shape in made]),
        }

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Patches of all pages."""
        return int(item["shapes"].prod(dim=1).sum())

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        """(page, y, x) where all pages have one shape."""
        shapes = {(int(y), int(x)) for y, x in item["shapes"][: int(item["count"])]}
        return (int(item["count"]), *shapes.pop()) if len(shapes) == 1 else None

    def fingerprint(self) -> str:
        """Changes with the settings. 16 hex digits."""
        return processor_fingerprint(self.process, self.max_patches, self.pages, self.longest)

    def _patches(self, page: Image.Image) -> tuple[Tensor, tuple[int, int]]:
        made = self.process(images=page, return_tensors="pt", **{self.family.budget: self.max_patches})
        return self.family.patches(made)


class DocumentNativeEncoder(Encoder):
    """The last hidden states of pages of any shape, patch by patch and page by page ([M, L, D])."""

    contract = 1
    Config = DocumentNativeConfig
    modality = "page"
    card = Card(
        paper="Lee et al., Pix2Struct, arXiv 2210.03347; Tschannen et al., SigLIP 2, arXiv 2502.14786",
        weights="Pix2Struct and SigLIP 2 (Google): Apache-2.0",
        tokens="one a patch, at most `max_patches` a page: 2048 for Pix2Struct, 256 for SigLIP 2 NaFlex",
    )

    def __init__(self, config: DocumentNativeConfig) -> None:
        """Raises RecipeError where the model cannot be found or built, or is of another family."""
        super().__init__()
        self.config = config
        self._source = Tower("document_native", config.path, config.config)
        self._settings = _settings(self._source)
        require_weights(config.path)
        self._family = FAMILIES[self._settings.model_type]
        self._process = _image_processor(self._source, self._family, self._settings)
        self.max_patches = config.max_patches or int(getattr(self._process, self._family.budget))
        longest = getattr(self._settings, "seq_len", None)
        if longest is not None and self.max_patches >= longest:
            raise RecipeError(
                f"document_native encoder: `max_patches` ({self.max_patches}) must be less than `seq_len` of the model "
                f"({longest}): the model has positions for {longest - 1} rows and columns, and one for padding."
            )
        self.width = int(self._settings.hidden_size)
        with explained(f"document_native encoder: a model of type {self._settings.model_type!r} cannot be built"):
            self.tower: nn.Module = _class(self._family)(copy.deepcopy(self._settings)).eval()

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Number of pages and their size. Raises MediaError."""
        return facts_of(media)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """A Pix2Struct of two layers of 32 numbers on at most 20 patches, and pages of three shapes."""
        sizes = {"hidden_size": 32, "d_ff": 64, "d_kv": 8, "num_attention_heads": 4, "num_hidden_layers": 2}
        config = {"model_type": "pix2struct_vision_model", **sizes, "patch_embed_hidden_size": 192, "seq_len": 64}
        shapes = ((61, 43), (31, 97), (7, 5))
        return EncoderExample(synthetic.pictures(folder, "page", shapes), {"config": config, "max_patches": 20})

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError where they do not fit."""
        if self.config.path is None:
            return
        self.tower = load_pretrained(
            _class(self._family),
            locate(self.config.path),
            str(self._source),
            config=copy.deepcopy(self._settings),
            key_mapping={r"^encoder\.(embeddings|encoder|layernorm)\.": r"\1."},  # of a whole Pix2Struct
        )

    def processor(self) -> DocumentNativeProcessor:
        """Reads pages and prepares them as the checkpoint's own image processor does."""
        return DocumentNativeProcessor(
            self._process, self._family, self.max_patches, self.config.pages, self.config.max_side
        )

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """Stacked items -> Features [M, L, D], grid (page, y, x)."""
        shapes = items["shapes"]
        real = torch.arange(shapes.shape[1], device=shapes.device) < items["count"][:, None]
        patches, shapes = items["patches"][real], shapes[real]
        hidden = [
            row
            for start in range(0, len(shapes), self.config.batch_size)
            for row in self._run(
                patches[start : start + self.config.batch_size], shapes[start : start + self.config.batch_size]
            )
        ]
        number = real.nonzero()[:, 1]
        places = [
            torch.cat([number[page].expand(len(rows), 1), _places(shapes[page, None], len(rows))[0]], dim=1)
            for page, rows in enumerate(hidden)
        ]
        counts = items["count"].tolist()
        mask = _together([rows.new_ones(len(rows), dtype=torch.bool) for rows in hidden], counts)
        return Features(_together(hidden, counts), mask, _together(places, counts))

    def _run(self, patches: Tensor, shapes: Tensor) -> list[Tensor]:
        """Pages [P, S, pixels] -> the tokens [y * x, D] of each."""
        lengths = shapes.prod(dim=1)
        patches = patches[:, : int(lengths.max())]
        mask = torch.arange(patches.shape[1], device=patches.device) < lengths[:, None]
        hidden = self._family.run(self.tower, patches, shapes, mask)
        return [rows[:length] for rows, length in zip(hidden, lengths.tolist(), strict=True)]


def _as_its_weight(layer: nn.Linear, given: tuple[Tensor]) -> tuple[Tensor]:
    """The input of a linear layer in the dtype of its weight."""
    return (given[0].to(layer.weight.dtype),)


def _places(shapes: Tensor, most: int) -> Tensor:
    """Row and column of each patch, [P, most, 2], line by line; beyond the last patch, the count goes on."""
    number = torch.arange(most, device=shapes.device)
    x = shapes[:, 1:]
    return torch.stack([number.div(x, rounding_mode="floor"), number.remainder(x)], dim=2)


def _together(pages: list[Tensor], counts: list[int]) -> Tensor:
    """Tokens of pages, [y * x, ...] each, and how many pages each medium has -> [M, L, ...]."""
    parts = iter(pages)
    return pad_sequence([torch.cat([next(parts) for _ in range(count)]) for count in counts], batch_first=True)


def _class(family: type[Family]) -> Any:
    return getattr(transformers, family.model)


def _settings(source: Tower) -> Any:
    if source.config is not None:
        kind = str(source.config.get("model_type", ""))
        if kind not in FAMILIES:
            raise RecipeError(f"{source}, config: model_type {kind!r}; {suggest(kind, FAMILIES)}")
    settings = source.settings()
    settings = getattr(settings, "vision_config", settings)
    if settings.model_type not in FAMILIES:
        raise RecipeError(
            f"{source}: {settings.model_type!r} processes images of one size only. Available: {', '.join(FAMILIES)}. "
            f"For other models, use `document` with `clip` or `timm`."
        )
    if hasattr(settings, "vision_use_head"):
        settings.vision_use_head = False  # the pooled vector above the tokens is not used
    return settings


def _image_processor(source: Tower, family: type[Family], settings: Any) -> Any:
    if source.path is None:
        return getattr(transformers, family.processor)(**family.options(settings))
    process = source.preprocessor(AutoImageProcessor)
    if getattr(process, "is_vqa", False):
        process.is_vqa = False
    if not hasattr(process, family.budget):
        raise RecipeError(
            f"{source}: its image processor {type(process).__name__} returns images of one size only. Use a NaFlex "
            f"checkpoint, such as google/siglip2-base-patch16-naflex."
        )
    return process
