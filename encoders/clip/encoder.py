"""`clip`: any Hugging Face vision transformer of one image size (CLIP, SigLIP 1 and 2, DINOv2, ViT, BLIP-2's, ...).

The tokens are a hidden state of its patches. LLaVA uses the one before the last layer of CLIP (Liu et al., Visual
Instruction Tuning, arXiv 2304.08485, section 4.1): `layer: -2`, the default. Layers above the deepest chosen one are
not built. Several hidden states: LaVIN (Luo et al., arXiv 2305.15023) reads the class tokens of six layers.

Shapes: M images, H x W pixels, y x x patches, S tokens, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omnivit_encoders.clip import towers
from omnivit_encoders.clip.config import ClipConfig
from omnivit_encoders.clip.positions import resize_table, tables_of
from omnivit_encoders.clip.processor import ClipProcessor, image_processor, padding_colour, pair
from torch import Tensor

from omnivit.media.images import facts_of
from omnivit.model.hf_tower import Tower, all_tokens, patch_grid
from omnivit.model.unused import remove, sketching, unused
from omnivit.plugin import (
    Card,
    EncoderExample,
    Features,
    Layout,
    Media,
    MediaFacts,
    RecipeError,
    ViewableEncoder,
    explained,
    require_weights,
    synthetic,
    torch_dtype,
)

States = Mapping[int, Tensor]
"""Number of layers below a hidden state -> [M, prefix + y * x, D]."""


class ClipEncoder(ViewableEncoder):
    """Hidden states of a vision transformer, patch by patch ([M, S, D])."""

    contract = 1
    Config = ClipConfig
    modality = "image"
    stageable = frozenset({"fit", "fill", "image_size"})
    view_options = frozenset({"layer", "join", "class_token", "norm", "project"})
    card = Card(
        paper="Radford et al., Learning Transferable Visual Models From Natural Language Supervision, arXiv "
        "2103.00020; the hidden state: Liu et al., Visual Instruction Tuning, arXiv 2304.08485",
        weights="CLIP (OpenAI): MIT; SigLIP and SigLIP 2 (Google): Apache-2.0; others: as their model cards say",
        tokens="one for each patch: 576 (24 x 24) for CLIP ViT-L/14 at 336 pixels, 256 (16 x 16) at 224",
    )

    tower: Any
    unused: list[str]
    """Parts that the tower does without."""

    def __init__(self, config: ClipConfig, views: Sequence[ClipConfig] = ()) -> None:
        """Raises RecipeError if the model cannot be found or built, or has no such layer, class token or norm."""
        super().__init__(config, views)
        self.config = config
        readings = (config, *views)
        self._source = Tower("clip", config.path, config.config, config.dtype)
        self._settings = towers.vision_settings(self._source)
        self._depths = {layer: self._source.depth(self._settings, layer) for one in readings for layer in one.layers}
        self._settings = self._source.up_to_layer(self._settings, max(self._depths.values()))
        self._published = self._settings
        if config.resize_positions:
            self._settings = towers.of_size(self._settings, config.image_size)
        self._project = any(one.project for one in readings)
        require_weights(config.path)
        self._process, height, width = image_processor(config, self._source, self._settings)
        self._prepare(readings, height, width)
        self.width, self.levels = self.width_of(config), self.levels_of(config)

    @classmethod
    def inspect(cls, media: Media) -> MediaFacts:
        """Size and format of an image. Raises MediaError."""
        return facts_of(media)

    @classmethod
    def example(cls, folder: Path) -> EncoderExample:
        """Two layers of 24 numbers, and images of three shapes."""
        sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = {"model_type": "clip_vision_model", **sizes, "image_size": 32, "patch_size": 16}
        shapes = ((37, 61), (50, 29), (31, 31))
        return EncoderExample(synthetic.pictures(folder, "image", shapes), {"config": config})

    def load(self) -> None:
        """Load the weights of `path`. Raises RecipeError if they do not fit."""
        if self.config.path is None:
            return
        self.tower = towers.load(self._source, type(self.tower), self._published)
        if self.config.resize_positions:
            self._resize()
        remove(self.tower, self.unused)

    def resized(self, name: str, value: Tensor) -> Tensor | None:
        """A table of position embeddings of another image size, interpolated; with `resize_positions` alone."""
        table = name.removeprefix("tower.")
        if table not in self._tables:
            return None
        return resize_table(value, self.patches, self.get_parameter(name).shape[-2])

    def processor_of(self, config: ClipConfig) -> ClipProcessor:
        """Prepares images as the checkpoint's own image processor does."""
        layout, fit = self._layout(config), self.config.fit
        colour = padding_colour(self.config, self._process)
        return ClipProcessor(self._process, layout.tokens, layout.grid, fit, colour)  # type: ignore[arg-type]  # (y, x)

    def configure(self, config: ClipConfig) -> None:
        """Take another `fit`, `fill` or `image_size`. Raises RecipeError if the model does not accept the size."""
        if config.resize_positions and config.image_size != self.config.image_size:
            raise RecipeError(
                f"clip encoder: with `resize_positions: true` the table of positions is for images of "
                f"{self.config.image_size} pixels, so a stage cannot set `image_size: {config.image_size}`. Write a "
                f"second recipe that begins with the run of the first (`init_from`)."
            )
        self._process, height, width = image_processor(config, self._source, self._settings)
        y_patch, x_patch = pair(self._settings.patch_size)
        with sketching():
            tower = towers.build(self._source, self._settings, self._project)
            remove(tower, self.unused)
            with explained(f"clip encoder: {type(tower).__name__} does not accept images of {height} x {width} pixels"):
                self._run(tower, torch.empty(1, 3, height, width))
        self.config, self.patches = config, (height // y_patch, width // x_patch)

    def width_of(self, config: ClipConfig) -> int:
        """D; with `join: channels` that of all layers together."""
        width = self._widths[config.project]
        return width * len(config.layers) if config.join == "channels" else width

    def levels_of(self, config: ClipConfig) -> int:
        """The number of layers with `join: levels`, else 0."""
        return len(config.layers) if config.join == "levels" else 0

    def encode(self, items: Mapping[str, Tensor]) -> States:
        """`pixels` [M, 3, H, W] -> the hidden states of all layers that this encoder or a view of it reads."""
        return self._run(self.tower, items["pixels"].to(torch_dtype(self.config.dtype)))

    def read(self, states: States, config: ClipConfig) -> Features:
        """Features [M, S, D], patches from top left to bottom right.

        The grid is (y, x); (-1, -1) for the class token. The tokens of several layers one after the other have none.
        """
        levels = [self._tokens(self.tower, states[self._depths[layer]], config) for layer in config.layers]
        grid = patch_grid(self.patches, levels[0].device)
        outside = torch.full((1, 2), -1, device=grid.device)
        grid = {"drop": grid, "keep": torch.cat([outside, grid]), "only": outside}[config.class_token]
        if config.join == "channels":
            return all_tokens(torch.cat(levels, dim=2), grid)
        if config.join == "levels":
            every = tuple(all_tokens(values, grid) for values in levels)
            return Features(every[0].values, every[0].mask, every[0].grid, levels=every)
        if config.join == "tokens":
            alone = config.class_token == "only"
            joined = all_tokens(torch.cat(levels, dim=1), grid.repeat(len(levels), 1))
            return joined if alone else Features(joined.values, joined.mask)
        return all_tokens(levels[0], grid)

    def _prepare(self, readings: Sequence[ClipConfig], height: int, width: int) -> None:
        """Build the tower, and learn from a run without numbers what its tokens are and what of it is in use."""
        with sketching():
            tower = towers.build(self._source, self._settings, self._project)
            with explained(f"clip encoder: {type(tower).__name__} does not accept images of {height} x {width} pixels"):
                states = self._run(tower, torch.empty(1, 3, height, width))
            y_patch, x_patch = pair(self._settings.patch_size)
            self.patches = height // y_patch, width // x_patch
            self.prefix = self._count_prefix(next(iter(states.values())).shape[1], readings)
            self._widths: dict[bool, int] = {}
            sums = []
            for one in readings:
                for layer in one.layers:
                    values = self._tokens(tower, states[self._depths[layer]], one)
                    self._widths[one.project] = values.shape[2]
                    sums.append(values.sum())
            self.unused = unused(tower, torch.stack(sums))
            self._tables: list[str] = []
            if self.config.resize_positions:
                published = towers.build(self._source, self._published, self._project)
                self._tables = tables_of(tower.state_dict(), published.state_dict())
        pretrained = self.config.path is not None
        self.tower = tower if pretrained else towers.build(self._source, self._settings, self._project)
        remove(self.tower, self.unused)

    def _resize(self) -> None:
        """Put the weights of the tower into one for `image_size`, the table of positions interpolated."""
        tower = towers.build(self._source, self._settings, self._project)
        state, sizes = dict(self.tower.state_dict()), tower.state_dict()
        for name in self._tables:
            table = resize_table(state[name], self.patches, sizes[name].shape[-2])
            if table is None:
                raise RecipeError(f"{self._source}: the positions of {name} are not a square, so they have no places.")
            state[name] = table
        tower.load_state_dict(state)
        self.tower = tower

    def _layout(self, config: ClipConfig) -> Layout:
        y, x = self.patches
        count = {"drop": y * x, "keep": 1 + y * x, "only": 1}[config.class_token]
        grid = (0, 0) if config.class_token == "only" else (y, x)
        if config.join == "tokens":
            return Layout(count * len(config.layers), grid if config.class_token == "only" else None)
        return Layout(count, grid)

    def _tokens(self, tower: Any, state: Tensor, config: ClipConfig) -> Tensor:
        """The tokens of a hidden state that a config asks for, normed and projected: [M, S, D]."""
        values = state[:, :1] if config.class_token == "only" else state[:, self.prefix :]
        if config.class_token == "keep":
            values = torch.cat([state[:, :1], values], dim=1)
        if config.norm:
            values = towers.final_norm(tower, self._settings.model_type)(values)
        return tower.visual_projection(values) if config.project else values

    def _run(self, tower: Any, pixels: Tensor) -> States:
        usual = pair(self._settings.image_size) if hasattr(self._settings, "image_size") else pixels.shape[2:]
        options = {"interpolate_pos_encoding": True} if tuple(usual) != tuple(pixels.shape[2:]) else {}
        accepted = inspect.signature(tower.forward).parameters
        options = {key: value for key, value in options.items() if key in accepted}
        depths = tuple(self._depths.values())
        return self._source.run_to(tower, self._settings.num_hidden_layers, depths, pixels, **options)[1]

    def _count_prefix(self, tokens: int, readings: Sequence[ClipConfig]) -> int:
        kind, (y, x) = self._settings.model_type, self.patches
        if tokens < y * x:
            raise RecipeError(
                f"clip encoder: {kind!r} returns {tokens} tokens for {y} x {x} patches, so it is not a plain vision "
                f"transformer. Use the `timm` encoder."
            )
        for one in readings:
            if tokens == y * x and one.class_token != "drop":
                raise RecipeError(
                    f"clip encoder: `class_token` is {one.class_token!r}, but {kind!r} has no class token. Set "
                    f"`class_token: drop`."
                )
        return tokens - y * x
