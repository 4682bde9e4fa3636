"""The Q-Former's weights in published checkpoints -> the names of `omnivit_adapters.qformer.adapter`.

Two layouts are read: Hugging Face's BLIP-2 and InstructBLIP (the whole model, in one file or in shards; keys
`qformer.*`, `query_tokens`, `language_projection.*`, `vision_model.post_layernorm.*`), and that of LAVIS, where both
were published (`Qformer.bert.*`, `query_tokens`, `opt_proj` and its like, `ln_vision.*`), which MiniGPT-4, BLIVA and
others share. Keys of other parts (vision tower, LLM, heads of the first stage) are ignored, and not read if the format
allows it.

This module does not know slots or recipes, and does not check that the weights are complete.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open
from torch import Tensor

from omnivit.plugin import RecipeError, explained, locate, read_state

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"

NORM = "qformer.embeddings.layernorm"
"""InstructBLIP's name for the first LayerNorm, which BLIP-2 calls `PLAIN_NORM`."""
PLAIN_NORM = "qformer.layernorm"

PASSED_OVER = re.compile(r"Qformer\.cls\.|Qformer\.bert\.pooler\.|(Qformer\.bert|qformer)\.embeddings\.position_ids$")
"""Keys that are not used: heads of LAVIS's first stage, and position ids, which older versions saved as weights."""

NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"query_tokens", "query_tokens"),
        (r"(?:ln_vision|vision_model\.post_layernorm)\.(\w+)", r"input_norm.\1"),
        (r"(?:language_projection|(?:llm|llama|opt|t5)_proj)\.(\w+)", r"language_projection.\1"),
        (r"(?:Qformer\.bert\.embeddings\.LayerNorm|qformer\.(?:embeddings\.)?layernorm)\.(\w+)", rf"{NORM}.\1"),
        (r"(?:(?:Qformer\.bert|qformer)\.)?embeddings\.(word|position)_(\S+)", r"qformer.embeddings.\1_\2"),
        (
            r"Qformer\.bert\.encoder\.layer\.(\d+)\.((?:cross)?attention)\.self\.(\S+)",
            r"qformer.encoder.layer.\1.\2.attention.\3",
        ),
        (r"(?:Qformer\.bert|qformer)\.encoder\.(\S+)", r"qformer.encoder.\1"),
        (r"((?:Qformer|qformer)\.\S+)", r"\1"),
    )
)
"""Their key -> ours, the first that fits; the last keeps what is of the Q-Former but not known, to be refused."""


def own_name(key: str) -> str | None:
    """A checkpoint's key under the adapter's names (those of InstructBLIP); None: it is of another part."""
    if PASSED_OVER.match(key):
        return None
    for pattern, name in NAMES:
        if found := pattern.fullmatch(key):
            return found.expand(name)
    return None


def read_qformer(path: str) -> dict[str, Tensor]:
    """Read the weights of a Q-Former and of the layers before and after it.

    Args:
        path: a file, a folder or hub id with `model.safetensors` (or its shards), or `pkg:NAME/FILE`.

    Returns:
        Our name (`own_name`) -> tensor.

    Raises:
        RecipeError: the checkpoint cannot be read, contains no Q-Former, or has two keys for the same weight.
        PluginError: the package of `pkg:` is not installed.
    """
    origins: dict[str, str] = {}
    state: dict[str, Tensor] = {}
    others: list[str] = []
    for file in _files(path):
        tensors, passed = _read(file)
        others += passed
        for key, tensor in tensors.items():
            name = own_name(key)
            assert name is not None
            if name in origins:
                raise RecipeError(f"{file}: {origins[name]!r} and {key!r} are the same weight. Remove one of them.")
            origins[name], state[name] = key, tensor
    if "query_tokens" not in state or not any(name.startswith("qformer.") for name in state):
        raise RecipeError(
            f"{path}: the checkpoint contains no Q-Former; its keys begin with "
            f"{', '.join(_starts([*origins.values(), *others]))}. Available layouts: `query_tokens` with `qformer.*` "
            f"(Hugging Face BLIP-2, InstructBLIP) or `Qformer.bert.*` (LAVIS)."
        )
    return state


def _files(path: str) -> list[Path]:
    """The files that contain the Q-Former; of shards only these."""
    place = locate(path)
    if isinstance(place, Path) and place.is_file():
        return [place]
    get = functools.partial(_in_folder, place) if isinstance(place, Path) else functools.partial(_on_hub, place)
    index = get(INDEX)
    names = [WHOLE] if index is None else _shards(index)
    files = {name: get(name) for name in names}
    missing = [name for name, file in files.items() if file is None]
    if missing or not names:
        problem = f"has no {', '.join(missing)}" if missing else f"its {INDEX} names no shard with a Q-Former"
        raise RecipeError(
            f"{path}: {problem}. Available: a folder or hub id with {WHOLE}, or with shards and {INDEX}; or the path "
            f"of a single file (.safetensors, .pth, .pt, .bin)."
        )
    return [file for file in files.values() if file is not None]


def _in_folder(folder: Path, name: str) -> Path | None:
    file = folder / name
    return file if file.is_file() else None


def _on_hub(repository: str, name: str) -> Path | None:
    with explained(f"{repository}: {name} cannot be fetched from the hub"):
        try:
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            return None


def _shards(index: Path) -> list[str]:
    with explained(f"{index}: is not an index of shards"):
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(shard) for key, shard in places.items() if own_name(key) is not None})


def _read(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the Q-Former, and the keys of other parts."""
    if file.suffix != ".safetensors":
        state = read_state(file)
        return {k: t for k, t in state.items() if own_name(k)}, [k for k in state if not own_name(k)]
    with explained(f"{file}: cannot be read as safetensors"), safe_open(file, framework="pt") as content:
        keys = list(content.keys())
        return {k: content.get_tensor(k) for k in keys if own_name(k)}, [k for k in keys if not own_name(k)]


def _starts(keys: list[str]) -> list[str]:
    return sorted({key.partition(".")[0] for key in keys})[:6] or ["nothing"]
