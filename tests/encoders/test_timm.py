"""The encoder `timm`: its features and pixels are timm's own."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from omnivit_encoders.timm.encoder import Layout, TimmConfig, TimmEncoder, TimmProcessor
from omnivit_encoders.timm.layouts import MODULES
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from timm.layers import resample_abs_pos_embed

from omnivit.contracts.encoder import Processor, layout_of
from omnivit.contracts.features import places_of
from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Media
from omnivit.errors import RecipeError

KINDS = {
    "test_resnet": "NCHW",
    "test_vit": "tokens",  # one class token
    "test_mambaout": "NHWC",
}

HALF = (0.5, 0.5, 0.5)
PIXELS: dict[str, dict[str, object]] = {
    "test_resnet": {"input_size": (3, 160, 160), "interpolation": "bilinear", "mean": HALF, "std": HALF,
                    "crop_pct": 0.95, "crop_mode": "center"},
    "vit_base_patch16_siglip_224": {"input_size": (3, 224, 224), "interpolation": "bicubic", "mean": HALF, "std": HALF,
                                    "crop_pct": 0.9, "crop_mode": "center"},
    "deepseek_vit_412m": {"input_size": (3, 546, 546), "interpolation": "bicubic", "mean": HALF, "std": HALF,
                          "crop_pct": 1.0, "crop_mode": "border"},
    "vit_base_patch16_sapiens2": {"input_size": (3, 1024, 768), "interpolation": "bilinear",
                                  "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop_pct": 1.0,
                                  "crop_mode": "squash"},
}  # fmt: skip
"""What timm 1.0.31 says of the pixels of some models, of which older versions lack some: each `crop_mode`."""


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def build(model: str = "test_resnet", **options: object) -> TimmEncoder:
    torch.manual_seed(0)
    return TimmEncoder(TimmConfig(model, **options)).eval()


@pytest.mark.parametrize("name", KINDS)
def test_features_are_those_of_timm(name: str) -> None:
    encoder = build(name)
    torch.manual_seed(0)
    reference = timm.create_model(name).eval()
    size = resolve_model_data_config(reference)["input_size"]
    pixels = torch.randn(2, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = encoder({"pixels": pixels}), reference.forward_features(pixels)
    if KINDS[name] == "tokens":
        theirs = theirs[:, 1:]
    else:
        theirs = theirs.flatten(2).mT if KINDS[name] == "NCHW" else theirs.flatten(1, 2)
    assert torch.equal(ours.values, theirs)
    assert ours.values.shape == (2, encoder.processor().length({}), encoder.width)
    assert ours.mask.all()


def test_class_token_that_timm_does_not_announce_is_dropped() -> None:
    with torch.device("meta"):
        encoder = TimmEncoder(TimmConfig("coat_lite_tiny"))
    assert encoder.layout == Layout("tokens", 7, 7, 320, prefix=1)


def test_grid_names_the_place_of_each_row() -> None:
    encoder = build()
    pixels = torch.zeros(1, 3, 160, 160)
    features = encoder({"pixels": pixels})
    theirs = encoder.backbone.forward_features(pixels)
    for row, (y, x) in zip(features.values[0], features.grid[0].tolist(), strict=True):
        assert torch.equal(row, theirs[0, :, y, x])


def test_pooled_grid_averages_neighbours() -> None:
    encoder, pooled = build("test_vit"), build("test_vit", grid=2)
    pixels = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, small = encoder({"pixels": pixels}), pooled({"pixels": pixels})
    expected = whole.values.view(1, 2, 5, 2, 5, -1).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(small.values, expected)
    assert small.grid.tolist() == [[[0, 0], [0, 1], [1, 0], [1, 1]]]
    assert pooled.processor().length({}) == 4


@pytest.mark.parametrize("size", [(97, 61), (40, 200), (300, 300), (224, 160)])
@pytest.mark.parametrize("model", PIXELS)
def test_pixels_are_those_of_timm(model: str, size: tuple[int, int]) -> None:
    data = resolve_model_data_config(None, pretrained_cfg=PIXELS[model])
    assert data.items() >= PIXELS[model].items()
    theirs = create_transform(**data, is_training=False)(picture(*size))
    processor = processor_for(data)
    torch.testing.assert_close(processor(Media("image", picture(*size)))["pixels"], theirs, rtol=0, atol=1e-6)


def processor_for(data: dict[str, object]) -> Processor:
    same = {key: data[key] for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")}
    return TimmProcessor(
        patches=(1, 1), height=data["input_size"][1], width=data["input_size"][2], augment=False, **same
    )


def test_processor_takes_timms_settings() -> None:
    processor = build().processor()
    data = resolve_model_data_config(timm.create_model("test_resnet"))
    assert (processor.mean, processor.std) == (data["mean"], data["std"])
    assert (processor.crop_pct, processor.interpolation) == (data["crop_pct"], data["interpolation"])
    assert processor(Media("image", picture(50, 40)))["pixels"].shape == data["input_size"]


def test_processor_pickles_small_and_tells_settings_apart() -> None:
    processor = build().processor()
    assert isinstance(processor, Processor)
    assert len(pickle.dumps(processor)) < 1000
    assert pickle.loads(pickle.dumps(processor)) == processor
    assert processor.fingerprint() == build().processor().fingerprint()
    assert processor.fingerprint() != build(augment=True).processor().fingerprint()


def test_augmentation_follows_the_seed_and_only_in_training() -> None:
    plain, augmented = build().processor(), build(augment=True).processor()
    image = picture(200, 150)

    def pixels(processor: Processor, seed: int | None) -> torch.Tensor:
        return processor(Media("image", image, seed=seed))["pixels"]

    assert torch.equal(pixels(augmented, 5), pixels(augmented, 5))
    assert not torch.equal(pixels(augmented, 5), pixels(augmented, 6))
    assert torch.equal(pixels(augmented, None), pixels(plain, None))
    assert torch.equal(pixels(plain, 5), pixels(plain, None))
    assert pixels(augmented, 5).shape == pixels(plain, None).shape


def test_head_is_left_out_and_every_parameter_is_used() -> None:
    encoder = build("test_vit").train()
    assert not any("head" in name for name, _ in encoder.named_parameters())
    encoder({"pixels": torch.randn(1, 3, 160, 160)}).values.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_image_size_changes_the_grid(name: str) -> None:
    encoder = build(name, image_size=96)
    pixels = encoder.processor()(Media("image", picture(50, 40)))["pixels"]
    assert pixels.shape == (3, 96, 96)
    rows = encoder({"pixels": pixels[None]}).values.shape[1]
    assert rows == encoder.processor().length({}) < build(name).processor().length({})


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(7)
    source = timm.create_model("test_resnet", num_classes=5)  # another head than ours; it is not needed
    path = tmp_path / f"weights{suffix}"
    save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    encoder = TimmEncoder(TimmConfig("test_resnet", path=str(path)))
    assert all(parameter.is_meta for parameter in encoder.parameters())
    encoder.load()
    theirs = source.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in encoder.backbone.state_dict().items())
    assert not any(parameter.is_meta for parameter in encoder.parameters())


def test_weights_under_the_names_of_another_port(tmp_path: Path) -> None:
    theirs = {ours: name for name, ours in MODULES.items()}
    source = timm.create_model("tf_efficientnet_lite0").state_dict()
    split = {key: key.rpartition(".") for key in source}
    torch.save({f"{theirs[split[key][0]]}.{split[key][2]}": value for key, value in source.items()}, tmp_path / "x.pth")
    encoder = TimmEncoder(TimmConfig("tf_efficientnet_lite0", path=str(tmp_path / "x.pth")))
    encoder.load()
    assert all(torch.equal(value, source[key]) for key, value in encoder.backbone.state_dict().items())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.safetensors")
    encoder = TimmEncoder(TimmConfig("test_vit", path=str(tmp_path / "resnet.safetensors")))
    with pytest.raises(RecipeError, match=r"resnet\.safetensors does not fit.*Missing: cls_token.* Unknown: bn1"):
        encoder.load()


def test_unknown_model_suggests() -> None:
    with pytest.raises(RecipeError, match=r"no model 'resnet5'. Did you mean .*'resnet50'"):
        build("resnet5")


def test_backbone_of_several_maps_is_refused() -> None:
    with torch.device("meta"), pytest.raises(RecipeError, match="list with several feature maps"):
        TimmEncoder(TimmConfig("crossvit_tiny_240"))


def test_backbone_without_map_is_refused() -> None:
    with torch.device("meta"), pytest.raises(RecipeError, match=r"1 tokens.*do not form a grid"):
        TimmEncoder(TimmConfig("pit_ti_224"))


@torch.inference_mode()
def test_builds_where_no_gradients_are_wanted() -> None:
    assert build("test_vit").unused == ["head"]


def test_image_size_that_does_not_fit() -> None:
    with pytest.raises(RecipeError, match="test_vit"):
        build("test_vit", image_size=7)


@pytest.mark.parametrize("options", [{"grid": 0}, {"image_size": -1}, {"pretrained": True, "path": "x.pth"}])
def test_impossible_options_name_the_place(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"inputs\.image\.encoder: .*(must be at least 1|cannot both be set)"):
        merge_options(TimmConfig, {"model": "test_vit", **options}, "inputs.image.encoder")


def open_clip_state(trunk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint in BiomedCLIP's layout: image tower, its projection, a BERT text tower and the temperature."""
    return {
        **{f"visual.trunk.{key}": value for key, value in trunk.items() if not key.startswith("head")},
        "visual.head.proj.weight": torch.randn(512, trunk["norm.weight"].shape[0]),
        "text.transformer.embeddings.word_embeddings.weight": torch.randn(30, 8),
        "text.transformer.encoder.layer.0.attention.self.query.weight": torch.randn(8, 8),
        "text.proj.0.weight": torch.randn(8, 8),
        "logit_scale": torch.tensor(4.6),
    }


def test_image_tower_of_biomedclip(tmp_path: Path) -> None:
    reference = timm.create_model("vit_tiny_patch16_224").eval()
    state = open_clip_state(reference.state_dict())
    path = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(state, path)
    norm = {"mean": (0.4815, 0.4578, 0.4082), "std": (0.2686, 0.2613, 0.2758)}
    whole = build("vit_tiny_patch16_224", path=str(path), **norm)
    before = build("vit_tiny_patch16_224", path=str(path), layer=-2, **norm)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    for encoder in (whole, before):
        encoder.load()
        encoder.eval()
    with torch.no_grad():
        assert torch.equal(whole({"pixels": pixels}).values, reference.forward_features(pixels)[:, 1:])
        expected = reference.get_intermediate_layers(pixels, n=3)[-2]  # as LLaVA-Med takes it
        assert torch.equal(before({"pixels": pixels}).values, expected)
    assert before.processor().mean == norm["mean"]
    assert before.processor().std == norm["std"]
    assert not any("blocks.11" in name for name, _ in before.named_parameters())


def test_image_tower_of_biomedclip_is_loaded_strictly(tmp_path: Path) -> None:
    state = open_clip_state(timm.create_model("test_vit").state_dict())
    del state["visual.trunk.blocks.0.attn.qkv.weight"]
    torch.save(state, tmp_path / "x.bin")
    with pytest.raises(RecipeError, match=r"Missing: blocks.0.attn.qkv.weight"):
        build("test_vit", path=str(tmp_path / "x.bin")).load()


def clip_resnet_state() -> dict[str, torch.Tensor]:
    """A checkpoint in the layout of CLIP's ResNet-50 as PMC-CLIP saves it, each tensor filled with its own number."""
    shapes = {"conv1.weight": (32, 3, 3, 3), "conv2.weight": (32, 32, 3, 3), "conv3.weight": (64, 32, 3, 3)}
    norms = {"bn1": 32, "bn2": 32, "bn3": 64}
    wide = 64
    for stage, (depth, inner) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), start=1):
        for k in range(depth):
            block = f"layer{stage}.{k}"
            shapes[f"{block}.conv1.weight"] = (inner, wide, 1, 1)
            shapes[f"{block}.conv2.weight"] = (inner, inner, 3, 3)
            shapes[f"{block}.conv3.weight"] = (4 * inner, inner, 1, 1)
            norms |= {f"{block}.bn1": inner, f"{block}.bn2": inner, f"{block}.bn3": 4 * inner}
            if k == 0:
                shapes[f"{block}.downsample.0.weight"] = (4 * inner, wide, 1, 1)
                norms[f"{block}.downsample.1"] = 4 * inner
            wide = 4 * inner
    for name, size in norms.items():
        shapes |= {f"{name}.{leaf}": (size,) for leaf in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.num_batches_tracked"] = ()
    shapes |= {f"attnpool.{part}_proj.weight": (2048, 2048) for part in "qkv"}
    shapes |= {"attnpool.positional_embedding": (50, 2048), "attnpool.c_proj.weight": (768, 2048)}
    named = {f"module.visual.{name}": shape for name, shape in shapes.items()}
    named |= {"module.text_encoder.embeddings.weight": (30, 8), "module.logit_scale": ()}
    return {name: torch.tensor(0.001 * k).expand(shape) for k, (name, shape) in enumerate(named.items())}


@pytest.mark.parametrize(("layer", "width", "side"), [(None, 2048, 8), (-2, 1024, 16)])
def test_image_tower_of_pmc_clip(tmp_path: Path, layer: int | None, width: int, side: int) -> None:
    state = clip_resnet_state()
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 1, "state_dict": state}, path)
    encoder = build("resnet50_clip", path=str(path), image_size=256, layer=layer)
    encoder.load()
    assert (encoder.width, encoder.grid) == (width, (side, side))
    own = dict(encoder.backbone.named_parameters())
    for ours, theirs in {
        "stem.conv2.conv.weight": "conv2.weight",
        "stages.2.5.conv2_kxk.bn.bias": "layer3.5.bn2.bias",
        "stages.0.0.shortcut.conv.conv.weight": "layer1.0.downsample.0.weight",
        "stages.1.0.shortcut.conv.bn.weight": "layer2.0.downsample.1.weight",
    }.items():
        assert torch.equal(own[ours], state[f"module.visual.{theirs}"])
    assert not any("head" in name for name in own)
    assert any("stages.3" in name for name in own) == (layer is None)


@pytest.mark.parametrize(("model", "layer"), [("test_vit", 9), ("test_resnet", -9)])
def test_layers_that_are_not_there(model: str, layer: int) -> None:
    with pytest.raises(RecipeError, match=f"'{model}' has no layer {layer}"):
        build(model, layer=layer)


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, -2])
def test_class_token_of_a_transformer_kept_or_alone(layer: int | None) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("test_vit").eval()
    pixels = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    theirs = reference.forward_features(pixels)
    if layer is not None:
        patches, token = reference.forward_intermediates(
            pixels, indices=[layer], intermediates_only=True, norm=False, output_fmt="NLC", return_prefix_tokens=True
        )[0]
        theirs = torch.cat([token, patches], dim=1)
    keep, only, pooled = (
        build("test_vit", class_token=word, layer=layer, grid=grid)
        for word, grid in (("keep", None), ("only", None), ("keep", 2))
    )
    found = keep({"pixels": pixels})
    torch.testing.assert_close(found.values, theirs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(only({"pixels": pixels}).values, theirs[:, :1], atol=1e-6, rtol=1e-6)
    layouts = [layout_of(encoder.processor(), {}) for encoder in (keep, only, pooled)]
    assert [(layout.tokens, layout.beside) for layout in layouts] == [(101, 1), (1, 1), (5, 1)]
    for encoder, layout in zip((keep, only, pooled), layouts, strict=True):
        assert torch.equal(encoder({"pixels": pixels}).grid[1], places_of(layout))
    assert keep.processor().fingerprint() == build("test_vit", layer=layer).processor().fingerprint()  # the same items


def test_class_token_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"`class_token` is 'keep', but 'test_resnet' has no class token"):
        build(class_token="keep")


@torch.no_grad()
@pytest.mark.parametrize("side", [224, 96])
def test_weights_for_another_size_get_positions_as_timm_resamples_them(tmp_path: Path, side: int) -> None:
    torch.manual_seed(1)
    state = timm.create_model("test_vit").state_dict()
    save_file(state, tmp_path / "model.safetensors")
    encoder = build("test_vit", path=str(tmp_path / "model.safetensors"), image_size=side, act_layer="gelu")
    encoder.load()
    reference = timm.create_model("test_vit", img_size=side).eval()
    patches = side // 16
    table = resample_abs_pos_embed(state["pos_embed"], [patches, patches])
    reference.load_state_dict({**state, "pos_embed": table})
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    theirs = reference.forward_features(pixels)[:, 1:]
    torch.testing.assert_close(encoder.eval()({"pixels": pixels}).values, theirs, atol=1e-5, rtol=1e-5)
    # without the option, weights of another size are those of another model
    small = build("test_vit", path=str(tmp_path / "model.safetensors"), act_layer="gelu")
    torch.save({**state, "pos_embed": table}, tmp_path / "other.pth")
    other = build("test_vit", path=str(tmp_path / "other.pth"), act_layer="gelu")
    small.load()
    with pytest.raises(RecipeError, match="pos_embed"):
        other.load()


def test_options_of_a_stage_reach_the_processor() -> None:
    encoder = build("test_vit", class_token="keep")
    encoder.configure(TimmConfig("test_vit", class_token="keep", fit="pad", crop_pct=1.0))
    assert (encoder.processor().fit, encoder.processor().crop_pct) == ("pad", 1.0)
    encoder.configure(TimmConfig("test_vit", class_token="keep"))
    assert encoder.processor() == build("test_vit", class_token="keep").processor()
