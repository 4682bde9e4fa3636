"""What encoders on a tower of Hugging Face transformers have in common: its config, its layers, its weights.

`clip`, `video_transformer` and `whisper` each describe one family of towers; how a config is read, how the layers above
the chosen one are left out, and how weights are created or loaded is written here, once.

Shapes: M media, S tokens, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from omnivit.contracts.features import Features
from omnivit.errors import RecipeError
from omnivit.model.precision import torch_dtype
from omnivit.model.pretrained import REMOTE_CODE, explained, load_pretrained
from omnivit.model.weights import locate

Dtype = Literal["float32", "bfloat16", "float16", "fastest"]
"""Of weights; `fastest` is bfloat16 where the machine computes clearly faster in it, else float32."""


def require_one_source(path: str | None, config: Mapping[str, Any] | None, example: str | None = None) -> None:
    """Check the options `path` and `config` of an encoder.

    Args:
        path: where pretrained weights are.
        config: the settings of a model with random weights.
        example: a `model_type`, where `config` has to name one.

    Raises:
        ValueError: both are set, or neither, or `config` has no `model_type`.
    """
    if (path is None) == (config is None):
        raise ValueError("Set either `path` (pretrained weights) or `config` (random weights).")
    if example is not None and config is not None and "model_type" not in config:
        raise ValueError(f"`config` lacks `model_type`, for example `{example}`.")


@dataclass(frozen=True)
class Tower:
    """The source of a tower: reads its config, and builds or loads the model."""

    name: str
    """Of the encoder, for error messages."""
    path: str | None
    """Pretrained weights: a file, a folder or a hub id."""
    config: Mapping[str, Any] | None
    """Random weights instead: the settings of a transformers config."""
    dtype: Dtype = "float32"

    def __str__(self) -> str:
        """`clip encoder, path 'openai/clip-vit-large-patch14'`."""
        return f"{self.name} encoder" + ("" if self.path is None else f", path {self.path!r}")

    def settings(self) -> Any:
        """The transformers config of the model. Raises RecipeError where it cannot be read or created."""
        if self.config is None:
            with explained(f"{self}: the model config cannot be read"):
                return AutoConfig.from_pretrained(locate(self.path or ""), **REMOTE_CODE)
        with explained(f"{self}: no config can be created from {self.config}"):
            return AutoConfig.for_model(**self.config)

    def preprocessor(self, cls: Any) -> Any:
        """The checkpoint's image, video or audio processor, by a class of transformers. Raises RecipeError."""
        with explained(f"{self}: the preprocessor settings cannot be read"):
            return cls.from_pretrained(locate(self.path or ""), **REMOTE_CODE)

    def build(self, settings: Any, create: Callable[..., Any] | None = None, **options: Any) -> Any:
        """The model with random weights, in eval mode.

        Args:
            settings: its transformers config; not changed.
            create: takes the config and `dtype`; default: what AutoModel chooses.
            **options: passed to `create`.
        """
        creator: Any = create or AutoModel.from_config
        with explained(f"{self}: a model of type {settings.model_type!r} cannot be built"):
            return creator(copy.deepcopy(settings), dtype=torch_dtype(self.dtype), **options).eval()

    def load(self, cls: Any, settings: Any, **options: Any) -> Any:
        """The model with the weights of `path`. Raises RecipeError where they do not fit.

        Args:
            cls: its class.
            settings: its transformers config; not changed.
            **options: passed to `from_pretrained`.
        """
        dtype = torch_dtype(self.dtype)
        place = locate(self.path or "")
        return load_pretrained(cls, place, str(self), config=copy.deepcopy(settings), dtype=dtype, **options)

    def up_to_layer(self, settings: Any, layer: int | None, key: str = "num_hidden_layers") -> Any:
        """A copy of the config with only as many layers as the chosen hidden state needs.

        Args:
            settings: a transformers config.
            layer: from 1, or negative from the end; None: all layers.
            key: the setting that counts the layers.
        """
        needed = self.depth(settings, layer, key)
        settings = copy.deepcopy(settings)
        setattr(settings, key, needed)
        return settings

    def depth(self, settings: Any, layer: int | None, key: str = "num_hidden_layers") -> int:
        """The number of layers below a hidden state. Arguments as of `up_to_layer`; raises RecipeError as it does."""
        count: int = getattr(settings, key)
        needed = count if layer is None else layer if layer >= 0 else count + 1 + layer
        if not 1 <= needed <= count:
            raise RecipeError(
                f"{self.name} encoder: `layer` is {layer}, but the model has {count} layers. Available: 1 to {count}, "
                f"or -1 to -{count}."
            )
        return needed

    def run(self, model: Any, layers: int, pixels: Tensor, **options: Any) -> tuple[Any, Tensor]:
        """Run the model -> its output, and the hidden state after its last layer, before any final norm.

        Arguments as of `run_to`.
        """
        output, states = self.run_to(model, layers, (layers,), pixels, **options)
        return output, states[layers]

    def run_to(
        self, model: Any, layers: int, depths: Sequence[int], pixels: Tensor, **options: Any
    ) -> tuple[Any, dict[int, Tensor]]:
        """Run the model -> its output, and the hidden states below which there are `depths` layers.

        Args:
            model: has its layers in an `nn.ModuleList`.
            layers: their number. The first list of this length counts: V-JEPA 2 has layers in its predictor, too.
            depths: from 1 to `layers`.
            pixels: converted to the model's dtype.
            **options: passed to the model.
        """
        stacks = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == layers)
        stack = next(stacks, None)
        if stack is None:
            raise RecipeError(
                f"{self.name} encoder: {type(model).__name__} has no list of {layers} layers. Try the `timm` encoder."
            )
        states: dict[int, Tensor] = {}

        def keep(depth: int, _: nn.Module, __: Any, output: Any) -> None:
            states[depth] = output[0] if isinstance(output, tuple) else output

        # Hooks, and not `output_hidden_states`: not every model returns them, and some apply a norm to the last.
        hooks = [stack[depth - 1].register_forward_hook(partial(keep, depth)) for depth in sorted(set(depths))]
        try:
            output = model(pixels.to(model.dtype), **options)
        finally:
            for hook in hooks:
                hook.remove()
        return output, states


def patch_grid(patches: Sequence[int], device: torch.device) -> Tensor:
    """[S, k] coordinates of all patches of a grid, the last axis fastest. `patches` are the lengths of its k axes."""
    return torch.cartesian_prod(*(torch.arange(side, device=device) for side in patches))


def all_tokens(values: Tensor, grid: Tensor) -> Features:
    """Features of media that all have the same tokens: [M, S, D] and the grid [S, k] of each."""
    mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    return Features(values, mask, grid.expand(values.shape[0], -1, -1))
