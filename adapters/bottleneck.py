"""`bottleneck`: narrow paths in every layer of the LLM, mixed by whether a sample contains media, and in the encoder.

Mixture-of-modality adaptation, the method of LaVIN (Luo et al., Cheap and Quick, arXiv 2305.15023), in the form of
RepAdapter (arXiv 2302.08106). A bottleneck projects hidden states down to
a few channels and up again, and the result is added to the input of the attention. In the LLM a bottleneck has two up
projections, weighted by a router that reads a learned vector: one for samples with media, one for text alone. The up
projections start at zero, so that the outputs of LLM and encoder do not change at first.

The authors' code puts the vector into the sequence as its first token, which no other token sees, and routes each
layer by its state there. With `router: state` it is the same here: the vectors go through the layers as sequences of
their own, so that no token is added. By default each layer's router reads the vector itself, which costs nothing.

Shapes: M media, S tokens of a medium, B samples, T tokens of a sample, D width of the LLM or the encoder, d channels of
a bottleneck, G groups.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from omnivit.model.arguments import required
from omnivit.plugin import (
    Adapter,
    AdapterExample,
    Card,
    Context,
    Encoder,
    Features,
    Instruction,
    LanguageModel,
    RecipeError,
    change,
    same_length,
)

_ATTENTIONS = ("self_attn", "attention", "attn")
"""What the blocks of transformers' and timm's encoders call their attention."""


@dataclass
class BottleneckConfig:
    """Options of `bottleneck`. The defaults are LaVIN's."""

    dim: int = 8
    """d, channels of a bottleneck."""
    groups: int = 2
    """G, groups of the up projection: each group of channels computes its own part of the width."""
    scale: float = 1.0
    """Factor by which the output of a bottleneck is multiplied before it is added."""
    temperature: float = 10.0
    """The router's scores are divided by it before the softmax. A higher value gives a more even mixture."""
    dropout: float = 0.1
    """Dropout probability of the d channels in training."""
    position: Literal["attention", "block"] = "attention"
    """Where the bottlenecks of the LLM are: `attention`: before each attention; `block`: before each attention and
    MLP."""
    router: Literal["vector", "state"] = "vector"
    """What the routers of the LLM read. `vector`: the learned vector of the modality; `state`: its hidden state in each
    layer, as if it were the first token of the sequence, hidden from all others, as in LaVIN's code."""
    encoder: bool = True
    """Add bottlenecks before the attentions of the encoder too. The encoder then runs with gradients."""
    encoder_router: bool = False
    """The bottlenecks of the encoder have two up projections, too, and a router that reads each token itself, as in
    LaVIN's code for one image."""

    def __post_init__(self) -> None:
        for name in ("dim", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 1.")
        if self.dim % self.groups:
            raise ValueError(f"dim ({self.dim}) must be a multiple of groups ({self.groups}).")
        if not self.temperature > 0:
            raise ValueError(f"temperature ({self.temperature}) must be above 0.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and below 1.")
        if self.encoder_router and not self.encoder:
            raise ValueError("`encoder_router: true` needs `encoder: true`, because the routers are in the encoder.")


class BottleneckAdapter(Adapter):
    """Returns tokens [M, S, D] unchanged, at the end of a chain, and changes the LLM and the encoder.

    Parameters are `modality.weight` ([2, D]: text alone, with media), `layers.INDEX.attention.*` (and `.mlp.*`) for
    each layer of the LLM and `encoder_layers.INDEX.*` for each block of the encoder. If inputs share the adapter,
    a sample with media of any of them is a sample with media.
    """

    Config = BottleneckConfig
    contract = 1
    card = Card(
        paper="Luo et al., Cheap and Quick: Efficient Vision-Language Instruction Tuning for Large Language Models, "
        "arXiv 2305.15023",
        tokens="as many as it receives",
    )
    length = staticmethod(same_length)

    def __init__(self, config: BottleneckConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.width = width
        self.config = config
        self.modality = nn.Embedding(2, llm_width)
        self.layers = nn.ModuleList()
        """Filled by `install`, which knows the layers; `encoder_layers` too."""
        self.encoder_layers = nn.ModuleList()
        self._slots: list[str] = []
        self._encoder: tuple[Encoder, ...] = ()  # in a tuple, so that its parameters are not registered here as well

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Two groups, at the width of the LLM."""
        del folder
        return AdapterExample({"dim": 4}, width=32, text_unchanged=True)

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        """Put bottlenecks into every layer of the LLM and every block of the encoder.

        Raises:
            RecipeError: a width is not a multiple of `groups`, the encoder has no transformer blocks, or the adapter is
                shared between inputs with different encoders.
        """
        if not self._slots:
            self._enter_llm(llm)
            if self.config.router == "state":
                llm.patching.before(functools.partial(self._read_states, llm))
        self._slots.append(slot)
        if self.config.encoder:
            self._enter_encoder(encoder, slot)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, S, D], as they are."""
        del instruction
        return features

    def _enter_llm(self, llm: LanguageModel) -> None:
        config, patching = self.config, llm.patching
        for layer in patching.layers:
            changed = {"attention": layer.attention, "mlp": layer.mlp}
            names = ("attention", "mlp") if config.position == "block" else ("attention",)
            parts = {name: RoutedBottleneck(config, llm.width) for name in names}
            self.layers.append(nn.ModuleDict(parts))
            for name, bottleneck in parts.items():
                patching.around(changed[name], functools.partial(self._through, bottleneck))

    def _enter_encoder(self, encoder: Encoder, slot: str) -> None:
        if self._encoder:
            if self._encoder[0] is not encoder:
                raise RecipeError(
                    f"bottleneck: input {slot!r} shares this adapter, but its bottlenecks are already in the encoder "
                    f"of another input. Share that encoder too, set `encoder: false`, or give input {slot!r} an "
                    f"adapter of its own."
                )
            return
        attentions = list(_attentions(encoder))
        if not attentions:
            raise RecipeError(
                f"bottleneck: {type(encoder).__name__} has no transformer blocks, which are a list of blocks that each "
                f"have a norm and one of {', '.join(_ATTENTIONS)}. Set `encoder: false` to change only the LLM, or use "
                f"a vision transformer."
            )
        for attention, width in attentions:
            bottleneck = (RoutedBottleneck if self.config.encoder_router else Bottleneck)(self.config, width)
            self.encoder_layers.append(bottleneck)
            change(attention, functools.partial(_before, bottleneck))
        self._encoder, self.in_encoder = (encoder,), True

    def _through(
        self, bottleneck: nn.Module, plain: Callable[..., Any], context: Context | None, *args: Any, **kwargs: Any
    ) -> Any:
        """A part of one of the LLM's layers with a bottleneck before it."""
        mixed = functools.partial(self._mixed, bottleneck, context)
        return _before(mixed, plain, *args, **kwargs)

    def _mixed(self, bottleneck: nn.Module, context: Context | None, hidden: Tensor) -> Tensor:
        """Hidden states [B, T, D] -> [B, T, D]. The kind of a sample is the same in prefill and decoding."""
        states = None if context is None else context.kept.get(self)
        if states is None:
            out: Tensor = bottleneck(hidden, self.modality.weight, self._kinds(context, hidden))
        elif states.reading:
            # the vectors' own pass: each is the only token of its sample, and routes itself
            states.values[bottleneck] = hidden[:, 0]
            out = bottleneck(hidden, hidden[:, 0], torch.arange(len(hidden), device=hidden.device))
        else:
            out = bottleneck(hidden, states.values[bottleneck], states.numbers(self._kinds(context, hidden)))
        return out

    def _kinds(self, context: Context | None, hidden: Tensor) -> Tensor:
        """[B] of samples: 0 for text alone, 1 with media."""
        kinds = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        for slot in self._slots:
            if context is not None and slot in context.media:
                kinds = kinds.index_fill(0, context.media[slot].samples, 1)
        return kinds

    def _read_states(self, llm: LanguageModel, context: Context) -> None:
        """Run the vectors through the LLM and keep their states for the pass over a batch that follows.

        In training each sample has a vector of its own, because dropout makes their states differ; else there is one
        for each kind, whose states are kept while text is generated.
        """
        before = context.kept.get(self)
        if before is not None and (before.reading or not torch.is_grad_enabled()):
            return
        kinds = self._kinds(context, context.route) if self.training else torch.arange(2, device=context.route.device)
        alone = Context.of_text(len(kinds), 1, kinds.device)
        states = alone.kept[self] = _States(reading=True)
        llm.patching.through(self.modality(kinds)[:, None].to(llm.embedding().dtype), alone)
        context.kept[self] = _States(states.values, per_sample=self.training)


@dataclass
class _States:
    """The states of the modality vectors before each bottleneck of the LLM."""

    values: dict[nn.Module, Tensor] = field(default_factory=dict)
    """Bottleneck -> [N, D]: one for each kind, or for each sample."""
    per_sample: bool = False
    reading: bool = False
    """This is the pass of the vectors themselves."""

    def numbers(self, kinds: Tensor) -> Tensor:
        """[B] kinds -> which state is whose."""
        return torch.arange(len(kinds), device=kinds.device) if self.per_sample else kinds


class Bottleneck(nn.Module):
    """Tokens + scale x up(dropout(down(tokens))); `up` starts at zero, `down` at Xavier's uniform weights."""

    def __init__(self, config: BottleneckConfig, width: int) -> None:
        """Raises RecipeError if `width` is not a multiple of `groups`."""
        super().__init__()
        if width % config.groups:
            raise RecipeError(
                f"bottleneck: the width of the layers ({width}) is not a multiple of `groups` ({config.groups}). Set "
                f"`groups` to a divisor of both {width} and `dim` ({config.dim})."
            )
        self.scale = config.scale
        self.down = nn.Linear(width, config.dim)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.down.bias)
        self.dropout = nn.Dropout(config.dropout)
        self.up = GroupedLinear(config.dim, width, config.groups)

    def forward(self, rows: Tensor) -> Tensor:
        """Tokens [..., D] -> [..., D], in their dtype."""
        narrow = self.dropout(self.down(rows.to(self.down.weight.dtype)))
        change: Tensor = self.scale * self.up(narrow)
        return rows + change.to(rows.dtype)


class RoutedBottleneck(Bottleneck):
    """A bottleneck with two up projections, `up` and `other_up`, weighted for each sample by a router."""

    def __init__(self, config: BottleneckConfig, width: int) -> None:
        """Raises RecipeError if `width` is not a multiple of `groups`."""
        super().__init__(config, width)
        self.temperature = config.temperature
        self.other_up = GroupedLinear(config.dim, width, config.groups)
        self.router = nn.Linear(width, 2)

    def weights(self, modality: Tensor) -> Tensor:
        """Vectors [..., D] -> [..., 2] weights of the two up projections, which sum to 1."""
        return torch.softmax(self.router(modality.to(self.router.weight.dtype)) / self.temperature, dim=-1)

    def forward(self, rows: Tensor, modality: Tensor | None = None, kinds: Tensor | None = None) -> Tensor:
        """Tokens [B, T, D], vectors [N, D], index of the vector of each sample [B] -> [B, T, D], in the dtype of the
        tokens. Without vectors, each token is routed by itself."""
        routes = self.weights(rows) if modality is None else self.weights(modality)[kinds, None]
        first, second = routes[..., None].unbind(dim=-2)
        narrow = self.dropout(self.down(rows.to(self.down.weight.dtype)))
        change: Tensor = self.scale * (first * self.up(narrow) + second * self.other_up(narrow))
        return rows + change.to(rows.dtype)


class GroupedLinear(nn.Module):
    """A linear map by groups, as a grouped convolution over single tokens: [..., d] -> [..., D]. Starts at zero."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(outputs, inputs // groups))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, rows: Tensor) -> Tensor:
        """Tokens [..., d] -> [..., D]: the first group computes the first D / G channels, and so on."""
        maps = self.weight.view(self.groups, -1, self.weight.shape[1])
        mapped = torch.einsum("...gi,goi->...go", rows.view(*rows.shape[:-1], *maps.shape[::2]), maps)
        return mapped.flatten(-2) + self.bias


def _before(function: Callable[[Tensor], Tensor], plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a module on `function` of its hidden states, which are its first argument or `hidden_states`."""
    if args:
        return plain(function(args[0]), *args[1:], **kwargs)
    name, hidden = required("hidden_states", kwargs, "a layer of the LLM")
    return plain(**{**kwargs, name: function(hidden)})


def _attentions(encoder: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    """The attention of each transformer block in an encoder, and the width of the tokens that enter it."""
    for stack in encoder.modules():
        for block in stack.children() if isinstance(stack, (nn.ModuleList, nn.Sequential)) else ():
            children = dict(block.named_children())
            attention = next((children[name] for name in _ATTENTIONS if name in children), None)
            norms = [getattr(child, "weight", None) for name, child in children.items() if "norm" in name]
            width = next((len(weight) for weight in norms if isinstance(weight, Tensor)), None)
            if attention is not None and width is not None:
                yield attention, width
