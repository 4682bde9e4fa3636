"""`bottleneck` in encoders: it learns inside frozen vision transformers, and refuses what has no blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from llm_support import NONE, WIDTH, Medium, batch_of, fill, gradients, llm_of, shift, wave
from omnivit_adapters.bottleneck import BottleneckAdapter, BottleneckConfig
from omnivit_adapters.chain import ChainAdapter, ChainConfig
from omnivit_encoders.clip import ClipConfig, ClipEncoder
from omnivit_encoders.timm.encoder import TimmConfig, TimmEncoder
from torch import Tensor
from torch.nn.functional import conv1d

from omnivit.contracts.encoder import Encoder
from omnivit.errors import RecipeError
from omnivit.model.omni import Branch, OmniModel

NAME = "omnivit_adapters.bottleneck:BottleneckAdapter"


@dataclass(frozen=True)
class Picture(Medium):
    """A picture of 32 x 32 pixels, which takes four rows."""

    count: int = 4

    def item(self) -> dict[str, Tensor]:
        return {"pixels": wave((3, 32, 32), self.seed)}


SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"image_size": 32, "patch_size": 16}


def clip_of(kind: str = "clip_vision_model", layer: int = -1, **options: Any) -> ClipEncoder:
    torch.manual_seed(2)
    settings = {"model_type": kind, **SIZES, "initializer_range": 0.2}
    return ClipEncoder(ClipConfig(config=settings, layer=layer, **options))


def timm_of(model: str) -> TimmEncoder:
    torch.manual_seed(2)
    return TimmEncoder(TimmConfig(model=model, image_size=32, pretrained=False))


ENCODERS: dict[str, Callable[[], Encoder]] = {
    kind: lambda kind=kind: clip_of(kind)  # type: ignore[misc]
    for kind in ("clip_vision_model", "siglip_vision_model", "vit", "dinov2")
} | {"timm": lambda: timm_of("vit_tiny_patch16_224"), "bfloat16": lambda: clip_of(dtype="bfloat16")}


def model_over(tower: Encoder, **options: Any) -> OmniModel:
    """A model whose rows come from a real encoder, all frozen but the adapter; as `load_model` leaves it."""
    torch.manual_seed(1)
    last = {"name": NAME, "dropout": 0.0, "temperature": 0.5, **options}
    adapter = ChainAdapter(ChainConfig([{"name": "linear"}, last]), tower.width, WIDTH)
    llm = llm_of()
    model = OmniModel(llm, {"image": [Branch(tower, adapter)]})
    adapter.install(llm, tower, "image")
    llm.add_peft()
    model.requires_grad_(False)
    model.adapters.requires_grad_(True)
    return model.eval()


@pytest.mark.parametrize("kind", ENCODERS)
def test_bottlenecks_learn_inside_a_frozen_encoder(kind: str) -> None:
    encoder = ENCODERS[kind]()
    batch = batch_of((5, Picture(0.1), 9, 17), (Picture(0.4), 3), NONE)
    keys, plain = list(encoder.state_dict()), encoder.eval()(batch.media["image"].items).values
    model = model_over(encoder)
    assert list(encoder.state_dict()) == keys
    assert torch.equal(encoder(batch.media["image"].items).values, plain)
    first = gradients(model, batch)
    inside = {name for name in first if "encoder_layers" in name}
    assert {name for name in inside if first[name].any()} == {name for name in inside if "up." in name}
    shift(model.adapters)
    after = gradients(model, batch)
    assert all(name.startswith("adapters.") and value.any() for name, value in after.items())
    assert after.keys() == {f"adapters.{name}" for name, _ in model.adapters.named_parameters()}
    assert not torch.allclose(encoder(batch.media["image"].items).values, plain, atol=1e-3)


def test_routers_learn_inside_a_frozen_encoder() -> None:
    encoder = clip_of()
    batch = batch_of((5, Picture(0.1), 9, 17), (Picture(0.4), 3), NONE)
    plain = encoder.eval()(batch.media["image"].items).values
    model = model_over(encoder, encoder_router=True, router="state")
    assert torch.equal(encoder(batch.media["image"].items).values, plain)
    shift(model.adapters)
    found = gradients(model, batch)
    assert found.keys() == {f"adapters.{name}" for name, _ in model.adapters.named_parameters()}
    assert all(value.any() for value in found.values())
    assert sum("encoder_layers" in name and "router" in name for name in found) == 4


def test_every_block_that_the_encoder_kept_has_one() -> None:
    assert [len(model_over(clip_of(layer=n)).adapters["image"].steps[1].encoder_layers) for n in (-1, 1)] == [2, 1]


def test_stands_between_norm_and_attention_in_the_encoder() -> None:
    encoder, plain = clip_of().eval(), clip_of().eval()
    model = model_over(encoder, scale=0.5)
    fill(model.adapters, 3.0)
    parts = model.adapters["image"].steps[1].encoder_layers
    for block, part in zip(plain.tower.encoder.layers, parts, strict=True):
        norm = block.layer_norm1

        def hook(_: Any, __: Any, out: Tensor, part: Any = part) -> Tensor:
            narrow = conv1d(out.transpose(1, 2), part.down.weight.unsqueeze(-1), part.down.bias)
            wide = conv1d(narrow, part.up.weight.unsqueeze(-1), part.up.bias, groups=2)
            return out + 0.5 * wide.transpose(1, 2)

        norm.register_forward_hook(hook)
    items = batch_of((Picture(0.1), 3)).media["image"].items
    torch.testing.assert_close(encoder(items).values, plain(items).values, rtol=0, atol=1e-5)


def test_without_the_encoder_it_runs_without_gradients() -> None:
    model = model_over(clip_of(), encoder=False)
    assert not model.branches("image")[0].adapter.in_encoder
    seen: list[bool] = []
    model.encoders["image"].register_forward_hook(lambda *found: seen.append(found[2].values.requires_grad))
    found = gradients(model, batch_of((5, Picture(0.1), 9)))
    assert seen == [False]
    assert not any("encoder_layers" in name for name in found)


def test_inputs_that_share_encoder_and_adapter_have_one_set_inside() -> None:
    encoder = clip_of()
    adapter = BottleneckAdapter(BottleneckConfig(), 24, WIDTH)
    llm = llm_of()
    for slot in ("image", "detail"):
        adapter.install(llm, encoder, slot)
    assert len(adapter.encoder_layers) == 2
    with pytest.raises(RecipeError, match=r"input 'video' shares this adapter.*Share that encoder too"):
        adapter.install(llm, clip_of(), "video")


def test_an_encoder_without_blocks_is_refused() -> None:
    encoder = timm_of("test_efficientnet")
    with pytest.raises(RecipeError, match=r"TimmEncoder has no transformer blocks.*`encoder: false`"):
        model_over(encoder)
    assert len(model_over(timm_of("test_efficientnet"), encoder=False).adapters["image"].steps[1].layers) == 2
