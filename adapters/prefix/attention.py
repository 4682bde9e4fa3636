"""How `prefix` adds to the result of an attention of transformers, before its output projection, in any LLM family.

Attentions of transformers look up the attention function by the name in their config; its queries already have norms
and positions. An attention with a prefix gets a copy of its config with the name of our function, which calls the
function of the LLM's config and adds to its result. The LLM's own config does not change.

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
"""(attention, queries [B, H, T, E], scaling) -> [B, T, H, E], which is added to the result of the attention."""

_NAME, _STATE = "omnivit_prefix", "_omnivit_prefixed"


@dataclass
class Prefixed:
    """What is added to one attention."""

    config: Any
    """The original config of the attention, which is the LLM's."""
    adding: list[Adding] = field(default_factory=list)
    """One entry for each running call of the attention."""
    calls: int = 0
    """How often our function was called instead of the LLM's."""

    @contextmanager
    def calling(self, add: Adding) -> Iterator[None]:
        """A call of the attention inside this context adds the result of `add`."""
        self.adding.append(add)
        before = self.calls
        try:
            yield
        finally:
            self.adding.pop()
        if self.calls == before:
            raise LibraryError(
                f"prefix: the attention of {type(self.config).__name__} did not use the attention function that its "
                f"config names, so that the prompts have no effect. transformers {metadata.version('transformers')} "
                f"may select the function in another way. Install a version that OmniViT is tested with (`omnivit "
                f"doctor` lists them)."
            )


def check_attention(attention: nn.Module) -> None:
    """Raises RecipeError if an attention does not have the parts that a prefix needs."""
    name, family = type(attention).__name__, sys.modules[type(attention).__module__]
    missing = [part for part in ("config", "head_dim", "num_key_value_groups") if not hasattr(attention, part)]
    if not hasattr(attention, "qkv_proj"):
        missing += [part for part in ("k_proj", "v_proj") if not hasattr(attention, part)]
    missing += [part for part in ("ALL_ATTENTION_FUNCTIONS", "eager_attention_forward") if not hasattr(family, part)]
    if missing:
        raise RecipeError(
            f"prefix: {name} of the LLM does not have {', '.join(missing)}, which `prefix` needs. Use an LLM of "
            f"another family: Llama, Qwen 2 and 3, Gemma, Phi and Mistral are supported."
        )


def prefixed(attention: nn.Module) -> Prefixed:
    """The state of an attention with a prefix, created at the first call."""
    state: Prefixed | None = attention.__dict__.get(_STATE)
    if state is None:
        from transformers import AttentionInterface

        AttentionInterface.register(_NAME, _attend)
        state = Prefixed(attention.config)
        config = copy.copy(state.config)
        config._attn_implementation_internal = _NAME
        attention.config, attention.__dict__[_STATE] = config, state
    return state


def keys_and_values(attention: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B, N, D] -> keys and values [B, H, N, E] each, by the attention's own projections, without positions."""
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
    """Tokens through a linear layer of the LLM, in its dtype; a quantized layer converts them itself."""
    weight = module.weight
    projected: Tensor = module(rows.to(weight.dtype) if weight.is_floating_point() else rows)
    return projected


@contextmanager
def _configured(module: Any, config: Any) -> Iterator[None]:
    """Use this config inside: functions of transformers (flash attention) look up their own name in the config."""
    before, module.config = module.config, config
    try:
        yield
    finally:
        module.config = before


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    """The result of the attention function of the LLM's config, plus the prompts': [B, T, H, E], weights."""
    state: Prefixed = module.__dict__[_STATE]
    family: Any = sys.modules[type(module).__module__]
    plain = family.ALL_ATTENTION_FUNCTIONS.get_interface(
        state.config._attn_implementation, family.eager_attention_forward
    )
    with _configured(module, state.config):
        states, weights = plain(module, query, key, value, mask, **kwargs)
    state.calls += 1
    for add in state.adding:
        _, scaling = required("scaling", kwargs, f"the attention function of {type(module).__name__}")
        states = states + add(module, query, scaling).to(states.dtype)
    return states, weights
