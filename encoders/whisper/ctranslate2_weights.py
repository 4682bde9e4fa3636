"""Whisper weights of CTranslate2 (`model.bin`, as faster-whisper has them) under the names of transformers.

The format, little-endian: uint32 version, the name of the model's kind, uint32 revision, uint32 number of variables;
of each its name, uint8 rank, uint32 sizes, uint8 type, uint32 bytes, data; then uint32 number of aliases, two names
each. A name is uint16 length, then so many bytes, the last of them NUL. Nothing is unpickled, and a file that says
anything that does not add up is refused. It is mapped into memory: what is not used is not read.

Shapes: d `d_model`.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivit.media.advice import download_again
from omnivit.plugin import RecipeError

FILE = "model.bin"
"""Its name inside the folder of a CTranslate2 model."""
VERSION = 6
KIND = "WhisperSpec"
TYPES = {0: torch.float32, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.float16}
MAX_RANK, MAX_NAME, MAX_VARIABLES = 4, 512, 100_000
ENGLISH_VOCABULARY = 51864
"""Tokens of the English-only models; the multilingual ones have more, and their special tokens begin one higher."""

_STACKS = {"encoder": "model.encoder", "decoder": "model.decoder"}
_NORM = {"gamma": "weight", "beta": "bias"}
_LINEAR = {"weight": "weight", "bias": "bias"}
_LAYER = re.compile(r"(encoder|decoder)/layer_(\d+)/(\w+)/(\w+)/(\w+)")
_PARTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("self_attention", "layer_norm"): ("self_attn_layer_norm",),
    ("self_attention", "linear_0"): ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attention", "linear_1"): ("self_attn.out_proj",),
    ("attention", "layer_norm"): ("encoder_attn_layer_norm",),
    ("attention", "linear_0"): ("encoder_attn.q_proj",),
    ("attention", "linear_1"): ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    ("attention", "linear_2"): ("encoder_attn.out_proj",),
    ("ffn", "layer_norm"): ("final_layer_norm",),
    ("ffn", "linear_0"): ("fc1",),
    ("ffn", "linear_1"): ("fc2",),
}
"""Block and part of a layer -> modules of transformers, whose rows are concatenated."""
_DIRECT = {
    "encoder/position_encodings/encodings": "model.encoder.embed_positions.weight",
    "decoder/position_encodings/encodings": "model.decoder.embed_positions.weight",
    "decoder/embeddings/weight": "model.decoder.embed_tokens.weight",
    **{f"encoder/conv{i}/{kind}": f"model.encoder.conv{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")},
    **{f"{a}/layer_norm/{b}": f"{stack}.layer_norm.{_NORM[b]}" for a, stack in _STACKS.items() for b in _NORM},
}


@dataclass(frozen=True)
class Converted:
    """A Whisper model as transformers names it."""

    config: dict[str, Any]
    """Arguments of `WhisperConfig`."""
    state: dict[str, Tensor]
    """State of `WhisperForConditionalGeneration`, in the types of the file."""


def find(place: Path | str) -> Path | None:
    """The `model.bin` that a place names, or that is in a folder without weights of transformers."""
    if not isinstance(place, Path):
        return None
    if place.is_dir():
        return place / FILE if (place / FILE).is_file() and not any(place.glob("*.safetensors")) else None
    return place if place.name == FILE else None


def convert(path: Path) -> Converted:
    """Read a CTranslate2 Whisper.

    Raises:
        RecipeError: the file is not such a model, or is damaged, truncated or quantised, or contains weights that
            Whisper does not have.
    """
    variables = read_variables(path)
    try:
        return Converted(_config(variables), dict(_renamed(variables)))
    except KeyError as error:
        raise RecipeError(
            f"{path}: the variable {error.args[0]!r} is missing. Check that the file is a Whisper of CTranslate2."
        ) from error
    except _Refusal as error:
        raise RecipeError(f"{path}: {error}") from error


def read_variables(path: Path) -> dict[str, Tensor]:
    """Every variable of a `model.bin` by its name, aliases included.

    Raises:
        RecipeError: the file cannot be read or does not keep to the format.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b""
        return _Reader(data).all()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}.") from error
    except _Refusal as error:
        raise RecipeError(f"{path}: {error}") from error


class _Refusal(ValueError):
    """What is wrong with a file, without its path, which the caller adds."""


class _Reader:
    """Walks over the bytes of a file and refuses to read beyond their end."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data, self.at = data, 0

    def all(self) -> dict[str, Tensor]:
        version = self.number("I", "version")
        if version != VERSION:
            raise _Refusal(f"this is not a CTranslate2 model of version {VERSION}: its first number is {version}.")
        kind = self.name("kind of model")
        if kind != KIND:
            raise _Refusal(f"this is a {kind!r} of CTranslate2, but {KIND!r} is needed.")
        self.number("I", "revision")
        variables: dict[str, Tensor] = {}
        for _ in range(self.count("variables")):
            name = self.name("name of a variable")
            if name in variables:
                raise _Refusal(f"the file contains the variable {name!r} twice.")
            variables[name] = self.tensor(name)
        for _ in range(self.count("aliases")):
            alias, name = self.name("alias"), self.name("name of an alias")
            if name not in variables:
                raise _Refusal(f"the alias {alias!r} refers to {name!r}, which the file does not contain.")
            variables[alias] = variables[name]
        if self.at != len(self.data):
            raise _Refusal(
                f"there are {len(self.data) - self.at:,} bytes after the end of the model. The file is damaged."
            )
        return variables

    def tensor(self, name: str) -> Tensor:
        rank = self.number("B", f"rank of {name}")
        if rank > MAX_RANK:
            raise _Refusal(f"{name} has {rank} dimensions (limit: {MAX_RANK}). The file is damaged.")
        shape = [self.number("I", f"shape of {name}") for _ in range(rank)]
        kind = self.number("B", f"type of {name}")
        if kind not in TYPES:
            raise _Refusal(f"{name} has the unknown type {kind}. The file is damaged.")
        size, expected = self.number("I", f"size of {name}"), math.prod(shape) * TYPES[kind].itemsize
        if size != expected or not expected:
            raise _Refusal(
                f"{name} has shape {shape}, which needs {expected:,} bytes, but the file says {size:,}. The file is "
                f"damaged."
            )
        start = self.skip(size, name)
        return torch.frombuffer(self.data, dtype=TYPES[kind], count=math.prod(shape), offset=start).reshape(shape)

    def name(self, what: str) -> str:
        length = self.number("H", f"length of the {what}")
        if not 1 <= length <= MAX_NAME:
            raise _Refusal(
                f"the {what} is {length} bytes long (limit: {MAX_NAME}). The file is damaged, or has another format."
            )
        start = self.skip(length, what)
        text = bytes(self.data[start : start + length])
        if text[-1] or not text[:-1].isascii():
            raise _Refusal(
                f"the {what} does not end with NUL, or is not plain text. The file is damaged, or has another format."
            )
        return text[:-1].decode("ascii")

    def count(self, what: str) -> int:
        count = self.number("I", f"number of {what}")
        if count > MAX_VARIABLES:
            raise _Refusal(
                f"the file says that it contains {count:,} {what} (limit: {MAX_VARIABLES:,}). It is damaged."
            )
        return count

    def number(self, kind: str, what: str) -> int:
        start = self.skip(struct.calcsize(f"<{kind}"), what)
        return int(struct.unpack_from(f"<{kind}", self.data, start)[0])

    def skip(self, size: int, what: str) -> int:
        """Where the next `size` bytes begin."""
        start = self.at
        if start + size > len(self.data):
            raise _Refusal(
                f"the file is truncated: it ends inside the {what}, at byte {len(self.data):,}. "
                f"{download_again(alternative='')}"
            )
        self.at += size
        return start


def _config(variables: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes from the shapes, and the special tokens for the size of the vocabulary."""
    words, width = variables["decoder/embeddings/weight"].shape
    first = 50256 if words == ENGLISH_VOCABULARY else 50257
    config: dict[str, Any] = {
        "vocab_size": words,
        "d_model": width,
        "num_mel_bins": variables["encoder/conv1/weight"].shape[1],
        "max_source_positions": len(variables["encoder/position_encodings/encodings"]),
        "max_target_positions": len(variables["decoder/position_encodings/encodings"]),
        "eos_token_id": first,
        "pad_token_id": first,
        "bos_token_id": first,
        "decoder_start_token_id": first + 1,
    }
    for stack in _STACKS:
        layers = {int(match[2]) for name in variables if (match := _LAYER.fullmatch(name)) and match[1] == stack}
        if layers != set(range(len(layers))) or not layers:
            raise _Refusal(f"some layers of the {stack} are missing: the file contains {sorted(layers)}.")
        config[f"{stack}_layers"] = len(layers)
        config[f"{stack}_ffn_dim"] = len(variables[f"{stack}/layer_0/ffn/linear_0/weight"])
        config[f"{stack}_attention_heads"] = int(variables[f"{stack}/num_heads"])
    return config


def _renamed(variables: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(name in transformers, tensor); settings are ignored, anything unknown is an error."""
    for name, tensor in variables.items():
        if name in _DIRECT:
            yield _DIRECT[name], _plain(name, tensor)
        elif match := _LAYER.fullmatch(name):
            yield from _of_layer(name, match, _plain(name, tensor))
        elif tensor.ndim and name not in ("decoder/projection/weight", "decoder/alignment_heads"):
            raise _Refusal(
                f"the file contains {name!r}, which Whisper does not have. If the model is quantised, convert it to "
                f"float16 first."
            )
    yield "proj_out.weight", _plain("decoder/embeddings/weight", variables["decoder/embeddings/weight"])


def _of_layer(name: str, match: re.Match[str], tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    stack, layer, block, part, kind = match.groups()
    modules, kinds = _PARTS.get((block, part)), _NORM if part == "layer_norm" else _LINEAR
    if modules is None or kind not in kinds:
        raise _Refusal(
            f"the file contains {name!r}, which Whisper does not have. If the model is quantised, convert it to "
            f"float16 first."
        )
    if len(tensor) % len(modules):
        raise _Refusal(f"{name} has {len(tensor)} rows, which is not a multiple of {len(modules)}.")
    for module, piece in zip(modules, tensor.chunk(len(modules)), strict=True):
        if module.endswith("k_proj") and kind == "bias":
            if piece.any():
                raise _Refusal(f"{name} contains a bias of keys, which Whisper does not have.")
        else:
            yield f"{_STACKS[stack]}.layers.{layer}.{module}.{kinds[kind]}", piece.contiguous()


def _plain(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise _Refusal(f"{name} is quantised ({tensor.dtype}). Convert the model to float16 or float32.")
    return tensor
