"""CTranslate2's Whisper: written by the test as the format says, read bit for bit, and refused where it is damaged."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omnivit_encoders.whisper.ctranslate2_weights import convert, find, read_variables
from omnivit_encoders.whisper.encoder import WhisperConfig, WhisperEncoder
from torch import Tensor
from transformers import WhisperConfig as HFConfig
from transformers import WhisperForConditionalGeneration

from omnivit.contracts.sample import Media
from omnivit.errors import RecipeError

SMALL: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 32, "num_mel_bins": 80, "vocab_size": 60, "max_source_positions": 50,
    "max_target_positions": 8,
}  # fmt: skip
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
"""Of so small a vocabulary; the file does not tell them."""
CODES = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.float16: 4}


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def binary(variables: Mapping[str, Tensor], aliases: Mapping[str, str], kind: str = "WhisperSpec") -> bytes:
    """A `model.bin`."""
    out = struct.pack("<I", 6) + text(kind) + struct.pack("<II", 3, len(variables))
    for name, tensor in variables.items():
        data = tensor.numpy().tobytes()
        out += text(name) + struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
        out += struct.pack("<BI", CODES[tensor.dtype], len(data)) + data
    out += struct.pack("<I", len(aliases))
    return out + b"".join(text(alias) + text(name) for alias, name in aliases.items())


def named(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The variables that CTranslate2's converter makes of a Whisper of transformers."""
    for stack in ("encoder", "decoder"):
        prefix = f"model.{stack}."
        yield f"{stack}/num_heads", torch.tensor(settings[f"{stack}_attention_heads"], dtype=torch.int16)
        yield f"{stack}/pre_norm", torch.tensor(1, dtype=torch.int8)
        yield f"{stack}/position_encodings/encodings", state[f"{prefix}embed_positions.weight"]
        yield from norm(f"{stack}/layer_norm", state, f"{prefix}layer_norm")
        for layer in range(settings[f"{stack}_layers"]):
            ours, theirs = f"{stack}/layer_{layer}", f"{prefix}layers.{layer}"
            yield from attention(f"{ours}/self_attention", state, f"{theirs}.self_attn", ["qkv", "o"])
            if stack == "decoder":
                yield from attention(f"{ours}/attention", state, f"{theirs}.encoder_attn", ["q", "kv", "o"])
            yield from norm(f"{ours}/ffn/layer_norm", state, f"{theirs}.final_layer_norm")
            for number in (0, 1):
                for part in ("weight", "bias"):
                    yield f"{ours}/ffn/linear_{number}/{part}", state[f"{theirs}.fc{number + 1}.{part}"]
    for number in (1, 2):
        for part in ("weight", "bias"):
            yield f"encoder/conv{number}/{part}", state[f"model.encoder.conv{number}.{part}"]
    yield "decoder/embeddings/weight", state["model.decoder.embed_tokens.weight"]
    yield "decoder/alignment_heads", torch.tensor(1, dtype=torch.int16)


def norm(name: str, state: Mapping[str, Tensor], module: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}/gamma", state[f"{module}.weight"]
    yield f"{name}/beta", state[f"{module}.bias"]


def attention(name: str, state: Mapping[str, Tensor], module: str, groups: list[str]) -> Iterator[tuple[str, Tensor]]:
    yield from norm(f"{name}/layer_norm", state, f"{module}_layer_norm")
    for number, group in enumerate(groups):
        modules = [f"{module}.out_proj" if one == "o" else f"{module}.{one}_proj" for one in group]
        yield f"{name}/linear_{number}/weight", torch.cat([state[f"{one}.weight"] for one in modules])
        biases = [state.get(f"{one}.bias", torch.zeros_like(state[f"{module}.q_proj.bias"])) for one in modules]
        yield f"{name}/linear_{number}/bias", torch.cat(biases)


@pytest.fixture(scope="module", params=[torch.float32, torch.float16], ids=["float32", "float16"])
def model(request: pytest.FixtureRequest) -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    made = WhisperForConditionalGeneration(HFConfig(**SMALL, **SPECIAL))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.to(request.param)


def saved(model: WhisperForConditionalGeneration, folder: Path, **changes: Tensor) -> Path:
    variables = dict(named(model.state_dict(), SMALL)) | changes
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"}
    (folder / "model.bin").write_bytes(binary(variables, aliases))
    return folder / "model.bin"


def test_round_trip_is_exact(model: WhisperForConditionalGeneration, tmp_path: Path) -> None:
    found = convert(saved(model, tmp_path))
    assert {key: found.config[key] for key in SMALL} == SMALL
    again = WhisperForConditionalGeneration(HFConfig(**found.config | SPECIAL)).to(model.dtype)
    again.load_state_dict(found.state, strict=True)
    for name, tensor in model.state_dict().items():
        assert found.state[name].dtype == tensor.dtype and torch.equal(again.state_dict()[name], tensor), name
    assert set(found.state) == set(model.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"layer": 1}, {"window": 0.5}])
def test_the_encoder_reads_it(model: WhisperForConditionalGeneration, tmp_path: Path, options: dict[str, Any]) -> None:
    file = saved(model, tmp_path)
    (tmp_path / "config.json").write_text("{}")  # CTranslate2's own
    plain = WhisperForConditionalGeneration(HFConfig(**SMALL, **SPECIAL))
    plain.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    values = []
    for path in (file, tmp_path):
        encoder = WhisperEncoder(WhisperConfig(path=str(path), **options))
        encoder.load()
        noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
        item = {key: value[None] for key, value in encoder.processor()(Media("audio", (noise, 16_000))).items()}
        values.append(encoder(item).values)
    assert torch.equal(*values) and values[0].shape == (1, 25, 16)
    if not options:
        expected = plain.eval().model.encoder(item["mels"][:, 0]).last_hidden_state[:, :25]
        assert (values[0] - expected).abs().max() < 1e-5 * expected.abs().max()


def test_multilingual_ones_have_their_tokens_one_higher(model: WhisperForConditionalGeneration, tmp_path: Path) -> None:
    words = torch.zeros(51864, 16)
    config = convert(saved(model, tmp_path, **{"decoder/embeddings/weight": words})).config
    assert (config["eos_token_id"], config["decoder_start_token_id"]) == (50256, 50257)
    config = convert(saved(model, tmp_path, **{"decoder/embeddings/weight": torch.zeros(51865, 16)})).config
    assert (config["eos_token_id"], config["decoder_start_token_id"]) == (50257, 50258)


def test_every_cut_is_found(model: WhisperForConditionalGeneration, tmp_path: Path) -> None:
    whole = saved(model, tmp_path).read_bytes()
    cut = tmp_path / "cut" / "model.bin"
    cut.parent.mkdir()
    for size in [1, 3, 5, 17, 20, 25, 30, 60, 200, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(RecipeError, match=r"model\.bin: the file is truncated: it ends inside the "):
            read_variables(cut)
    cut.write_bytes(whole + b"\0")
    with pytest.raises(RecipeError, match="there are 1 bytes after the end of the model"):
        read_variables(cut)


GOOD = {"encoder/a": torch.ones(2, 3)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is truncated"),
        (b"PK\3\4" + bytes(100), "its first number is 67324752"),
        (struct.pack("<I", 5) + bytes(100), "not a CTranslate2 model of version 6: its first number is 5"),
        (binary(GOOD, {}, kind="TransformerSpec"), "is a 'TransformerSpec' of CTranslate2"),
        (
            struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, 2**32 - 1),
            "contains 4,294,967,295 variables",
        ),
        (binary(GOOD, {"b": "encoder/z"}), "the alias 'b' refers to 'encoder/z'"),
        (binary(GOOD, {}).replace(b"\2\2\0\0\0\3", b"\2\2\0\0\xff\3"), "but the file says 24"),
        (binary(GOOD, {}).replace(text("encoder/a") + b"\2", text("encoder/a") + b"\xc8"), "has 200 dimensions"),
        (binary(GOOD, {}).replace(b"\3\0\0\0\0\x18", b"\3\0\0\0\x09\x18"), "has the unknown type 9"),
        (struct.pack("<I", 6) + struct.pack("<H", 60_000) + bytes(70_000), "is 60000 bytes long"),
        (struct.pack("<I", 6) + struct.pack("<H", 4) + b"abcd", "does not end with NUL"),
    ],
)
def test_damage(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        read_variables(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder/layer_0/ffn/linear_0/weight": torch.ones(24, 16, dtype=torch.int8)}, "is quantised"),
        ({"encoder/layer_0/ffn/linear_0/weight_scale": torch.ones(24)}, "is quantised"),
        ({"encoder/layer_0/self_attention/linear_0/bias": torch.ones(48)}, "contains a bias of keys"),
        (
            {"encoder/layer_0/self_attention/linear_0/weight": torch.ones(47, 16)},
            "47 rows, which is not",
        ),
        ({"encoder/layer_7/ffn/linear_0/bias": torch.ones(24)}, "some layers of the encoder are missing"),
        ({"encoder/adapter/weight": torch.ones(24)}, "'encoder/adapter/weight', which Whisper does not have"),
    ],
)
def test_what_whisper_has_not(
    model: WhisperForConditionalGeneration, tmp_path: Path, changes: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        convert(saved(model, tmp_path, **changes))


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(binary(GOOD, {}))
    with pytest.raises(RecipeError, match="the variable 'decoder/embeddings/weight' is missing"):
        convert(tmp_path / "model.bin")


def test_what_is_taken_for_it(tmp_path: Path) -> None:
    assert find("openai/whisper-tiny") is None and find(tmp_path) is None
    (tmp_path / "model.bin").write_bytes(b"anything")
    assert find(tmp_path) == tmp_path / "model.bin" == find(tmp_path / "model.bin")
    (tmp_path / "preprocessor_config.json").touch()  # faster-whisper has one as well
    assert find(tmp_path) == tmp_path / "model.bin"
    (tmp_path / "model.safetensors").touch()  # a folder of transformers
    assert find(tmp_path) is None
