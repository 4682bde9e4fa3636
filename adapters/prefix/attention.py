"""How `prefix` adds to what an attention of transformers finds, before its output projection, in any family of LLMs.

Attentions of transformers look up, by the name in their config, the function that compares queries (normed and turned
by their positions) with keys. An attention with a prefix is given a copy of its config that names a function of ours,
which calls the one that the LLM's config names and adds to its result. The LLM's own config stays as it was.

Shapes: B samples, T tokens, H heads, G heads of keys and values, E width of a head, N prompts, D LLM width.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from torch import Tensor, nn

from omnivit.model.arguments import required
from omnivit.plugin import LibraryError, RecipeError

Adding = Callable[[nn.Module, Tensor, float], Tensor]
"""(attention, queries [B, H, T, E], factor of products) -> [B, T, H, E], added to what the attention found."""

_NAME, _STATE = "omnivit_prefix", "_omnivit_beside"


@dataclass
class Beside:
    """What stands beside one attention."""

    config: Any
    """The config that the attention had: the LLM's."""
    adding: list[Adding] = field(default_factory=list)
    """Of the calls that run."""
    calls: int = 0
    """How often the function of ours was called in place of the LLM's."""

    @contextmanager
    def calling(self, add: Adding) -> Iterator[None]:
        """A call of the attention inside adds what `add` gives."""
        self.adding.append(add)
        before = self.calls
        try:
            yield
        finally:
            self.adding.pop()
        if self.calls == before:
            raise LibraryError(
                f"prefix: the attention of {type(self.config).__name__} did not look up the function that its config "
                f"names, so that prompts reach no token. transformers {metadata.version('transformers')} may choose it "
                f"in another way: install a version that OmniViT is tested with (`omnivit doctor` lists them)."
            )


def check_attention(attention: nn.Module) -> None:
    """Raises RecipeError where an attention has not the parts that a prefix needs."""
    name, family = type(attention).__name__, sys.modules[type(attention).__module__]
    missing = [part for part in ("config", "head_dim", "num_key_value_groups") if not hasattr(attention, part)]
    if not hasattr(attention, "qkv_proj"):
        missing += [part for part in ("k_proj", "v_proj") if not hasattr(attention, part)]
    missing += [part for part in ("ALL_ATTENTION_FUNCTIONS", "eager_attention_forward") if not hasattr(family, part)]
    if missing:
        raise RecipeError(
            f"prefix: {name} of the LLM lacks {', '.join(missing)}, by which prompts are put beside an attention. "
            f"Llama, Qwen 2 and 3, Gemma, Phi and Mistral have them."
        )


def beside(attention: nn.Module) -> Beside:
    """What stands beside an attention, made for the first that asks."""
    found: Beside | None = attention.__dict__.get(_STATE)
    if found is None:
        from transformers import AttentionInterface

        AttentionInterface.register(_NAME, _attend)
        found = Beside(attention.config)
        config = copy.copy(found.config)
        config._attn_implementation_internal = _NAME
        attention.config, attention.__dict__[_STATE] = config, found
    return found


def keys_and_values(attention: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, N, D] -> keys and values [B, H, N, E] each, by the attention's own maps, without positions."""
    width, groups, heads = attention.head_dim, attention.num_key_value_groups, attention.config.num_attention_heads
    if hasattr(attention, "qkv_proj"):
        both = _mapped(attention.qkv_proj, rows)[..., heads * width :]
        key, value = both.chunk(2, dim=-1)
    else:
        key, value = _mapped(attention.k_proj, rows), _mapped(attention.v_proj, rows)
    key, value = (part.view(*part.shape[:2], -1, width).transpose(1, 2) for part in (key, value))
    norm = getattr(attention, "k_norm", None) or getattr(attention, "k_layernorm", None)
    key = key if norm is None else norm(key)
    return key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)


def _mapped(module: Any, rows: Tensor) -> Tensor:
    """Rows through a linear map of the LLM, in its dtype; a quantized one takes them as they are."""
    weight = module.weight
    found: Tensor = module(rows.to(weight.dtype) if weight.is_floating_point() else rows)
    return found


@contextmanager
def _configured(module: Any, config: Any) -> Iterator[None]:
    """The attention has this config inside: functions of transformers look there for their own name (flash does)."""
    before, module.config = module.config, config
    try:
        yield
    finally:
        module.config = before


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    """The attention function that the LLM's config names, and what stands beside it: [B, T, H, E], weights."""
    state: Beside = module.__dict__[_STATE]
    family: Any = sys.modules[type(module).__module__]
    plain = family.ALL_ATTENTION_FUNCTIONS.get_interface(
        state.config._attn_implementation, family.eager_attention_forward
    )
    with _configured(module, state.config):
        found, weights = plain(module, query, key, value, mask, **kwargs)
    state.calls += 1
    for add in state.adding:
        _, scaling = required("scaling", kwargs, f"the attention function of {type(module).__name__}")
        found = found + add(module, query, scaling).to(found.dtype)
    return found, weights
