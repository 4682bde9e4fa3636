"""`whisper`: parity with transformers, lengths, windows, batches, layers, and what a recipe may get wrong."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omnivit_encoders.whisper.encoder import WhisperConfig, WhisperEncoder, WhisperProcessor
from torch import Tensor
from transformers import WhisperConfig as HFConfig
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperModel

from omnivit.contracts.sample import Media
from omnivit.data.collate import _stacked
from omnivit.errors import MediaError, OmniVitError, RecipeError
from omnivit.media.audio import read_audio

SMALL: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_mel_bins": 80, "vocab_size": 60, "max_source_positions": 50,
    "max_target_positions": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3,
}  # fmt: skip
"""Windows of one second: 50 rows, 16,000 samples."""
RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def sound(seconds: float, seed: int = 0) -> Media:
    return Media("audio", (noise(seconds, seed), RATE))


def batch(processor: WhisperProcessor, *media: Media) -> dict[str, Tensor]:
    items = [processor(one) for one in media]
    return {key: _stacked([item[key] for item in items]) for key in items[0]}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WhisperForConditionalGeneration]:
    """A checkpoint as the hub has them, and the model in it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whisper")
    model = WhisperForConditionalGeneration(HFConfig(**SMALL)).eval()
    torch.nn.init.normal_(model.model.encoder.layer_norm.bias)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(folder)
    return folder, model


def loaded(path: Path, **options: Any) -> WhisperEncoder:
    encoder = WhisperEncoder(WhisperConfig(path=str(path), **options))
    encoder.load()
    return encoder


@torch.no_grad()
def test_parity_with_transformers(original: tuple[Path, WhisperForConditionalGeneration]) -> None:
    folder, model = original
    encoder, media = loaded(folder), sound(0.73)
    item = encoder.processor()(media)
    extract = WhisperFeatureExtractor.from_pretrained(folder)
    features = extract(noise(0.73), sampling_rate=RATE, return_tensors="pt").input_features
    assert torch.equal(item["mels"], features)
    expected = model.model.encoder(features).last_hidden_state
    found = encoder({key: value[None] for key, value in item.items()})
    rows = 37  # 0.73 seconds of 50 rows each are 36.5
    assert found.values.shape == (1, rows, 16) and found.mask.all() and found.grid is None
    assert (found.values - expected[:, :rows]).abs().max() < 1e-5


@torch.no_grad()
def test_a_base_model_s_checkpoint_loads_too(
    original: tuple[Path, WhisperForConditionalGeneration], tmp_path: Path
) -> None:
    folder, model = original
    base = WhisperModel(model.config)
    base.load_state_dict(model.model.state_dict())
    base.save_pretrained(tmp_path)
    WhisperFeatureExtractor.from_pretrained(folder).save_pretrained(tmp_path)
    item = batch(loaded(folder).processor(), sound(0.5))
    assert torch.equal(loaded(tmp_path)(item).values, loaded(folder)(item).values)


@torch.no_grad()
@pytest.mark.parametrize("layer", [1, 2, 3, -1, -2])
def test_layers(original: tuple[Path, WhisperForConditionalGeneration], layer: int) -> None:
    folder, model = original
    encoder = loaded(folder, layer=layer)
    item = batch(encoder.processor(), sound(1.0))
    seen: list[Tensor] = []
    needed = layer if layer > 0 else 4 + layer
    hook = model.model.encoder.layers[needed - 1].register_forward_hook(
        lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    model.model.encoder(item["mels"][:, 0])
    hook.remove()
    assert len(encoder.tower.layers) == needed
    assert (encoder(item).values - seen[0].reshape(1, 50, 16)).abs().max() < 1e-5


@torch.no_grad()
def test_long_sounds_in_windows(original: tuple[Path, WhisperForConditionalGeneration]) -> None:
    encoder = loaded(original[0])
    whole = encoder(batch(encoder.processor(), sound(2.3))).values[0]
    assert whole.shape == (115, 16)
    samples = noise(2.3)
    for start in range(3):
        piece = samples[start * RATE : (start + 1) * RATE]
        alone = encoder(batch(encoder.processor(), Media("audio", (piece, RATE)))).values[0]
        assert torch.allclose(whole[start * 50 : start * 50 + len(alone)], alone, atol=1e-5)


@torch.no_grad()
def test_a_batch_gives_what_each_gives_alone(original: tuple[Path, WhisperForConditionalGeneration]) -> None:
    encoder = loaded(original[0])
    processor = encoder.processor()
    media = [sound(seconds, seed) for seed, seconds in enumerate((0.31, 2.5, 1.0, 0.02, 1.001))]
    together = encoder(batch(processor, *media))
    lengths = [processor.length(processor(one)) for one in media]
    assert lengths == together.lengths().tolist() == [16, 125, 50, 1, 51]
    assert together.values.shape == (5, 125, 16)
    for row, (one, length) in enumerate(zip(media, lengths, strict=True)):
        alone = encoder(batch(processor, one)).values[0]
        assert torch.allclose(together.values[row, :length], alone, atol=1e-5)
        assert not together.values[row, length:].any() and not together.mask[row, length:].any()


@torch.no_grad()
def test_the_filling_is_not_encoded(original: tuple[Path, WhisperForConditionalGeneration]) -> None:
    encoder = loaded(original[0])
    seen: list[int] = []
    encoder.tower.conv1.register_forward_hook(lambda _, __, output: seen.append(len(output)))
    encoder(batch(encoder.processor(), sound(0.5), sound(2.5)))
    assert seen == [1 + 3]


def test_too_long(original: tuple[Path, WhisperForConditionalGeneration]) -> None:
    strict = loaded(original[0], windows=2)
    assert strict.processor()(sound(2.0))["rows"] == 100
    with pytest.raises(MediaError, match=r"is 2\.5 seconds long, longer than 2 windows of 1 seconds.*too_long: cut"):
        strict.processor()(sound(2.5))
    cut = loaded(original[0], windows=2, too_long="cut").processor()(sound(2.5))
    assert cut["rows"] == 100 and torch.equal(
        cut["mels"], strict.processor()(Media("audio", (noise(2.5)[:32000], RATE)))["mels"]
    )


@torch.no_grad()
def test_rows_in_groups(original: tuple[Path, WhisperForConditionalGeneration]) -> None:
    plain, grouped = loaded(original[0]), loaded(original[0], multiple=5)
    item = batch(grouped.processor(), sound(0.31), sound(1.01))
    found = grouped(item)
    assert found.lengths().tolist() == [20, 55] == [grouped.processor().length({"rows": r}) for r in item["rows"]]
    exact = plain(batch(plain.processor(), sound(0.31), sound(1.01)))
    assert exact.lengths().tolist() == [16, 51]
    assert torch.allclose(found.values[0, :16], exact.values[0, :16], atol=1e-5)


@torch.no_grad()
def test_shorter_windows(original: tuple[Path, WhisperForConditionalGeneration]) -> None:
    encoder = loaded(original[0], window=0.5)
    item = batch(encoder.processor(), sound(0.7))
    assert item["mels"].shape == (1, 2, 80, 50) and item["rows"].tolist() == [35]
    assert encoder(item).values.shape == (1, 35, 16)
    full = original[1].model.encoder.embed_positions.weight
    assert torch.equal(encoder.tower.embed_positions.weight, full[:25])
    assert not encoder.tower.embed_positions.weight.requires_grad


@torch.no_grad()
def test_silence_and_rates(original: tuple[Path, WhisperForConditionalGeneration]) -> None:
    encoder = loaded(original[0])
    silent = encoder(batch(encoder.processor(), Media("audio", (np.zeros(8000, np.float32), RATE))))
    assert silent.values.shape == (1, 25, 16) and torch.isfinite(silent.values).all()
    low = Media("audio", (np.stack([noise(0.5)[::2]] * 2), 8000))
    assert encoder(batch(encoder.processor(), low)).values.shape == (1, 25, 16)
    assert len(read_audio(low, RATE)) == 8000


def test_constructs_without_weights() -> None:
    with torch.device("meta"):
        encoder = WhisperEncoder(WhisperConfig(config=SMALL))
    assert {parameter.device.type for parameter in encoder.parameters()} == {"meta"}
    assert encoder.width == 16 and encoder.processor()(sound(0.5))["rows"] == 25


def test_meta_construction_then_load(original: tuple[Path, WhisperForConditionalGeneration]) -> None:
    with torch.device("meta"):
        encoder = WhisperEncoder(WhisperConfig(path=str(original[0]), dtype="bfloat16"))
    encoder.load()
    assert {(p.device.type, p.dtype) for p in encoder.parameters()} == {("cpu", torch.bfloat16)}


def test_processor_pickles_small_and_is_deterministic() -> None:
    processor = WhisperEncoder(WhisperConfig(config=SMALL)).processor()
    text = pickle.dumps(processor)
    assert len(text) < 300_000
    again = pickle.loads(text)
    assert again.fingerprint() == processor.fingerprint()
    seeded = Media("audio", sound(0.5).source, seed=7)
    assert torch.equal(again(seeded)["mels"], processor(sound(0.5))["mels"])  # nothing is drawn
    others = [{"windows": 3}, {"too_long": "cut"}, {"multiple": 5}, {"window": 0.5}]
    prints = {WhisperEncoder(WhisperConfig(config=SMALL, **other)).processor().fingerprint() for other in others}  # type: ignore[arg-type]
    assert len(prints | {processor.fingerprint()}) == 5


def test_gradients_reach_the_weights_but_not_the_positions() -> None:
    encoder = WhisperEncoder(WhisperConfig(config=SMALL))
    encoder(batch(encoder.processor(), sound(0.5))).values.pow(2).sum().backward()  # type: ignore[no-untyped-call]
    without = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert without == ["tower.embed_positions.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 4}, "`layer` is 4, but the model has 3 layers"),
        ({"layer": 0}, "`layer` is 0, but the model has 3 layers"),
        ({"multiple": 3}, r"a window has 50 tokens, which is not a multiple of `multiple` \(3\)"),
        ({"window": 2.0}, r"a window of 2 seconds does not fit: it must be at most 1 seconds"),
        ({"window": 0.031}, r"a window of 0\.031 seconds does not fit"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        WhisperEncoder(WhisperConfig(config=SMALL, **options))


@pytest.mark.parametrize(
    "options",
    [{}, {"path": "a", "config": SMALL}, {"config": SMALL, "windows": 0}, {"config": SMALL, "window": 0.0},
     {"config": SMALL, "multiple": 0}],
)  # fmt: skip
def test_config_mistakes(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`path`|`window|`multiple`"):
        WhisperConfig(**options)


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OmniVitError, match="no such file or folder"):
        WhisperEncoder(WhisperConfig(path=str(tmp_path / "absent" / "x.bin")))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(RecipeError, match=r"has the type 'clip', but a Whisper is needed"):
        WhisperEncoder(WhisperConfig(path=str(tmp_path)))
    with pytest.raises(RecipeError, match="no config can be created from"):
        WhisperEncoder(WhisperConfig(config={"d_model": "wide"}))


def test_inspect(tmp_path: Path) -> None:
    facts = WhisperEncoder.inspect(sound(1.5))
    assert (facts.kind, facts.seconds, facts.shape["samples"]) == ("audio", 1.5, 24_000)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(MediaError, match=r"a\.wav: is not audio"):
        WhisperEncoder.inspect(Media("audio", "a.wav", str(tmp_path)))
