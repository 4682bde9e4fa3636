"""Changes to the layers of a model that rename none of its keys: what adapters do in `install`.

Two primitives serve the whole family of LLM-side methods: `around` puts a function around a module of a layer, and
`twin` gives the rows of one slot's media a module of their own. A changed module gets a subclass of its class, as FSDP2
does it: hooks, LoRA, `isinstance` and state dicts see what they saw before, and a layer that checkpoints activations
recomputes the change with it. The `Context` of the batch enters with the layer's arguments, so that a recomputation in
the backward pass sees that of its own forward pass.

Shapes: B samples, T tokens, D width.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from omnivit.errors import RecipeError
from omnivit.model.context import Context

Around = Callable[..., Any]
"""`around(plain, context, *args, **kwargs)` in place of `plain(*args, **kwargs)`; context is None outside a batch."""

_KEY = "omnivit_context"


@dataclass(frozen=True)
class Layer:
    """A decoder layer and the parts of it that methods change."""

    index: int
    """From 0."""
    block: nn.Module
    attention: nn.Module
    mlp: nn.Module
    norms: Mapping[str, nn.Module]
    """Name -> each norm of the block, in its order."""

    def projections(self) -> dict[str, nn.Module]:
        """Name -> each linear map of the attention (`q_proj`, or a fused `qkv_proj`, ..., and the output's)."""
        return {name: child for name, child in self.attention.named_children() if _is_linear(child)}


@dataclass
class Surgery:
    """The layers of one LLM, and what is changed in them.

    Changes are noted first and made by `apply`, after LoRA: a twin then replaces a module with its LoRA.
    """

    model: nn.Module
    """The transformers model."""
    layers: tuple[Layer, ...]
    _changes: list[tuple[str, Around]] = field(default_factory=list)
    _twins: dict[str, dict[str, nn.Module]] = field(default_factory=dict)
    _told: Context | None = None
    """Of the forward pass that runs."""
    _current: Context | None = None
    """Of the layer that runs."""

    def around(self, module: nn.Module, function: Around) -> None:
        """Let `function` stand around a module of a layer (or a layer); a later one stands around an earlier."""
        self._changes.append((self._name(module), function))

    def twin(self, module: nn.Module, slot: str, twin: nn.Module) -> None:
        """From now on `twin` maps the rows of a slot's media, and `module` the others; each sees its own rows alone.

        Both map rows on their own ([N, D] -> [N, D']), as linear layers, norms and MLPs do.
        """
        name = self._name(module)
        if name not in self._twins:
            self._twins[name] = {}
            self.around(module, functools.partial(_routed, self._twins[name]))
        if slot in self._twins[name]:
            raise RecipeError(f"slot {slot!r}: two adapters give {name} a module for its media. Use one of them.")
        self._twins[name][slot] = twin

    def apply(self) -> None:
        """Make the changes. Called once, after LoRA."""
        if not self._changes:
            return
        self.model.register_forward_pre_hook(self._tell, with_kwargs=True)
        for name, function in self._changes:
            change(self.model.get_submodule(name), functools.partial(self._with_context, function))
        for layer in self.layers:  # last, so that it stands around changes of the layer itself
            change(layer.block, self._enter)

    @contextmanager
    def telling(self, context: Context | None) -> Iterator[None]:
        """Calls of the model inside are calls over this batch."""
        self._told = context
        try:
            yield
        finally:
            self._told = None

    def _name(self, module: nn.Module) -> str:
        names: dict[nn.Module, str] = {found: name for name, found in self.model.named_modules()}
        return names[module]

    def _tell(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hand the layers their window of the batch."""
        del module
        if self._told is None:
            return None
        shown = kwargs.get("inputs_embeds")
        shown = kwargs["input_ids"] if shown is None else shown
        cache = kwargs.get("past_key_values")
        start = 0 if cache is None else int(cache.get_seq_length())
        return args, {**kwargs, _KEY: self._told.window(start, shown.shape[1], shown.shape[0])}

    def _enter(self, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around every layer: what it contains sees the context that its arguments hold."""
        before, self._current = self._current, kwargs.pop(_KEY, None)
        try:
            return plain(*args, **kwargs)
        finally:
            self._current = before

    def _with_context(self, function: Around, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(plain, self._current, *args, **kwargs)


def change(module: nn.Module, function: Callable[..., Any]) -> None:
    """Let `function(plain, *args, **kwargs)` run in place of a module's forward, `plain`, from now on."""
    changes: list[Callable[..., Any]] | None = module.__dict__.get("_omnivit_changes")
    if changes is None:
        module.__dict__["_omnivit_changes"] = changes = []
        module.__class__ = _changed(type(module))
    changes.append(function)


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _changed(cls: type[nn.Module]) -> type[nn.Module]:
    """A subclass of the same name whose forward runs the changes of the instance around that of `cls`."""

    if cls in _CLASSES:
        return _CLASSES[cls]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(cls.forward, self)
        for function in self._omnivit_changes:
            call = functools.partial(function, call)
        return call(*args, **kwargs)

    body = {"forward": functools.wraps(cls.forward)(forward), "__module__": cls.__module__}
    _CLASSES[cls] = type(cls.__name__, (cls,), body)
    return _CLASSES[cls]


def copy_of(module: nn.Module) -> nn.Module:
    """A trainable copy, for twins that start as what they stand beside.

    Raises:
        RecipeError: its weights are quantized.
    """
    if not all(parameter.is_floating_point() for parameter in module.parameters()):
        kind = type(module).__name__
        raise RecipeError(f"{kind}: quantized weights cannot be copied to train. Leave `quantize` out.")
    return copy.deepcopy(module).requires_grad_(True)


def find_layers(model: nn.Module) -> tuple[Layer, ...]:
    """The decoder layers of a transformers causal LM.

    Raises:
        RecipeError: the model is not built of blocks with one attention and one MLP that pass arguments on.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    count = getattr(getattr(decoder, "config", None), "num_hidden_layers", None)
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList) and len(child) == count]
    if not stacks:
        raise RecipeError(f"{type(model).__name__}: no list of decoder layers is found, so they cannot be changed.")
    return tuple(_layer(index, block, type(model).__name__) for index, block in enumerate(stacks[0]))


def _layer(index: int, block: nn.Module, model: str) -> Layer:
    children = dict(block.named_children())
    attention = [child for child in children.values() if type(child).__name__.endswith("Attention")]
    mlp = [child for name, child in children.items() if name in ("mlp", "feed_forward", "ffn")]
    kinds = {parameter.kind for parameter in inspect.signature(type(block).forward).parameters.values()}
    if len(attention) != 1 or len(mlp) != 1 or inspect.Parameter.VAR_KEYWORD not in kinds:
        raise RecipeError(
            f"{model}: its layer {type(block).__name__} ({', '.join(children)}) has not the one attention, the one MLP "
            f"and the open arguments that changing a layer needs. Llama, Qwen 2 and 3, Gemma, Phi and Mistral have."
        )
    norms = {name: child for name, child in children.items() if "norm" in name}
    return Layer(index, block, attention[0], mlp[0], norms)


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)


def _routed(twins: Mapping[str, nn.Module], plain: Callable[[Tensor], Tensor], context: Context | None,
            hidden: Tensor) -> Tensor:  # fmt: skip
    """[B, T, D] -> [B, T, D']: rows of media through their slot's twin, all others through the plain module."""
    here = {} if context is None else {slot: context.media[slot].rows for slot in twins if slot in context.media}
    here = {slot: rows for slot, rows in here.items() if len(rows)}
    if not here:
        return plain(hidden)
    assert context is not None
    flat = hidden.flatten(0, 1)
    rest = [context.text, *(found.rows for slot, found in context.media.items() if slot not in here)]
    places = [torch.cat(rest), *here.values()]
    parts = [plain(flat[places[0]])] if len(places[0]) else []
    parts += [twins[slot](flat[rows]) for slot, rows in here.items()]
    order = torch.cat(places)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return torch.cat(parts)[back].view(*hidden.shape[:2], -1)
