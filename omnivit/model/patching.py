"""Changes to the layers of a model that rename none of its keys: what adapters do in `install`.

All LLM-side methods need only two operations: `around` wraps a module of a layer in a function, and `twin` gives the
tokens of one slot's media another module. A changed module gets a subclass of its class, as in FSDP2: hooks, LoRA,
`isinstance` and state dicts work as before, and a layer that checkpoints activations recomputes the change with it. The
`Context` of the batch is passed with the layer's arguments, so that a recomputation in the backward pass sees the
context of its own forward pass.

Shapes: B samples, T tokens, D width.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from omnivit.contracts.context import Context
from omnivit.contracts.patching import Around, Layer
from omnivit.errors import LibraryError, RecipeError
from omnivit.model.arguments import accepted, step_of

_KEY = "omnivit_context"


class Twin(NamedTuple):
    """The module that replaces another one for the media of a slot."""

    module: nn.Module
    inner: bool
    """Whether the last token of each medium counts as text."""


@dataclass
class LayerPatching:
    """The layers of one LLM, and what is changed in them.

    Changes are collected first and made by `apply`, after LoRA: a twin then replaces a module with its LoRA.
    """

    model: nn.Module
    """The transformers model."""
    layers: tuple[Layer, ...]
    places: list[str] = field(default_factory=list)
    """The adapters in the recipe that make changes; written by who calls their `install`."""
    _changes: list[tuple[str, Around]] = field(default_factory=list)
    _twins: dict[str, dict[str, Twin]] = field(default_factory=dict)
    _before: list[Callable[[Context], None]] = field(default_factory=list)
    _told: Context | None = None
    """Of the forward pass that runs."""
    _current: Context | None = None
    """Of the layer that runs."""

    def around(self, module: nn.Module, function: Around) -> None:
        """Wrap a module of a layer (or a layer) in `function`; a later function wraps an earlier one."""
        self._changes.append((self._name(module), function))

    def twin(self, module: nn.Module, slot: str, twin: nn.Module, inner: bool = False) -> None:
        """Let `twin` map the tokens of a slot's media from now on, and `module` all others; neither sees the other's.

        Both map tokens one by one ([1, N, D] -> [1, N, D']), as linear layers, norms and MLPs do.

        Args:
            module: a module of a layer.
            slot: the input slot.
            twin: belongs to the adapter; runs in its own dtype.
            inner: leave the last token of each medium to `module`.

        Raises:
            RecipeError: another adapter has given this module a twin for this slot, or the module does not map tokens
                one by one.
        """
        name = self._name(module)
        _check_maps_rows(module, name)
        if name not in self._twins:
            self._twins[name] = {}
            self.around(module, functools.partial(_routed, self._twins[name]))
        registered = self._twins[name].setdefault(slot, Twin(twin, inner))
        if registered.module is not twin:
            raise RecipeError(f"slot {slot!r}: two adapters replace {name} for its media. Use only one of them.")

    def before(self, function: Callable[[Context], None]) -> None:
        """Call a function before every pass over a batch, with the context that the layers will see.

        It may run `through` the layers and keep what comes of it in `Context.kept`.
        """
        self._before.append(function)

    def through(self, embeds: Tensor, context: Context) -> None:
        """Run the layers over other samples than those of the batch: embeddings [B, T, D] without padding."""
        decoder: Any = _decoder(self.model)
        decoder(use_cache=False, **accepted(decoder, inputs_embeds=embeds), **{_KEY: context})

    @property
    def changes(self) -> bool:
        """Whether anything is changed."""
        return bool(self._changes or self._before)

    @property
    def count(self) -> int:
        """The number of changes."""
        return len(self._changes) + len(self._before) + sum(map(len, self._twins.values()))

    def follow(self, replaced: Mapping[nn.Module, nn.Module]) -> None:
        """Use layers that stand in the place of others, such as those with LoRA inside an adapter.

        Raises:
            RecipeError: a change calls a layer that was replaced, so that the new one would have no effect.
        """
        for twins in self._twins.values():
            for slot, twin in twins.items():
                twins[slot] = twin._replace(module=replaced.get(twin.module, twin.module))
        for name, function in self._changes:
            held = (*function.args, *function.keywords.values()) if isinstance(function, functools.partial) else ()
            if any(isinstance(value, nn.Module) and value in replaced for value in held):
                raise RecipeError(
                    f"lora: what the adapter does around {name} calls one of the targets itself, so LoRA there would "
                    f"have no effect. List other `targets`."
                )

    def apply(self) -> None:
        """Make the changes. Called once, after LoRA.

        Raises:
            RecipeError: the model does not pass its arguments to its layers.
        """
        if not self._changes:
            return
        if not _reaches_layers(self.model, self.layers[0].block):
            raise self._unreachable()
        self.model.register_forward_pre_hook(self._tell, with_kwargs=True)
        for name, function in self._changes:
            change(self.model.get_submodule(name), functools.partial(self._with_context, function))
        for layer in self.layers:  # last, so that it wraps changes of the layer itself
            change(layer.block, self._enter)

    @contextmanager
    def telling(self, context: Context | None) -> Iterator[None]:
        """Inside, calls of the model are calls over this batch."""
        self._told = context
        try:
            yield
        finally:
            self._told = None

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, modules of a layer see no batch: for tokens that are not those of the sequence."""
        before, self._current = self._current, None
        try:
            yield
        finally:
            self._current = before

    def _name(self, module: nn.Module) -> str:
        names: dict[nn.Module, str] = {child: name for name, child in self.model.named_modules()}
        return names[module]

    def _tell(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pass the layers their window of the batch."""
        if self._told is None:
            return None
        samples, columns = self._told.route.shape
        step = step_of(module, args, kwargs, columns)
        if step.size % samples:
            raise LibraryError(f"{type(module).__name__} was called with {step.size} samples for a batch of {samples}.")
        if step.start is None:
            raise LibraryError(
                f"{type(module).__name__}: its cache does not count its tokens, so adapters cannot know which "
                f"tokens they see. Use an LLM whose layers have attention."
            )
        window = self._told.window(step.start, step.length, step.size)
        for twins in self._twins.values():  # now, because a compiled layer cannot count tokens
            if kinds := _kinds(twins, window):
                window.parts(kinds)
        for function in self._before:
            function(window)
        return args, {**kwargs, _KEY: window}

    def _enter(self, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around every layer: modules inside see the context in the layer's arguments."""
        if self._told is not None and _KEY not in kwargs:
            raise self._unreachable()
        before, self._current = self._current, kwargs.pop(_KEY, None)
        try:
            return plain(*args, **kwargs)
        finally:
            self._current = before

    def _unreachable(self) -> RecipeError:
        kind = type(self.model).__name__
        return RecipeError(f"{kind} does not pass its arguments to its layers, so adapters cannot change them.")

    def _with_context(self, function: Around, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(plain, self._current, *args, **kwargs)


class _Arrived(Exception):
    """A forward pass has come to the first layer."""


@torch.no_grad()
def _reaches_layers(model: Any, first: nn.Module) -> bool:
    """Whether an argument of a model comes to its first layer: a forward pass of one token, which ends there.

    It runs on the meta device too, so that `omnivit check` knows it. A model that cannot be tried in this way is taken
    for one that passes its arguments; the first step of training tells.
    """
    arrived: list[bool] = []

    def stop(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del block, args
        arrived.append(_KEY in kwargs)
        raise _Arrived

    table = model.get_input_embeddings().weight
    token = torch.zeros(1, 1, model.get_input_embeddings().embedding_dim, device=table.device)
    hook = first.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(inputs_embeds=token, use_cache=False, **{_KEY: None})
    except _Arrived:
        return arrived[0]
    except TypeError as error:  # the model takes no arguments but its own
        return _KEY not in str(error)
    except Exception:
        return True
    finally:
        hook.remove()
    return True


def change(module: nn.Module, function: Callable[..., Any]) -> None:
    """From now on run `function(plain, *args, **kwargs)` instead of a module's forward, `plain`."""
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
    """A trainable copy, for twins that start equal to the module that they replace.

    Raises:
        RecipeError: its weights are quantized.
    """
    if not all(parameter.is_floating_point() for parameter in module.parameters()):
        kind = type(module).__name__
        raise RecipeError(f"{kind}: quantized weights cannot be copied for training. Remove `quantize`.")
    return copy.deepcopy(module).requires_grad_(True)


def find_layers(model: nn.Module) -> tuple[Layer, ...]:
    """The decoder layers of a transformers causal LM.

    Raises:
        RecipeError: the model is not built of blocks with one attention and one MLP that pass on arguments.
    """
    decoder = _decoder(model)
    count = getattr(getattr(decoder, "config", None), "num_hidden_layers", None)
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList) and len(child) == count]
    if not stacks:
        raise RecipeError(f"{type(model).__name__} has no list of decoder layers, so adapters cannot change them.")
    return tuple(_layer(index, block, type(model).__name__) for index, block in enumerate(stacks[0]))


def _decoder(model: nn.Module) -> nn.Module:
    decoder: nn.Module = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    return decoder


def chosen(layers: Sequence[Layer], numbers: Sequence[int] | None, every: int) -> list[Layer]:
    """Some layers: those of `numbers` (from 0), or every n-th; the first ones are left out (4: layers 3, 7, ...).

    Raises:
        RecipeError: there is no layer of that number, or no layer is chosen.
    """
    if numbers is None:
        numbers = range(every - 1, len(layers), every)
    wrong = [number for number in numbers if not 0 <= number < len(layers)]
    if wrong or not numbers:
        what = f"`layers` contains {wrong[0]}" if wrong else "No layer is chosen"
        raise RecipeError(f"{what}, but the LLM has the layers 0 to {len(layers) - 1}.")
    return [layers[number] for number in numbers]


def _layer(index: int, block: nn.Module, model: str) -> Layer:
    children = dict(block.named_children())
    attention = [child for child in children.values() if type(child).__name__.endswith("Attention")]
    mlp = [child for name, child in children.items() if name in ("mlp", "feed_forward", "ffn")]
    kinds = {parameter.kind for parameter in inspect.signature(type(block).forward).parameters.values()}
    if len(attention) != 1 or len(mlp) != 1 or inspect.Parameter.VAR_KEYWORD not in kinds:
        raise RecipeError(
            f"{model}: its layer {type(block).__name__} ({', '.join(children)}) cannot be changed, because it does not "
            f"have exactly one attention, one MLP and a `**kwargs` in its forward. Available: Llama, Qwen 2 and 3, "
            f"Gemma, Phi, Mistral."
        )
    norms = {name: child for name, child in children.items() if "norm" in name}
    return Layer(index, block, attention[0], mlp[0], norms)


def _check_maps_rows(module: nn.Module, name: str) -> None:
    _, *inputs = inspect.signature(type(module).forward).parameters.values()
    needed = [part.name for part in inputs if part.default is part.empty and part.kind is part.POSITIONAL_OR_KEYWORD]
    if len(needed) != 1:
        raise RecipeError(
            f"{name}: {type(module).__name__} takes {', '.join(needed) or 'no tokens'}. Only a module that maps tokens "
            f"one by one can have another module for the tokens of media."
        )


def _routed(twins: Mapping[str, Twin], plain: Callable[[Tensor], Tensor], context: Context | None,
            hidden: Tensor) -> Tensor:  # fmt: skip
    """[B, T, D] -> [B, T, D']: tokens of media through their slot's twin, all others through the plain module."""
    kinds = () if context is None else _kinds(twins, context)
    if context is None or not kinds:
        return plain(hidden)
    # The order of the tokens is computed once for a batch, not in each of the many layers.
    parts = context.parts(kinds)
    if not any(parts.sizes[1:]):
        return plain(hidden)
    # Sort the tokens by module, so that each module runs once, over exactly its own tokens and without a mask.
    together = permuted(hidden.flatten(0, 1), parts.order, parts.back)
    others, *media = torch.split_with_sizes(together, parts.sizes)
    outputs = [plain(others[None])] if len(others) else []
    # A twin runs in its own dtype; its output joins the others in that of the LLM.
    dtype = outputs[0].dtype if outputs else hidden.dtype
    for (slot, _), tokens in zip(kinds, media, strict=True):
        if len(tokens):
            outputs.append(_in_own_dtype(twins[slot].module, tokens[None]).to(dtype))
    # Back to the order of the sequence: the inverse permutation.
    return permuted(torch.cat(outputs, dim=1)[0], parts.back, parts.order).view(*hidden.shape[:2], -1)


def _kinds(twins: Mapping[str, Twin], context: Context) -> tuple[tuple[str, bool], ...]:
    """Which tokens go to which twin, as an argument of `Context.parts`."""
    return tuple((slot, twin.inner) for slot, twin in twins.items() if slot in context.media)


def _in_own_dtype(module: nn.Module, rows: Tensor) -> Tensor:
    output: Tensor = module(rows.to(next(module.parameters()).dtype))
    return output


def permuted(rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """[N, D] -> [N, D] in another order, of which `back` is the inverse.

    Its gradient is gathered by `back`; the gradient of plain indexing would be a scatter that adds up row by row.
    """
    reordered: Tensor = _Permuted.apply(rows, order, back)
    return reordered


class _Permuted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None
