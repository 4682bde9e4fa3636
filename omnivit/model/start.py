"""Weights with which training begins: put into a model while it is built (`init_from` of recipes).

What a component has by itself is filled before adapters change the LLM and LoRA is added, so that copies of the LLM's
layers are copies of what was filled in. What comes into being only then (gated layers, LoRA, rows of new tokens) is
filled after it. This module knows no file and no run: `omnivit.run.start` reads them.

Names are component paths without `base_layer`, the part that LoRA adds to the path of a weight.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from omnivit.contracts.encoder import Encoder
from omnivit.errors import RecipeError, suggest
from omnivit.model.lora import ADAPTER, add_product, lora_layers
from omnivit.model.new_tokens import NewTokens
from omnivit.model.omni import OmniModel

NEW_TOKENS = "llm.tokens."
"""What the paths of new tokens' rows begin with."""
LORA = ".lora_"


@dataclass(frozen=True)
class Origin:
    """Where a tensor comes from, for errors."""

    where: str
    """The entry of `init_from`, with file and line."""
    source: str
    """The run or file."""
    name: str
    """Of the tensor there."""

    def __str__(self) -> str:
        return f"{self.where}: {self.source} contains {self.name!r}"


@dataclass(frozen=True)
class Merge:
    """LoRA that is added to the weight of a layer."""

    layer: str
    """Path of the layer."""
    a: Tensor
    """[r, in]."""
    b: Tensor
    """[out, r]."""
    scaling: float
    """alpha / r."""


@dataclass(frozen=True)
class Demand:
    """Components of which a source has to contain every tensor."""

    where: str
    source: str
    patterns: tuple[str, ...]
    """Globs over component paths."""
    covered: frozenset[str]
    """What the source contains of them."""
    elsewhere: tuple[str, ...] = ()
    """Beginnings of the paths of components whose other tensors are the same in both recipes."""


@dataclass
class Start:
    """All that is filled in. On the meta device it has names and shapes alone, for checks."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Name -> value."""
    merges: list[Merge] = field(default_factory=list)
    """In order, after the tensors."""
    scaling: dict[str, float] = field(default_factory=dict)
    """Path of a layer -> alpha / r of its LoRA among the tensors."""
    rows: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Text of a new token -> `embedding` [D], `output` [D], `bias` []."""
    origins: dict[str, Origin] = field(default_factory=dict)
    """Name of a tensor, path of a merged layer, or text of a token -> its origin."""
    demands: list[Demand] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    """What the record of a run says about each source."""
    _placed: set[str] = field(default_factory=set)
    _merged: set[int] = field(default_factory=set)

    def add(self, tensors: Mapping[str, Tensor], merges: Sequence[Merge], scaling: Mapping[str, float],
            origins: Mapping[str, Origin]) -> None:  # fmt: skip
        """Add a later source, which wins: its tensors replace earlier ones, with what was merged into them."""
        self.merges = [merge for merge in self.merges if f"{merge.layer}.weight" not in tensors]
        self.tensors |= tensors
        self.merges += merges
        self.scaling |= scaling
        self.origins |= origins

    def fill(self, model: OmniModel) -> None:
        """Fill what the model has by now, then merge into it.

        Raises:
            RecipeError: a shape or a kind of numbers differs.
        """
        names, layers = _tensors(model), lora_layers(model)
        with torch.no_grad():
            for name, value in self.tensors.items():
                if name not in self._placed and name in names:
                    self._copy(name, _in_shape(model, name, value, names[name]), names[name])
            for number, merge in enumerate(self.merges):
                weight = names.get(f"{merge.layer}.weight")
                if number not in self._merged and weight is not None:
                    self._merge(merge, weight, model, layers)
                    self._merged.add(number)

    def finish(self, model: OmniModel) -> None:
        """Fill the rest of a complete model, and check that nothing is left over or missing.

        Raises:
            RecipeError: as `fill`; no component has a tensor of the source; or the source lacks one of a component.
        """
        self.fill(model)
        self._fill_rows(model)
        left = [name for name in self.tensors if name not in self._placed]
        left += [merge.layer for number, merge in enumerate(self.merges) if number not in self._merged]
        if left:
            raise RecipeError(self._left_over(left, model))
        self._check_tied(model)
        self._check_scaling(model)
        for demand in self.demands:
            _check_complete(demand, model)

    def _copy(self, name: str, value: Tensor, target: Tensor) -> None:
        if value.shape != target.shape:
            raise RecipeError(
                f"{self._origin(name)} of shape {list(value.shape)}, but {name} of this recipe has the shape "
                f"{list(target.shape)}."
            )
        if (
            not value.is_meta
            and value.dtype != target.dtype
            and not (value.is_floating_point() and target.is_floating_point())
        ):
            raise RecipeError(
                f"{self._origin(name)} of type {value.dtype}, but {name} of this recipe is of type {target.dtype}."
            )
        target.copy_(value)
        self._placed.add(name)

    def _merge(self, merge: Merge, weight: Tensor, model: OmniModel, layers: Mapping[str, Any]) -> None:
        layer = layers[merge.layer].get_base_layer() if merge.layer in layers else model.get_submodule(merge.layer)
        transposed = not isinstance(layer, nn.Linear)  # Conv1D of transformers
        shape = (merge.b.shape[0], merge.a.shape[1])
        if tuple(weight.shape) != (shape[::-1] if transposed else shape):
            raise RecipeError(
                f"{self._origin(merge.layer)}, a LoRA for a weight of shape {list(shape)}, but {merge.layer}.weight of "
                f"this recipe has the shape {list(weight.shape)}."
            )
        if not weight.is_floating_point():
            raise RecipeError(f"{self._origin(merge.layer)}, but {merge.layer} is quantized here. Remove `quantize`.")
        add_product(weight, merge.a, merge.b, merge.scaling, transposed)

    def _fill_rows(self, model: OmniModel) -> None:
        """Rows of new tokens, by their texts."""
        if not self.rows:
            return
        tokens = getattr(model.llm, "tokens", None)
        texts = texts_of(model) if isinstance(tokens, NewTokens) else []
        for text, row in self.rows.items():
            if text not in texts:
                added = f"the tokens {', '.join(texts)}" if texts else "no tokens"
                raise RecipeError(
                    f"{self._origin(text)}, a row of the new token {text!r}, but this recipe adds {added}. Leave "
                    f"`llm.tokens.*` out of `parts`."
                )
            for kind, value in row.items():
                table = getattr(tokens, kind)
                if table is None or table[texts.index(text)].shape != value.shape:
                    here = "none" if table is None else list(table.shape[1:])
                    raise RecipeError(
                        f"{self._origin(text)} of shape {list(value.shape)}, but {NEW_TOKENS}{kind} has rows of shape "
                        f"{here}."
                    )
                with torch.no_grad():
                    table[texts.index(text)].copy_(value)

    def _check_tied(self, model: OmniModel) -> None:
        """Refuse two values for one tensor that has two names."""
        first: dict[int, str] = {}
        for name, tensor in _tensors(model).items():
            if name not in self.tensors:
                continue
            before = first.setdefault(id(tensor), name)
            values = self.tensors[before], self.tensors[name]
            if before != name and not values[0].is_meta and not torch.equal(*values):
                raise RecipeError(
                    f"{self._origin(name)}, and {before!r} with other values, but this recipe has one tensor for both, "
                    f"because they are tied or shared."
                )

    def _check_scaling(self, model: OmniModel) -> None:
        layers = lora_layers(model)
        for path, scaling in self.scaling.items():
            if path in layers and layers[path].scaling[ADAPTER] != scaling:
                raise RecipeError(
                    f"{self._origin(f'{path}.lora_A.{ADAPTER}.weight')} with alpha / r = {scaling:g}, but this recipe "
                    f"has {layers[path].scaling[ADAPTER]:g} there. Set the same `alpha`, or `merge: true`."
                )

    def _left_over(self, left: Sequence[str], model: OmniModel) -> str:
        name = left[0]
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        if LORA in name:
            return (
                f"{self._origin(name)}{more}, which is LoRA, but this recipe has none at {name.partition(LORA)[0]}. "
                f"Write `merge: true` to add it to the weights, add `lora` with the same targets, or leave it out of "
                f"`parts`."
            )
        known = sorted(_tensors(model))
        near = [other for other in known if other.split(".")[:2] == name.split(".")[:2]] or known
        return (
            f"{self._origin(name)}{more}, but no component of this recipe has {name}; {suggest(name, near)} Choose "
            f"other `parts`, or give the names of this recipe with `into` and `rename`."
        )

    def _origin(self, name: str) -> str:
        return str(self.origins.get(name, f"the weights that the run began with contain {name!r}"))


def _in_shape(model: nn.Module, name: str, value: Tensor, target: Tensor) -> Tensor:
    """A weight in the shape that its encoder has, if the encoder can change it; else as it is."""
    if value.shape == target.shape:
        return value
    parts, module = name.split("."), model
    for number, part in enumerate(parts[:-1], 1):
        inside = getattr(module, part, None)
        if not isinstance(inside, nn.Module):
            break
        module = inside
        resized = module.resized(".".join(parts[number:]), value) if isinstance(module, Encoder) else None
        if resized is not None:
            return resized
    return value


def plain(name: str) -> str:
    """A name without the part that LoRA adds to the path of a weight."""
    return name.replace(".base_layer.", ".")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter or buffer; one that is tied or shared under each of its names."""
    parameters = model.named_parameters(remove_duplicate=False)
    stored = model.state_dict().keys()
    buffers = ((name, value) for name, value in model.named_buffers(remove_duplicate=False) if name in stored)
    return {plain(name): value for name, value in (*parameters, *buffers)}


def texts_of(model: OmniModel) -> list[str]:
    """The texts of an LLM's new tokens, in the order of their rows."""
    tokens = model.llm.tokens
    assert isinstance(tokens, NewTokens)
    texts = model.llm.tokenizer().convert_ids_to_tokens(list(range(tokens.first, tokens.first + tokens.count)))
    return [str(text) for text in texts]


def _check_complete(demand: Demand, model: OmniModel) -> None:
    missing = list(_missing(demand, model))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RecipeError(
            f"{demand.where}: {demand.source} does not contain {missing[0]}{more}, which {', '.join(demand.patterns)} "
            f"names here. What it contains of it: {_some(demand.covered)}. If a run never trained it, give the "
            f"component the same options as in that run; otherwise choose other `parts`."
        )


def _missing(demand: Demand, model: OmniModel) -> Iterator[str]:
    tied = {id(value) for name, value in _tensors(model).items() if name in demand.covered}
    for name, value in model.named_parameters():
        name = plain(name)
        if name in demand.covered or id(value) in tied or LORA in name or name.startswith(NEW_TOKENS):
            continue
        if matches(name, demand.patterns) and not name.startswith(demand.elsewhere):
            yield name


def matches(name: str, patterns: Collection[str]) -> bool:
    """Whether a glob matches a name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _some(names: Collection[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"
