"""The options of `clip`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from omnivit.contracts.options import require_within
from omnivit.media.fit import Fill, Mode
from omnivit.model.hf_tower import Dtype, require_one_source


@dataclass
class ClipConfig:
    """Options of `clip`. Either `path` or `config`."""

    path: str | None = None
    """Pretrained weights: a hub id or folder of a vision model, or of a full CLIP or SigLIP, whose vision tower is
    taken."""
    config: dict[str, Any] | None = None
    """Random weights instead of `path`: a transformers config with its `model_type`, such as {model_type:
    clip_vision_model}."""
    layer: int | list[int] = -2
    """Hidden state that is returned: -1 after the last layer, -2 after the one before, 3 after the third; without the
    final norm. Or a list of several, which `join` joins."""
    join: Literal["tokens", "channels", "levels"] | None = None
    """How the hidden states of a list are joined. `tokens`: one after the other; `channels`: side by side in each
    token, which gets wider; `levels`: the first one, and all of them for an adapter that reads `Features.levels`."""
    class_token: Literal["drop", "keep", "only"] = "drop"
    """The class token before the patches: `drop` removes it, `keep` returns it as the first token, `only` returns it
    alone. Register tokens are always removed."""
    norm: bool = False
    """Apply the tower's own final norm to every token: `post_layernorm` of CLIP and SigLIP, `layernorm` of DINOv2."""
    project: bool = False
    """Apply CLIP's projection into the space of its texts (`visual_projection`) to every token; needs `norm: true`."""
    image_size: int | None = None
    """Image size in pixels; default: the checkpoint's. For another size, position embeddings are interpolated."""
    resize_positions: bool = False
    """Interpolate the position embeddings once, when weights are loaded, so that the table of `image_size` is trained,
    as in mPLUG-Owl2. Default: they are interpolated in every pass; the table of the checkpoint's size is trained."""
    fit: Mode = "crop"
    """How an image becomes a square. `crop`: as the checkpoint's image processor does it, which usually cuts off the
    ends of the long side; `pad`: put it on a square of one colour first, as in LLaVA-1.5; `squash`: resize it to a
    square first, whatever its shape, as in mPLUG-Owl2."""
    fill: Fill = "mean"
    """Colour of the padding for `fit: pad`: the `mean` of the image processor, as in LLaVA-1.5, or `white`, as in
    Shikra."""
    dtype: Dtype = "float32"
    """Dtype of the weights; `fastest`: bfloat16 if this machine is clearly faster with it, else float32."""

    def __post_init__(self) -> None:
        require_one_source(self.path, self.config, "clip_vision_model")
        require_within(self, 1, None, "image_size")
        if self.resize_positions and self.image_size is None:
            raise ValueError("`resize_positions: true` needs `image_size`, the size in pixels that the table is for.")
        layers = self.layers
        if not layers or len(set(layers)) < len(layers):
            raise ValueError(f"`layer` is {self.layer}; a list must contain at least one layer, and none twice.")
        if isinstance(self.layer, list) != (self.join is not None):
            raise ValueError(
                "`join` is missing, which says how the layers of the list are joined: `tokens`, `channels` or `levels`."
                if self.join is None
                else f"`join: {self.join}` joins several layers, but `layer` is {self.layer}. Set a list, as [-2, -5]."
            )
        if self.project and not self.norm:
            raise ValueError("`project: true` needs `norm: true`, because CLIP's projection follows its final norm.")

    @property
    def layers(self) -> list[int]:
        """All hidden states that are asked for."""
        return self.layer if isinstance(self.layer, list) else [self.layer]
