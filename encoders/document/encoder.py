"""`document`: pages (PDF, images of pages) cut into crops, each encoded by an image encoder.

Crops by shape with a global view and learned crop positions (UReader, arXiv 2310.05126; mPLUG-DocOwl 1.5, arXiv
2403.12895; PaperOwl's tables, arXiv 2311.18248), or any-resolution tiles joined to one feature map (LLaVA-NeXT). See
`omnivit.media.tiling` for how a page is cut and `omnivit.media.pages` for what is read.

LLaVA-NeXT's newline embedding is not added here, because it comes after the projector: use `global_beside: true`, and
the adapter `markers` with `row: true`.

Shapes: M media, N crops of a medium, S tokens of a crop, L tokens of a medium, V views (maps) of a medium, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from omnivit.contracts.options import require_within
from omnivit.media import tiling
from omnivit.media.pages import LONGEST, MAX_PAGES, facts_of
from omnivit.model.images import INSIDE_EXAMPLES, without
from omnivit.plugin import (
    Card,
    Encoder,
    EncoderExample,
    Features,
    Layout,
    Media,
    MediaFacts,
    Processor,
    RecipeError,
    build_encoder,
    configure_encoder,
    encode_images,
    layout_of,
    layout_of_images,
    prepare_images,
    read_pages,
    synthetic,
)

MOST_CROPS = 100
OWN = ("places", "order", "grid", "maps")
"""Keys of an item that are not the image encoder's."""


@dataclass
class DocumentConfig:
    """Options of `document`."""

    encoder: dict[str, Any]
    """The image encoder for each crop: `name` and its options. It must not crop its images (for `timm`: `crop_pct:
    1`)."""
    cropping: Literal["adaptive", "any_resolution", "none"] = "adaptive"
    """`adaptive`: resize the page to the grid of crops whose shape is nearest; `any_resolution`: resize it, with its
    aspect ratio, to the grid that keeps most of its pixels, and pad with black; `none`: the global view only."""
    crops: int | None = None
    """Largest number of crops of a page; all grids with at most this number are allowed. Default: 9 for `adaptive`,
    LLaVA-NeXT's five grids of 2 to 4 crops for `any_resolution`."""
    grids: list[list[int]] | None = None
    """The allowed grids instead of `crops`: a list of [rows, columns]."""
    global_view: bool = True
    """Add one crop with the whole page, resized, before the crops of a page."""
    joined: bool = False
    """Join the tokens of all crops of a page to one feature map, row by row over all crops, without the tokens on the
    padding."""
    global_beside: bool = False
    """With `joined`: the tokens of the global view have no place in the grid, which is that of the cut page alone, so
    that `markers` with `row: true` marks the lines of the page and not those of the global view, as in LLaVA-NeXT. For
    one page."""
    positions: bool = False
    """Add the mean of a learned row embedding and a learned column embedding to all tokens of a crop."""
    pages: int = 1
    """Number of first pages that are read if the record does not choose pages (`report.pdf#page=3`)."""
    max_side: int = LONGEST
    """Longer side, in pixels, of a page that is rendered from a PDF. Images of pages keep their size."""
    batch_size: int = 32
    """Most crops in one forward pass of the image encoder."""

    renamed: ClassVar[Mapping[str, str]] = {"longest": "max_side", "at_once": "batch_size"}

    def __post_init__(self) -> None:
        require_within(self, 1, MOST_CROPS, "crops")
        require_within(self, 1, MAX_PAGES, "pages")
        require_within(self, 16, 8192, "max_side")
        require_within(self, 1, None, "batch_size")
        if self.crops is not None and self.grids is not None:
            raise ValueError("`crops` and `grids` cannot both be set, because both define the allowed grids.")
        bad = [grid for grid in self.grids or [] if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] > MOST_CROPS]
        if bad or self.grids == []:
            raise ValueError(
                f"`grids` contains {bad[0] if bad else 'nothing'}, but it must be a list of [rows, columns] with at "
                f"most {MOST_CROPS} crops each, such as [[1, 1], [2, 1]]."
            )
        if self.cropping == "none" and (self.crops or self.grids or self.joined or not self.global_view):
            raise ValueError(
                "with `cropping: none` only the global view is used. Remove `crops`, `grids` and `joined`, and keep "
                "`global_view: true`."
            )

        if self.global_beside and not (self.joined and self.global_view and self.pages == 1):
            raise ValueError("`global_beside` needs `joined: true`, `global_view: true` and `pages: 1`.")

    def choices(self) -> tuple[tiling.Grid, ...]:
        """The grids that a page may be cut into."""
        if self.grids is not None:
            return tuple((grid[0], grid[1]) for grid in self.grids)
        if self.crops is None and self.cropping == "any_resolution":
            return tiling.LLAVA_NEXT
        return tiling.grids_of(self.crops or 9)


@dataclass(frozen=True)
class DocumentProcessor:
    """Pages -> an item: `pictures` [], `places` [N, 3], the image encoder's tensors [N, ...]; picklable, no weights.

    `places` are (page, row, column) of each crop, -1 twice for a global view. Joined, there are `maps` [V, 2], sizes
    of the maps; `order` [L], which of the N S tokens follow each other; and `grid` [L, 3], their (view, y, x).
    """

    inside: Processor
    config: DocumentConfig
    side: tiling.Size
    patches: tuple[int, int] | None
    """The grid (y, x) of a crop's tokens if they are to be joined."""

    def __call__(self, media: Media) -> dict[str, Tensor]:
        """Read, cut and prepare the pages of a document. Raises MediaError."""
        crops: list[Image.Image] = []
        places: list[tuple[int, int, int]] = []
        views: list[View] = []
        for number, page in enumerate(read_pages(media, self.config.pages, self.config.max_side)):
            if self.config.global_view:
                views.append(View(len(places), (1, 1)))
                crops += tiling.squeezed(page, (1, 1), self.side)
                places.append((number, -1, -1))
            if self.config.cropping != "none":
                cells, grid = self._cut(page)
                views.append(View(len(places), grid, (page.height, page.width) if self._padded else None))
                crops += cells
                places += [(number, y, x) for y in range(grid[0]) for x in range(grid[1])]
        item = {"places": torch.tensor(places), **prepare_images(self.inside, crops, media)}
        return item if self.patches is None else item | joined(views, self.patches, self.config.global_beside)

    def length(self, item: Mapping[str, Tensor]) -> int:
        """Tokens of all crops, without those on the padding if crops are joined."""
        return self._layout(item).tokens

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        """(crop, y, x); joined, (view, y, x) where all views are of one size."""
        return self._layout(item).grid

    def fingerprint(self) -> str:
        """Every setting, as text."""
        config = self.config
        grids = config.choices()
        values = (self.side, config.cropping, grids, config.global_view, self.patches, config.pages, config.max_side)
        beside = " global_beside" if config.global_beside else ""
        return f"document {values}{beside} {self.inside.fingerprint()}"

    def _layout(self, item: Mapping[str, Tensor]) -> Layout:
        if "maps" not in item:
            return layout_of_images(self.inside, without(item, *OWN))
        sizes = [(int(y), int(x)) for y, x in item["maps"] if y * x > 0]
        tokens = sum(y * x for y, x in sizes)
        if self.config.global_beside:
            return Layout(tokens, sizes[-1])
        return Layout(tokens, (len(sizes), *sizes[0]) if len(set(sizes)) == 1 else None)

    @property
    def _padded(self) -> bool:
        return self.config.cropping == "any_resolution"

    def _cut(self, page: Image.Image) -> tuple[list[Image.Image], tiling.Grid]:
        size = page.height, page.width
        if self._padded:
            grid = tiling.best_grid(size, self.side, self.config.choices())
            return tiling.padded(page, grid, self.side), grid
        grid = tiling.adaptive_grid(size, self.side, self.config.choices())
        return tiling.squeezed(page, grid, self.side), grid


@dataclass(frozen=True)
class View:
    """Crops that show one page: the global view, or its cut."""

    first: int
    """Number of its first crop among those of the medium."""
    grid: tiling.Grid
    page: tiling.Size | None = field(default=None)
    """Size of the page, if it was padded with black."""


def joined(views: Sequence[View], patches: tuple[int, int], beside: bool = False) -> dict[str, Tensor]:
    """How the tokens of crops are joined to feature maps: `maps` [V, 2], `order` [L], `grid` [L, 3] (view, y, x).

    With `beside`, there are two views, and the grid is [L, 2]: (y, x) of the second, -1 twice for tokens of the first.
    """
    y, x = patches
    order, grid, maps = [], [], []
    for number, view in enumerate(views):
        rows, columns = view.grid
        # numbers of the tokens, crop by crop; the transposed table has them row by row over all crops
        numbers = torch.arange(rows * columns * y * x).view(rows, columns, y, x) + view.first * y * x
        table = numbers.transpose(1, 2).reshape(rows * y, columns * x)
        if view.page is not None:
            table = table[tiling.unpadded((rows * y, columns * x), view.page)]
        maps.append(table.shape)
        order.append(table.flatten())
        places = torch.cartesian_prod(torch.tensor([number]), *(torch.arange(side) for side in table.shape))
        grid.append(places if not beside else places[:, 1:] if number else torch.full((len(places), 2), -1))
    return {"maps": torch.tensor(maps), "order": torch.cat(order), "grid": torch.cat(grid)}


class CropPositions(nn.Module):
    """An embedding for each row and each column of a grid of crops; the last of both is for the global view."""

    def __init__(self, most: int, width: int) -> None:
        super().__init__()
        self.row = nn.Embedding(most + 1, width)
        self.column = nn.Embedding(most + 1, width)
        for table in (self.row, self.column):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, places: Tensor) -> Tensor:
        """(row, column) of crops [M, N, 2], -1 for a global view -> [M, N, D]."""
        row, column = places.remainder(self.row.num_embeddings).unbind(-1)
        mean: Tensor = (self.row(row) + self.column(column)) / 2
        return mean


class DocumentEncoder(Encoder):
    """Tokens of the crops of pages, page by page, global view first, then crop by crop or joined ([M, L, D])."""

    contract = 1
    Config = DocumentConfig
    modality = "page"
    stageable = frozenset({"encoder", "crops", "grids", "global_view", "pages", "max_side"})
    card = Card(
        paper="Ye et al., UReader, arXiv 2310.05126; Hu et al., mPLUG-DocOwl 1.5, arXiv 2403.12895; tiles of any "
        "resolution: LLaVA-NeXT",
        weights="the image encoder's",
        tokens="crops x those of the image encoder: 1792 for an A4 page with CLIP ViT-L/14 at 224 pixels and 9 crops",
    )

    def __init__(self, config: DocumentConfig) -> None:
        """Raises RecipeError: the image encoder cannot be built, crops its images, or gives no grid to join."""
        super().__init__()
        self.encoder = build_encoder(config.encoder, "encoder", "image")
        self.width = self.encoder.width
        self._most = max(itertools.chain(*config.choices()))
        self.positions = CropPositions(self._most, self.width) if config.positions else None
        self._take(config)

    def configure(self, config: DocumentConfig) -> None:
        """Take other crops and pages, or options of the image encoder. Raises RecipeError if crops had no position."""
        most = max(itertools.chain(*config.choices()))
        if self.positions is not None and most > self._most:
            raise RecipeError(
                f"document encoder: `positions` has embeddings for {self._most} crops on a side, not for {most}. Set "
                "the largest `crops` or `grids` in `model.inputs`, and smaller ones in stages."
            )
        configure_encoder(self.encoder, config.encoder, "encoder")
        self._take(config)

    def _take(self, config: DocumentConfig) -> None:
        """Set what follows from the options and the image encoder as it is now."""
        if config.encoder.get("fit", "crop") != "crop":
            raise RecipeError(
                f"document encoder: `fit: {config.encoder['fit']}` of `encoder` would have no effect, because pages "
                "are cut into squares before. Remove it, and see `cropping`."
            )
        self.config = config
        inside = self.encoder.processor()
        self._processor = DocumentProcessor(inside, config, _side(inside), _patches(inside) if config.joined else None)

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Number of pages and their size. Raises MediaError."""
        return facts_of(media)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """A small CLIP on up to four joined tiles with learned positions; pages of three shapes."""
        shapes = ((61, 43), (31, 97), (20, 20))
        config = {"encoder": INSIDE_EXAMPLES, "cropping": "any_resolution", "crops": 4, "joined": True}
        return EncoderExample(synthetic.pictures(folder, "page", shapes), {**config, "positions": True})

    def load(self) -> None:
        """Load the image encoder's weights."""
        self.encoder.load()

    def processor(self) -> DocumentProcessor:
        """Reads pages and cuts them."""
        return self._processor

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        """Stacked items -> Features [M, L, D], grid (crop, y, x), or (view, y, x) where crops are joined."""
        features = encode_images(self.encoder, without(items, *OWN), self.config.batch_size)
        if self.positions is not None:
            places = items["places"]
            crops = features.values.reshape(*places.shape[:2], -1, self.width)
            added = crops + self.positions(places[..., 1:])[:, :, None].to(crops.dtype)
            features = features.with_values(added.flatten(1, 2) * features.mask[..., None])
        return _in_order(features, items) if "order" in items else features


def _in_order(features: Features, items: Mapping[str, Tensor]) -> Features:
    """The tokens [M, N S, D] in the order of the joined maps."""
    order = items["order"]
    lengths = items["maps"].prod(dim=2).sum(dim=1)
    mask = torch.arange(order.shape[1], device=order.device) < lengths[:, None]
    values = features.values.gather(1, order[..., None].expand(-1, -1, features.values.shape[2]))
    return Features(values * mask[..., None], mask, items["grid"])


def _side(inside: Processor) -> tiling.Size:
    """Height and width of the image encoder's input, which is the size of a crop."""
    seen = [value for value in _prepared(inside, Image.new("RGB", (64, 64))).values() if value.ndim == 3]
    if len(seen) != 1:
        raise RecipeError(
            "document encoder: the image size of `encoder` is unknown, because its items contain no single tensor "
            "[channels, H, W]. Use `clip` or `timm`."
        )
    side = seen[0].shape[1], seen[0].shape[2]
    blank = Image.new("RGB", (side[1], side[0]))
    framed = Image.new("RGB", blank.size, (255, 255, 255))
    framed.paste(Image.new("RGB", (side[1] - 2, side[0] - 2)), (1, 1))
    plain, other = _prepared(inside, blank), _prepared(inside, framed)
    if all(torch.equal(plain[key], other[key]) for key in plain):
        raise RecipeError(
            f"document encoder: `encoder` crops the edges of its images ({side[0]} x {side[1]} pixels), so that text "
            f"between two crops would be lost. For `timm`, set `crop_pct: 1`."
        )
    return side


def _patches(inside: Processor) -> tuple[int, int]:
    layout = layout_of(inside, _prepared(inside, Image.new("RGB", (64, 64))))
    grid = layout.grid
    if grid is None or len(grid) != 2 or layout.beside != 0:
        raise RecipeError(
            "document encoder: with `joined: true` the tokens of `encoder` must fill a grid (y, x), but they do not. "
            "Set `class_token: drop` in `encoder`, or remove `joined`."
        )
    return grid[0], grid[1]


def _prepared(inside: Processor, image: Image.Image) -> dict[str, Tensor]:
    with torch.device("cpu"):  # real pixels, even if the model is on the meta device
        return inside(Media("image", image))
