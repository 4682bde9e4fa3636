"""The encoder `ulip`: numbers of the originals, their checkpoints, batches, clouds of any size, seeds, refusals."""

from __future__ import annotations

import argparse
import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_support import read_golden
from omnivit_encoders.ulip.encoder import UlipConfig, UlipEncoder, augmented, normalised
from omnivit_encoders.ulip.point_bert import grouped
from safetensors.torch import save_file
from torch import Tensor, nn

from omnivit.contracts import registries
from omnivit.contracts.encoder import Processor, layout_of
from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Media
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.errors import MediaError, RecipeError
from omnivit.media.points.sampling import farthest

GOLDEN = read_golden("encoders/ulip")
SMALL: dict[str, Any] = {"points": 70, "groups": 8, "group_size": 6, "group_widths": (128, 256, 512, 20), "width": 24,
                         "depth": 3, "heads": 4}  # fmt: skip
"""The sizes of the golden numbers."""
VARIANT = {"pointllm": "pointllm_v1_2", "ulip2": "ulip2", "ulip1": "ulip1"}


def build(**options: Any) -> UlipEncoder:
    torch.manual_seed(0)
    return UlipEncoder(UlipConfig(**(SMALL | options))).eval()


def waves(*shape: int, speed: float) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * speed).reshape(shape).float()


def fill(module: nn.Module) -> None:
    """The weights of the golden numbers."""
    ones = ("running_var", "norm.weight", "norm1.weight", "norm2.weight", "conv.1.weight")
    with torch.no_grad():
        for number, (name, value) in enumerate(sorted(module.state_dict().items())):
            if value.is_floating_point():
                wave = waves(*value.shape, speed=0.7 + 0.1 * number)
                value.copy_(1 + 0.1 * wave if name.endswith(ones) else 0.3 * wave)


def cloud(count: int, points: int, channels: int) -> Tensor:
    """The clouds of the golden numbers: [count, points, channels]."""
    found = waves(count, points, channels, speed=1.7)
    found[..., 3:] = found[..., 3:].abs()
    return found


def scan(points: int, channels: int = 6, seed: int = 0) -> np.ndarray[Any, Any]:
    draw = np.random.default_rng(seed)
    return np.concatenate([draw.normal(size=(points, 3)), draw.random((points, channels - 3))], axis=1)


def run(encoder: UlipEncoder, *items: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        values: Tensor = encoder({key: torch.stack([item[key] for item in items]) for key in items[0]}).values
    return values


@pytest.mark.parametrize("name", GOLDEN)
def test_numbers_of_the_original(name: str) -> None:
    golden = GOLDEN[name]
    encoder = build(variant=VARIANT[name])
    fill(encoder.model)
    points = cloud(2, 70, 3 if name == "ulip1" else 6)
    blind = encoder.config.sizes.blind
    centres = torch.stack([torch.from_numpy(farthest(one[:, :3].numpy(), 8, blind)) for one in points])
    torch.testing.assert_close(points[0, centres[0], :3], torch.tensor(golden["centres"]), rtol=0, atol=0)
    with torch.no_grad():
        values = encoder({"points": points, "centres": centres}).values
    assert list(values.shape) == golden["shape"] and values.shape[2] == encoder.width
    expected = torch.tensor(golden["values"])
    torch.testing.assert_close(values[:, :3].flatten(0, 1), expected, rtol=0, atol=1e-5)
    assert values.double().mean().item() == pytest.approx(golden["mean"], abs=1e-6)
    assert len(encoder.model.state_dict()) == golden["tensors"]


@pytest.mark.parametrize(
    ("variant", "tensors", "millions", "rows", "width"),
    [
        ("ulip2", 226, 32.5, 1, 768),
        ("ulip1", 160, 21.85, 1, 768),
        ("pointllm_v1_2", 160, 21.86, 513, 384),
        ("pointllm_v1_1", 160, 192.55, 513, 1152),
    ],
)
def test_published_sizes(variant: str, tensors: int, millions: float, rows: int, width: int) -> None:
    with torch.device("meta"):
        encoder = UlipEncoder(UlipConfig(variant=variant))  # type: ignore[arg-type]
    assert len(encoder.model.state_dict()) == tensors
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert (encoder.processor().length({}), encoder.width) == (rows, width)


def test_all_tokens_of_ulip2_by_an_option() -> None:
    encoder = build(variant="ulip2", output="tokens")
    item = encoder.processor()(Media("points", scan(70)))
    rows = run(encoder, item)
    assert rows.shape == (1, encoder.processor().length(item), 24)
    pooled = run(build(variant="ulip2"), item)
    torch.testing.assert_close(pooled[0, 0], torch.cat([rows[0, 0], rows[0, 1:].max(dim=0).values]))


def test_length_is_the_number_of_rows_and_there_is_no_grid() -> None:
    encoder = build()
    processor = encoder.processor()
    item = processor(Media("points", scan(200)))
    features = encoder({key: value[None] for key, value in item.items()})
    assert features.values.shape == (1, processor.length(item), encoder.width) == (1, 9, 24)
    assert features.mask.all() and features.grid is None
    assert layout_of(processor, item).grid is None


def test_a_cloud_in_a_batch_gives_what_it_gives_alone() -> None:
    """Of 3, 70 and 5000 points, some of them on a lattice with many equal distances."""
    encoder = build()
    lattice = np.stack(np.meshgrid(*[np.arange(17.0)] * 3), axis=-1).reshape(-1, 3)
    media = [scan(3), scan(70), lattice, scan(5000, 3)]
    items = [encoder.processor()(Media("points", source)) for source in media]
    samples = [
        EncodedSample(
            str(i), torch.zeros(9).long(), torch.zeros(9).long(), (Span("points", 0, 9),), (item,), torch.arange(9)
        )
        for i, item in enumerate(items)
    ]
    batch = collate(samples, ["points"], 0)
    with torch.no_grad():
        together = encoder(batch.media["points"].items).values
    for row, item in zip(together, items, strict=True):
        torch.testing.assert_close(row, run(encoder, item)[0], rtol=0, atol=1e-5)


def test_groups_are_the_nearest_points_also_under_autocast() -> None:
    points = torch.from_numpy(scan(300)).float()[None]
    centres = torch.arange(5)[None]
    with torch.autocast("cpu", torch.bfloat16):
        found, places = grouped(points, centres, 7)
    distances = torch.cdist(points[0, :5, :3].double(), points[0, :, :3].double())
    expected = distances.sort(dim=1).values[:, :7]
    torch.testing.assert_close(found[0, ..., :3].double().norm(dim=-1).sort(dim=1).values, expected, rtol=0, atol=1e-5)
    assert torch.equal(places[0], points[0, :5, :3])


def test_normalisation_is_zero_mean_and_radius_one_for_xyz_alone() -> None:
    source = scan(70)
    source[:, :3] = source[:, :3] * 40 + 1e7
    points = build().processor()(Media("points", source))["points"]
    torch.testing.assert_close(points[:, :3].mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    assert points[:, :3].norm(dim=1).max().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(points[:, 3:], torch.from_numpy(source[:, 3:]).float())
    centred = source[:, :3] - source[:, :3].mean(0)
    expected = centred / np.sqrt((centred**2).sum(1)).max()
    torch.testing.assert_close(points[:, :3], torch.from_numpy(expected).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("variant", "colour"), [("ulip2", 0.4), ("pointllm_v1_2", 0.0)])
def test_missing_colours_are_those_of_the_original(variant: str, colour: float) -> None:
    points = build(variant=variant).processor()(Media("points", scan(70, 3)))["points"]
    assert points[:, 3:].unique().tolist() == [pytest.approx(colour)]
    assert build(variant="ulip1").processor()(Media("points", scan(70)))["points"].shape == (70, 3)


@pytest.mark.parametrize("sampling", ["farthest", "random"])
@pytest.mark.parametrize("count", [1, 3, 69, 70, 71, 1000])
def test_any_number_of_points_becomes_the_wanted_one(count: int, sampling: str) -> None:
    source = scan(count)
    item = build(sampling=sampling).processor()(Media("points", source))
    assert item["points"].shape == (70, 6) and item["points"].isfinite().all()
    colours = {tuple(row) for row in item["points"][:, 3:].tolist()}
    assert len(colours) == min(count, 70), "points are repeated only where there are too few, and none is made up"
    assert item["centres"].shape == (8,) and item["centres"].max() < 70
    if count == 70:
        torch.testing.assert_close(item["points"][:, 3:], torch.from_numpy(source[:, 3:]).float())


def test_farthest_sampling_spreads_points_better_than_random() -> None:
    dense = scan(2000)
    dense[:1900, :3] *= 0.01

    def apart(sampling: str) -> int:
        points = build(sampling=sampling).processor()(Media("points", dense))["points"][:, :3]
        return int((points.norm(dim=1) > 0.1).sum())

    assert apart("farthest") > 3 * apart("random")


def test_a_cloud_without_extent_is_a_point() -> None:
    encoder = build()
    item = encoder.processor()(Media("points", np.ones((50, 3))))
    assert not item["points"].any() and run(encoder, item).isfinite().all()


def test_augmentation_follows_the_seed_and_only_in_training() -> None:
    plain, augment = build().processor(), build(augment=True).processor()
    source = scan(70)

    def points(processor: Processor, seed: int | None) -> Tensor:
        return processor(Media("points", source, seed=seed))["points"]

    assert torch.equal(points(augment, 5), points(augment, 5))
    assert not torch.equal(points(augment, 5), points(augment, 6))
    assert torch.equal(points(augment, None), points(plain, None))
    assert torch.equal(points(plain, 5), points(plain, None)), "70 of 70 points: nothing to draw"
    assert torch.equal(points(augment, 5)[:, 3:], points(plain, 5)[:, 3:]), "colours stay"


@pytest.mark.parametrize("up", [0, 1, 2])
def test_augmentation_turns_about_the_vertical(up: int) -> None:
    tall = np.zeros((100, 3), dtype=np.float32)
    tall[:, up] = np.linspace(-1, 1, 100)
    for seed in range(5):
        found = augmented(tall, up, seed)
        assert np.ptp(found, axis=0).argmax() == up and np.ptp(np.delete(found, up, 1), axis=0).max() < 0.11


def test_seed_draws_other_points_and_none_draws_always_the_same() -> None:
    processor = build().processor()
    source = scan(1000)
    first, again, other = (processor(Media("points", source, seed=s))["points"] for s in (None, None, 3))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_processor_pickles_small_and_tells_settings_apart() -> None:
    processor = build().processor()
    assert isinstance(processor, Processor)
    assert len(pickle.dumps(processor)) < 1000
    assert pickle.loads(pickle.dumps(processor)) == processor
    others = [{"augment": True}, {"up": "z"}, {"sampling": "random"}, {"points": 71}, {"missing_colour": 0.5}]
    prints = {build(**options).processor().fingerprint() for options in ({}, *others)}
    assert len(prints) == 6


def test_every_parameter_is_used_and_drop_path_is_for_training() -> None:
    encoder = build(drop_path=0.0).train()
    items = {key: value[None] for key, value in encoder.processor()(Media("points", scan(70))).items()}
    encoder(items).values.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    dropping = build(drop_path=0.9).train()
    items = {key: value.expand(8, *value.shape[1:]) for key, value in items.items()}
    assert not torch.equal(dropping(items).values, dropping(items).values)
    still = dropping.eval()
    assert torch.equal(still(items).values, still(items).values)


def ulip_file(encoder: UlipEncoder, path: Path, prefix: str = "module.point_encoder.") -> Path:
    """A training checkpoint as ULIP's `save_on_master` writes it."""
    state = {prefix + name: value for name, value in encoder.model.state_dict().items()}
    state |= {"module.pc_projection": torch.zeros(768, 1280), "module.logit_scale": torch.ones(())}
    rest = {"epoch": 3, "optimizer": {"param_groups": [{"lr": 1e-3}]}, "best_acc1": np.float64(50.6)}
    torch.save({"state_dict": state, "args": argparse.Namespace(model="ULIP_PointBERT"), **rest}, path)
    return path


def same(first: UlipEncoder, second: UlipEncoder) -> bool:
    return all(
        torch.equal(one, other)
        for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def loaded(path: Path, **options: Any) -> UlipEncoder:
    with torch.device("meta"):
        encoder = UlipEncoder(UlipConfig(**(SMALL | {"path": str(path)} | options)))
    encoder = encoder.to_empty(device="cpu")
    encoder.load()
    return encoder.eval()


def test_loads_a_training_checkpoint_of_ulip(tmp_path: Path) -> None:
    source = build(variant="ulip2")
    fill(source.model)
    assert same(loaded(ulip_file(source, tmp_path / "ulip2.pt"), variant="ulip2"), source)


def test_loads_the_encoder_out_of_a_sharded_assistant(tmp_path: Path) -> None:
    """PointLLM 1.2's layout; the file that holds the LLM alone is not even opened."""
    source = build()
    fill(source.model)
    own = {f"model.point_backbone.{name}": value.clone() for name, value in source.model.state_dict().items()}
    beside = {"model.point_proj.0.weight": torch.zeros(2, 2), "model.layers.0.mlp.up_proj.weight": torch.zeros(2, 2)}
    torch.save(own | beside, tmp_path / "pytorch_model-00002-of-00002.bin")
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"not weights")
    places = dict.fromkeys(own | beside, "pytorch_model-00002-of-00002.bin")
    index = {"weight_map": places | {"model.embed_tokens.weight": "pytorch_model-00001-of-00002.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert same(loaded(tmp_path), source)


def test_loads_plain_safetensors_and_a_named_file_of_a_folder(tmp_path: Path) -> None:
    source = build()
    fill(source.model)
    save_file(source.model.state_dict(), tmp_path / "model.safetensors")
    ulip_file(source, tmp_path / "point_bert_v1.2.pt")
    assert same(loaded(tmp_path / "model.safetensors"), source)
    assert same(loaded(tmp_path), source)
    assert same(loaded(tmp_path, file="point_bert_v1.2.pt"), source)


def test_loads_what_has_been_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    source = build(variant="ulip2")
    fill(source.model)
    repository = tmp_path / "models--org--init"
    for folder in ("refs", "snapshots/0123"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs/main").write_text("0123", encoding="utf-8")
    ulip_file(source, repository / "snapshots/0123/point_bert_v1.2.pt")
    assert same(loaded(Path("org/init"), file="point_bert_v1.2.pt", variant="ulip2"), source)
    with pytest.raises(RecipeError, match=r"0123: has no file 'other.pt'\. Check `file`"):
        loaded(Path("org/init"), file="other.pt")
    with pytest.raises(RecipeError, match=r"0123: contains none of"):
        loaded(Path("org/init"))


def test_another_depth_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    """The public checkpoint of ULIP-2 has 18 layers and does not fit PointLLM 1.2."""
    path = ulip_file(build(variant="ulip2", depth=18), tmp_path / "ulip2.pt")
    with pytest.raises(RecipeError, match=r"has 18 layers, but `variant: pointllm_v1_2` has 3. It may be 'ulip2'"):
        loaded(path)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"heads": 2, "width": 22}, r"does not fit the model.*Other shapes"),
        ({"variant": "ulip1"}, r"does not fit the model.*encoder.first_conv.0.weight \[128, 6, 1\] for \[128, 3, 1\]"),
        ({"file": "none.pt"}, r"has no file 'none.pt'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(options: dict[str, Any], error: str, tmp_path: Path) -> None:
    ulip_file(build(), tmp_path / "pytorch_model.bin")
    with pytest.raises(RecipeError, match=error):
        loaded(tmp_path, **options)


def test_a_missing_tensor_and_other_models_are_refused(tmp_path: Path) -> None:
    state = build().model.state_dict()
    del state["norm.weight"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(RecipeError, match=r"does not fit the model. Missing: norm.weight"):
        loaded(tmp_path / "short.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(RecipeError, match=r"other.safetensors: the file contains no Point-BERT"):
        loaded(tmp_path / "other.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"empty: contains none of model.safetensors.index.json.*Set `file`"):
        loaded(tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"variant": "ulip3"}, r"variant.*ulip3"),
        ({"groups": 0}, r"`groups` is 0"),
        ({"group_widths": (8, 8, 0, 8)}, r"`group_widths` is \(8, 8, 0, 8\)"),
        ({"groups": 71}, r"70 points are too few for 71 groups of 6 points"),
        ({"width": 25}, r"`width` \(25\) must be a multiple of `heads` \(4\)"),
        ({"file": "a.pt"}, r"`file` needs `path`"),
        ({"drop_path": 1.0}, r"`drop_path` \(1.0\)"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        UlipConfig(**(SMALL | options))


def test_a_recipe_may_say_sizes_as_a_list() -> None:
    config = merge_options(UlipConfig, {"group_widths": [8, 16, 32, 8], "groups": 4, "group_size": 4}, "encoder")
    assert config.sizes.group_widths == (8, 16, 32, 8)


def test_is_registered_and_inspects(tmp_path: Path) -> None:
    assert registries.encoders.get("ulip") is UlipEncoder
    np.save(tmp_path / "a.npy", scan(12))
    facts = UlipEncoder.inspect(Media("points", str(tmp_path / "a.npy")))
    assert (facts.kind, facts.shape, facts.details["colours"]) == ("points", {"points": 12}, "yes")
    with pytest.raises(MediaError, match=r"b.npy: no such file"):
        UlipEncoder.inspect(Media("points", str(tmp_path / "b.npy")))


def test_normalised_does_not_overflow() -> None:
    assert normalised(np.array([[-1e18, 0, 0], [1e18, 0, 0]], dtype=np.float32)).tolist() == [[-1, 0, 0], [1, 0, 0]]
