"""Places of weights, and how they are read: paths in recipes, conversion of GGUF, files of weights.

Only tensors are unpickled, and only the user's cache folder is written.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from omnivit.errors import PluginError, RecipeError, suggest
from omnivit.files import appearing, cache_dir, note_use, trim_cache
from omnivit.model.hub import HUB_VARIABLE, file_on_hand, hub_folder, in_hub_folder, on_hand, say_local
from omnivit.model.pretrained import REMOTE_CODE

log = logging.getLogger(__name__)

PACKAGE = "pkg:"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""`name` or `organisation/name` on the Hugging Face hub."""
HUB_FILE = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/(\w[\w.-]*(?:/\w[\w.-]*)*)")
"""`organisation/name/FILE`, a file of weights of a model there."""
STATE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training scripts put the weights of a checkpoint."""


def locate(path: str) -> Path | str:
    """Find what a recipe's `path` names: a local file or folder (a Path), or a hub id (the text itself, or the folder
    of its cached copy where the hub does not answer).

    `pkg:NAME/FILE` is a file or folder inside the installed package NAME, which is not imported. A relative
    path without dots is looked up in the folder that the variable OMNIVIT_HUB names, before anywhere else.
    `organisation/name/FILE.bin` is a file of weights of a model on the hub, which is fetched alone.

    Raises:
        RecipeError: nothing is there, the hub cannot be asked, or the path leads out of the package.
        PluginError: the package is not installed.
    """
    place = _named(path)
    if isinstance(place, str) and (file := HUB_FILE.fullmatch(place)):
        return file_on_hand(file[1], file[2])
    return on_hand(place) if isinstance(place, str) else place


def _named(path: str) -> Path | str:
    """`locate` without asking the hub."""
    if path.startswith(PACKAGE):
        return _in_package(path)
    local = Path(path).expanduser()
    weights = local.suffix in (*STATE_SUFFIXES, ".gguf")
    remote = (HUB_FILE if weights else HUB_ID).fullmatch(path) is not None
    if place := in_hub_folder(path):
        return place
    if local.exists():
        if remote and "/" in path:
            say_local(path, local.absolute())
        return local
    if remote:
        return path
    folder = hub_folder()
    beside = f", or in {HUB_VARIABLE}={folder}" if folder else ""
    raise RecipeError(
        f"path {path!r}: there is no such file or folder (from {Path.cwd()}{beside}), and it does not have the form of "
        f"a hub id. Available: a local path, `organisation/name` on the Hugging Face hub, `organisation/name/FILE` for "
        f"a file of weights there, or `pkg:NAME/FILE` for a file in an installed package."
    )


def require_weights(path: str | None, folders: bool = True) -> None:
    """Check that the weights that a recipe names are there, without reading them: `omnivit check` finds what is absent.

    Args:
        path: a file, a folder with weights in it, a hub id (which is not looked up), or None: random weights.
        folders: whether a folder must contain a file of weights itself.

    Raises:
        RecipeError, PluginError: as `locate`, or the folder contains no weights.
    """
    place = None if path is None else _named(path)
    if folders and isinstance(place, Path) and place.is_dir():
        names = sorted(entry.name for entry in place.iterdir())
        if not any(Path(name).suffix in STATE_SUFFIXES for name in names):
            raise RecipeError(
                f"path {path!r}: the folder contains no weights (*{', *'.join(STATE_SUFFIXES)}). It contains: "
                f"{', '.join(names[:8]) or 'nothing'}{', ...' if len(names) > 8 else ''}."
            )


def is_gguf(place: Path | str) -> bool:
    """Whether a place is a GGUF file."""
    return isinstance(place, Path) and place.suffix == ".gguf"


def _in_package(path: str) -> Path:
    name, _, inner = path.removeprefix(PACKAGE).partition("/")
    if not name.isidentifier():
        raise RecipeError(f"path {path!r}: {name!r} is not the name of a package. Write pkg:NAME/FILE.")
    found = importlib.util.find_spec(name)
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise PluginError(
            f"path {path!r}: the package {name!r} is not installed. Run: pip install --no-deps {name.replace('_', '-')}"
        )
    parts = Path(inner)
    if parts.is_absolute() or ".." in parts.parts:
        raise RecipeError(f"path {path!r}: the path must be inside the package, without `..` and not absolute.")
    for folder in folders:
        if (Path(folder) / parts).exists():
            return Path(folder) / parts
    near = Path(folders[0]) / parts.parent
    names = [entry.name for entry in near.iterdir()] if near.is_dir() else []
    raise RecipeError(f"path {path!r}: {near} does not contain {parts.name!r}; {suggest(parts.name, names)}")


def read_state(path: Path | str, device: torch.device | None = None) -> dict[str, Tensor]:
    """Read a file of weights: `.safetensors`, or `.pth`, `.pt`, `.bin` with tensors alone.

    A checkpoint that keeps its weights under `state_dict` or `model` is unwrapped, and the prefix `module.` of
    DataParallel is removed.

    Args:
        path: the file.
        device: of the tensors; default: the CPU. On `meta` they have a shape and no content.

    Raises:
        RecipeError: the suffix is unknown, the file is damaged, or it contains anything but tensors.
    """
    path = Path(path)
    if path.suffix not in STATE_SUFFIXES or not path.is_file():
        raise RecipeError(f"{path} is not a file of weights. Available: files that end in {', '.join(STATE_SUFFIXES)}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path, "cpu" if device is None else str(device))
        content = torch.load(path, map_location=device or "cpu", weights_only=True)
    except Exception as error:  # a damaged or pickled file fails in many ways
        raise RecipeError(
            f"{path} cannot be read as plain weights ({type(error).__name__}: {_first_line(error)}). Only tensors are "
            f"unpickled; convert the file to .safetensors if you trust it."
        ) from error
    return _unwrapped(content, path)


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise RecipeError(f"{path} contains {type(content).__name__} and not only named tensors. Save a state_dict.")
    state = {str(key): value for key, value in content.items()}
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: object, ignored: Sequence[str] = ()) -> None:
    """Load `state` into `model`; every parameter must be in it, with its shape.

    Args:
        model: filled in place.
        state: name -> tensor.
        source: where the state came from, for errors.
        ignored: modules and parameters that the state may contain although the model does not have them.

    Raises:
        RecipeError: names or shapes differ; lists the first of them.
    """
    current = model.state_dict()
    missing = [key for key in current if key not in state and not key.endswith("num_batches_tracked")]
    superfluous = tuple(f"{name}." for name in ignored)
    unknown = [key for key in state if key not in current and not f"{key}.".startswith(superfluous)]
    misshapen = [
        f"{key} {list(state[key].shape)} for {list(current[key].shape)}"
        for key in current
        if key in state and state[key].shape != current[key].shape
    ]
    if missing or unknown or misshapen:
        raise RecipeError(
            f"{source} does not fit the model. {_listed('Missing', missing)} {_listed('Unknown', unknown)} "
            f"{_listed('Other shapes', misshapen)} Are these weights for another architecture or image size?"
        )
    model.load_state_dict({key: state[key] for key in current if key in state}, strict=False)


def _listed(title: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{title}: {', '.join(names[:3]) or 'none'}{more}."


def converted_gguf(path: Path) -> Path:
    """The cached Hugging Face folder of a GGUF file; it exists only once the file has been converted.

    The key is the file's name and content, so that a file that was moved or installed again is found.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return cache_dir() / "gguf" / f"{path.stem}-{digest.hexdigest()[:24]}"


def convert_gguf(path: Path) -> Path:
    """Convert a GGUF file to a Hugging Face folder (float32 safetensors, tokenizer, template), once.

    4-bit values with 16-bit scales and offsets fit neither bfloat16 nor float16 exactly: hence float32. The folder is
    written next to its final place and renamed when complete; two processes do the work only once.

    Raises:
        PluginError: `gguf` or `accelerate` is not installed.
        RecipeError: transformers cannot read the file.
    """
    target = converted_gguf(path)
    if target.is_dir():
        note_use(target)
        return target
    require("gguf", "accelerate", extra="gguf", purpose=f"to read {path.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f"{target.name}.lock"):
        if not target.is_dir():
            log.warning("converting %s once, into %s", path.name, target)
            _convert(path, target)
    trim_cache()
    return target


def _convert(path: Path, target: Path) -> None:
    with appearing(target) as partial:  # the caller holds the lock
        _save_as_hf(path, partial)


def _save_as_hf(path: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        where: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name, **REMOTE_CODE}
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    except Exception as error:  # transformers and gguf fail in many ways on a file that they do not know
        raise RecipeError(
            f"{path}: transformers cannot read this GGUF file ({type(error).__name__}: {_first_line(error)}). "
            f"Use the model's safetensors folder or hub id instead."
        ) from error
    del model.config.quantization_config  # else saving is refused, though the weights are plain tensors by now
    with torch.device("meta"):
        plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def require(*modules: str, extra: str, purpose: str) -> None:
    """Check that optional packages are installed, without importing them.

    Raises:
        PluginError: names the missing package and the extra that installs it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise PluginError(
                f"{module} is needed {purpose}, but is not installed. Run: pip install 'omnivit[{extra}]'"
            )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
