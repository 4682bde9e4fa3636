"""`resize_positions` of `clip`: the table of positions is interpolated once, and trained at the new size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_support import read_golden
from omnivit_encoders.clip import ClipConfig, ClipEncoder
from omnivit_encoders.clip.positions import resize_table
from transformers import AutoConfig, AutoModel, CLIPImageProcessor

from omnivit.errors import RecipeError
from omnivit.model.start import Start

GOLDEN = read_golden("encoders/clip_positions")
SIZES = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = ("clip_vision_model", "siglip_vision_model", "vit", "dinov2")
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def save(folder: Path, kind: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, image_size=32, patch_size=8, initializer_range=0.5)
    AutoModel.from_config(config).eval().save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def loaded(folder: Path, resize: bool) -> ClipEncoder:
    encoder = ClipEncoder(ClipConfig(path=str(folder), layer=-1, image_size=48, resize_positions=resize))
    encoder.load()
    return encoder.eval()


def test_a_resized_table_is_that_of_mplug_owl2() -> None:
    table = torch.sin(1.3 * torch.arange(16 * 4, dtype=torch.float64)).reshape(16, 4).float()
    expected = torch.tensor(GOLDEN["values"])
    places = resize_table(table, (6, 6), 36)
    assert places is not None
    torch.testing.assert_close(places, expected, rtol=0, atol=1e-6)
    with_class = resize_table(torch.cat([torch.full((1, 4), 9.0), table])[None], (6, 6), 37)
    assert with_class is not None and with_class.shape == (1, 37, 4) and bool((with_class[0, 0] == 9).all())
    torch.testing.assert_close(with_class[0, 1:], expected, rtol=0, atol=1e-6)
    assert resize_table(table[:15], (6, 6), 36) is None


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_it_gives_what_interpolation_in_every_pass_gives(tmp_path: Path, kind: str) -> None:
    save(tmp_path, kind)
    plain, resized = loaded(tmp_path, resize=False), loaded(tmp_path, resize=True)
    with torch.no_grad():
        expected, found = (encoder({"pixels": PIXELS}).values for encoder in (plain, resized))
    assert found.shape == (2, 36, 24)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    shapes = {name: value.shape for name, value in plain.named_parameters()}
    (table,) = [name for name, value in resized.named_parameters() if value.shape != shapes[name]]
    parameter = resized.get_parameter(table)
    assert parameter.shape[-2] - shapes[table][-2] == 36 - 16
    resized({"pixels": PIXELS}).values.sum().backward()
    assert parameter.grad is not None and bool(parameter.grad.reshape(-1, 24)[-36:].any(dim=1).all())


@pytest.mark.parametrize("meta", [False, True], ids=["weights", "check"])
def test_init_from_fills_the_larger_table_from_a_smaller_one(tmp_path: Path, meta: bool) -> None:
    save(tmp_path, "clip_vision_model")
    smaller, larger = (torch.nn.Module() for _ in range(2))
    for model, resize in ((smaller, False), (larger, True)):
        model.encoders = torch.nn.ModuleDict({"image": loaded(tmp_path, resize)})
    expected = {name: value.clone() for name, value in larger.state_dict().items()}
    for parameter in larger.parameters():
        torch.nn.init.zeros_(parameter)
    weights = {name: value.to("meta") if meta else value for name, value in smaller.state_dict().items()}
    if meta:
        larger = larger.to("meta")
    Start(tensors=weights).fill(larger)  # type: ignore[arg-type]
    for name, value in larger.state_dict().items():
        assert value.shape == expected[name].shape
        assert meta or torch.equal(value, expected[name]), name


def test_the_size_of_the_table_does_not_change_between_stages(tmp_path: Path) -> None:
    save(tmp_path, "clip_vision_model")
    encoder = loaded(tmp_path, resize=True)
    with pytest.raises(RecipeError, match=r"for images of 48 pixels, so a stage cannot set `image_size: 64`"):
        encoder.configure(ClipConfig(path=str(tmp_path), layer=-1, image_size=64, resize_positions=True))
    with pytest.raises(ValueError, match="needs `image_size`"):
        ClipConfig(path=str(tmp_path), resize_positions=True)
