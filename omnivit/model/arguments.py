"""The arguments of transformers' models that OmniViT reads or passes by name: the one place that knows these names.

Libraries rename arguments (transformers 5.24 says `cache` where 5.23 said `past_key_values`), and a model that takes
`**kwargs` ignores a name that it does not know. So every name is looked up here, and a required name that is missing is
an error, never a default.

Shapes: B samples, T tokens of the batch, L tokens of one call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from omnivit.errors import LibraryError

NAMES: Mapping[str, tuple[str, ...]] = {
    "attention_mask": ("attention_mask",),
    "cache": ("cache", "past_key_values", "cache_params", "state", "mems", "past_buckets_states"),
    "hidden_states": ("hidden_states",),
    "input_ids": ("input_ids",),
    "inputs_embeds": ("inputs_embeds",),
    "logits_to_keep": ("logits_to_keep", "num_logits_to_keep"),
    "position_ids": ("position_ids",),
    "scaling": ("scaling",),
}
"""What OmniViT calls an argument -> the names that versions of transformers have for it, newest first."""


POSITIONLESS = frozenset({"bloom", "falcon_mamba", "mamba", "mamba2", "mpt", "rwkv", "xlstm"})
"""Types of LLMs without position embeddings: distance is in their attention (ALiBi) or their state."""
CACHELESS = frozenset({"openai-gpt"})
"""Types of LLMs without a cache: transformers computes the whole sequence for each new token."""


@dataclass(frozen=True)
class Step:
    """Which tokens of a batch one call of the LLM sees."""

    start: int | None
    """Tokens that are in the cache already; None where the cache of such a model does not count them."""
    length: int
    """L."""
    size: int
    """B, or a multiple of it where samples are continued in several beams."""


def given(name: str, arguments: Mapping[str, Any]) -> Any:
    """The value of an argument under any of its names; None where it is not given."""
    return next((arguments[key] for key in NAMES[name] if arguments.get(key) is not None), None)


def required(name: str, arguments: Mapping[str, Any], called: str) -> tuple[str, Any]:
    """An argument that a call must have: the name that it is given under, and its value.

    Args:
        name: as `NAMES` calls it.
        arguments: of the call, by name.
        called: what is called, for errors.

    Raises:
        LibraryError: it is given under none of its names.
    """
    key = next((key for key in NAMES[name] if arguments.get(key) is not None), None)
    if key is None:
        raise LibraryError(
            f"{called} was called without {_either(name)}; the arguments are {', '.join(arguments) or 'none'}. "
            f"{_advice()}"
        )
    return key, arguments[key]


def accepted(model: nn.Module, **arguments: Any) -> dict[str, Any]:
    """The arguments under the names that the forward of a transformers model has for them.

    Args:
        model: which is called with them.
        arguments: by the names of `NAMES`; other names stay as they are.

    Raises:
        LibraryError: the model has no parameter of such a name; with `**kwargs` it would swallow the argument.
    """
    parameters = _parameters(type(model))
    if not parameters:  # a forward of `*args, **kwargs` alone says nothing of what it takes
        return arguments
    renamed = {}
    for name, value in arguments.items():
        key = next((key for key in NAMES.get(name, (name,)) if key in parameters), None)
        if key is None:
            raise LibraryError(
                f"{type(model).__name__}.forward has no parameter {_either(name)} and would ignore this argument; "
                f"its parameters are {', '.join(parameters)}. {_advice()}"
            )
        renamed[key] = value
    return renamed


def accepts(model: nn.Module, name: str) -> bool:
    """Whether the forward of a transformers model has a parameter under one of the names of an argument."""
    parameters = _parameters(type(model))
    return not parameters or any(key in parameters for key in NAMES[name])


def _bound(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call of a transformers model by name, positional arguments included."""
    return dict(zip(_parameters(type(model)), args, strict=False)) | dict(kwargs)


def step_of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], columns: int) -> Step:
    """Which tokens of a batch a call of an LLM sees.

    Args:
        model: the transformers model that is called.
        args: arguments by place.
        kwargs: arguments by name.
        columns: T, tokens of the batch, or of the prompts that are continued.

    Raises:
        LibraryError: the call sees a part of the batch, and nothing says which one.
    """
    arguments = _bound(model, args, kwargs)
    inputs = given("inputs_embeds", arguments)
    inputs = required("input_ids", arguments, type(model).__name__)[1] if inputs is None else inputs
    size, length = int(inputs.shape[0]), int(inputs.shape[1])
    cache = given("cache", arguments)
    if cache is None:
        if length < columns:
            raise LibraryError(
                f"{type(model).__name__} was called with {length} of the batch's {columns} tokens and without a cache, "
                f"so it cannot see the other tokens. {_advice()} The arguments are {', '.join(arguments)}."
            )
        return Step(0, length, size)
    # The mask covers the cached tokens too: its length proves that the cache counts as we read it.
    start = _tokens_in(cache)
    mask = given("attention_mask", arguments)
    if start is not None and isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] != start + length:
        raise LibraryError(
            f"{type(model).__name__} was called with {length} tokens and a {type(cache).__name__} of {start}, but with "
            f"an attention mask over {mask.shape[1]} tokens; these numbers do not match. {_advice()}"
        )
    return Step(start, length, size)


@contextmanager
def checked_generation(model: nn.Module, prompts: Tensor) -> Iterator[None]:
    """Inside, it is checked that every call of an LLM sees its prompts and that new tokens have the next positions.

    Args:
        model: the transformers model whose `generate` is called inside.
        prompts: [B, T] positions of the prompts.

    Raises:
        LibraryError: a call does not.
    """

    def check(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        step = step_of(called, args, kwargs, prompts.shape[1])
        if step.start == prompts.shape[1] and accepts(called, "position_ids"):  # once: it waits for the device
            positions = required("position_ids", _bound(called, args, kwargs), type(called).__name__)[1]
            _check_positions(called, positions, prompts)

    hook = model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def takes_positions(model: nn.Module) -> bool:
    """Whether a causal LM takes positions; one without position embeddings takes none.

    Raises:
        LibraryError: it takes none, and is not known to need none.
    """
    config: Any = model.config
    alibi = bool(getattr(config, "alibi", False))
    return _takes(
        model, "position_ids", POSITIONLESS, "the positions of padded or packed samples cannot be passed", alibi
    )


def takes_cache(model: nn.Module) -> bool:
    """Whether a causal LM takes a cache of earlier tokens.

    Raises:
        LibraryError: it takes none, and is not known to have none.
    """
    return _takes(model, "cache", CACHELESS, "it cannot see earlier tokens")


def _takes(model: nn.Module, name: str, without: Collection[str], so: str, known: bool = False) -> bool:
    if accepts(model, name):
        return True
    config: Any = model.config
    if known or config.model_type in without:
        return False
    raise LibraryError(
        f"{type(model).__name__}.forward has no parameter {_either(name)}, so {so}; its parameters are "
        f"{', '.join(_parameters(type(model)))}. Models that need none: {', '.join(sorted(without))}. {_advice()}"
    )


def _check_positions(model: nn.Module, positions: Tensor, prompts: Tensor) -> None:
    expected = prompts[:, -1:].repeat_interleave(len(positions) // len(prompts), dim=0) + 1
    if positions.ndim == 2 and not torch.equal(positions[:, :1], expected):
        raise LibraryError(
            f"{type(model).__name__}: the first new tokens have the positions {positions[:, 0].tolist()}, but the "
            f"prompts end at {(expected[:, 0] - 1).tolist()}. {_advice()}"
        )


def _tokens_in(cache: Any) -> int | None:
    """The number of tokens that a cache contains for each sample."""
    count = getattr(cache, "get_seq_length", None)
    try:
        return None if count is None else int(count())
    except ValueError:  # a cache of linear attention alone has a state and no length
        return None


_PARAMETERS: dict[type[nn.Module], tuple[str, ...]] = {}
"""What was asked for; no `functools.cache`, which a compiled model warns of."""


def _parameters(model: type[nn.Module]) -> tuple[str, ...]:
    """The names of a forward's parameters, without `self` and those of any name."""
    if model not in _PARAMETERS:
        forward: Callable[..., Any] = model.forward
        _, *parameters = inspect.signature(forward).parameters.values()
        kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        _PARAMETERS[model] = tuple(parameter.name for parameter in parameters if parameter.kind not in kinds)
    return _PARAMETERS[model]


def _either(name: str) -> str:
    return " or ".join(f"`{key}`" for key in NAMES.get(name, (name,)))


def _advice() -> str:
    return (
        f"transformers {metadata.version('transformers')} may have renamed an argument. Install a version that OmniViT "
        f"is tested with (`omnivit doctor` lists them), or report this."
    )
