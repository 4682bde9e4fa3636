"""Meta's ImageBind model, out of the package `imagebind-unofficial`, with the towers that are expected.

The package's own `__init__` imports `pkg_resources` and a pytorchvideo that no current torchvision works with, for the
sake of its media reading. `imagebind.models` needs neither: it is imported with a bare module in the package's place.

A tower is what ImageBind has for one kind of input: preprocessor, trunk, head and postprocessor of the same name.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from omnivit.plugin import PluginError, RecipeError, suggest

TOWERS = ("vision", "audio", "depth", "thermal", "imu")
"""Of ImageBind's six; text goes to the LLM."""
PARTS = ("modality_preprocessors", "modality_trunks", "modality_heads", "modality_postprocessors")
HUGE: Mapping[str, int] = {
    "vision_embed_dim": 1280,
    "vision_num_blocks": 32,
    "vision_num_heads": 16,
    "out_embed_dim": 1024,
}
"""Where the published model (`imagebind_huge`) differs from the class's defaults."""
SIZES = ("embed_dim", "num_blocks", "num_heads")
"""Sizes of a tower that can be set, as `TOWER_embed_dim` and so on; `out_embed_dim` is for all towers."""
HUGE_DROPS = {"audio_drop_path": 0.1, "imu_drop_path": 0.7}
NOTHING = {"embed_dim": 1, "num_blocks": 0, "num_heads": 1}
"""Size of a tower that is built only to be removed: the class builds all."""


def build(towers: Sequence[str], sizes: Mapping[str, int]) -> Any:
    """An `ImageBindModel` with these towers alone, on torch's current default device (meta, too).

    Args:
        towers: of `TOWERS`.
        sizes: arguments of its constructor, instead of those of `imagebind_huge`.

    Raises:
        RecipeError: sizes that do not exist, or do not fit together.
        PluginError: the package, or one that it needs, is not installed.
    """
    known = [f"{tower}_{size}" for tower in TOWERS for size in SIZES] + ["out_embed_dim"]
    for name in sizes:
        if name not in known:
            raise RecipeError(f"imagebind encoder: `sizes` has no {name!r}; {suggest(name, known)}")
    left_out = [tower for tower in (*TOWERS, "text") if tower not in towers]
    tiny = {f"{tower}_{size}": value for tower in left_out for size, value in NOTHING.items()}
    try:
        with _NumbersOnCpu():
            model = _model_class()(**{**HUGE, **HUGE_DROPS, **sizes, **tiny})
    except (ValueError, AssertionError, RuntimeError, TypeError) as error:
        raise RecipeError(
            f"imagebind encoder: the model cannot be built with `sizes` {dict(sizes)}: {error}"
        ) from error
    for part in PARTS:
        for tower in left_out:
            del getattr(model, part)[tower]
    return model.eval()


def removed(towers: Sequence[str], parts: Sequence[str] = PARTS) -> list[str]:
    """Names of weights that a checkpoint may contain and a model of these towers and parts does not have."""
    others = [f"{part}.{tower}" for part in parts for tower in (*TOWERS, "text") if tower not in towers]
    return others + [part for part in PARTS if part not in parts]


def tokens_of(model: Any, tower: str) -> int:
    """How many tokens a tower's trunk has of one view, the class token among them."""
    preprocessor = model.modality_preprocessors[tower]
    owner = preprocessor if tower == "imu" else preprocessor.pos_embedding_helper
    return int(owner.pos_embed.shape[1])


def width_of(model: Any, tower: str) -> int:
    """Width of a tower's tokens."""
    return int(model.modality_preprocessors[tower].cls_token.shape[2])


def tokens(model: Any, tower: str, views: Tensor) -> Tensor:
    """Views [V, ...] -> tokens of the trunk's last block [V, N, D], the class token first."""
    prepared = model.modality_preprocessors[tower](**{tower: views})
    found: Tensor = model.modality_trunks[tower](**prepared["trunk"])
    return found


def embedding(model: Any, tower: str, views: Tensor, scaled: bool) -> Tensor:
    """Views [V, ...] -> embeddings [V, E] of length 1; `scaled`: times the tower's logit scale, as the model has it."""
    pooled = model.modality_heads[tower](tokens(model, tower, views))
    found: Tensor = model.modality_postprocessors[tower](pooled) if scaled else nn.functional.normalize(pooled, dim=-1)
    return found


class _NumbersOnCpu(TorchFunctionMode):
    """Keeps `linspace` off the meta device: the class reads the rates of its drop paths out of it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.linspace:
            options["device"] = "cpu"
        return func(*args, **options)


def _model_class() -> Any:
    try:
        with _without_init():
            module = importlib.import_module("imagebind.models.imagebind_model")
    except ImportError as error:
        raise PluginError(
            f"imagebind encoder: Meta's model code cannot be imported ({error}). Run: pip install 'omnivit[imagebind]'"
        ) from error
    if "vision_embed_dim" not in inspect.signature(module.ImageBindModel).parameters:
        raise PluginError(
            "imagebind encoder: the installed package `imagebind` is not Meta's. Run: pip install 'omnivit[imagebind]'"
        )
    return module.ImageBindModel


@contextmanager
def _without_init() -> Iterator[None]:
    """Inside, `imagebind` is a bare module that knows the package's folder; afterwards, as if it had not been."""
    if "imagebind" in sys.modules:
        yield
        return
    spec = importlib.util.find_spec("imagebind")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("No module named 'imagebind'")
    bare = ModuleType("imagebind")
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules["imagebind"] = bare
    try:
        yield
    finally:
        del sys.modules["imagebind"]
