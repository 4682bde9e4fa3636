"""The recipe: what a run is made of, as typed dataclasses; what they may say.

This module knows no plugin and no tensor. What a block such as `encoder` may say beyond `name` is the business of the
plugin's own `Config` (see `omnivit.contracts.options`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

from omnivit.recipe.convert import Keys, Where
from omnivit.recipe.ranges import Range

Count = Annotated[int, Range(ge=1)]
CountOrNone = Annotated[int, Range(ge=0)]
NotNegative = Annotated[float, Range(ge=0)]
Share = Annotated[float, Range(ge=0, le=1)]
Beta = Annotated[float, Range(ge=0, lt=1)]
Shape = Literal["cosine", "linear", "constant"]
"""How the learning rate falls after the warmup."""
Condition = Literal["true", "shuffled", "none"]
"""With which media a question is asked."""

LM = "lm"
"""The loss of the words of answers; a head's is called by its name."""
_NOWHERE: Mapping[Keys, str] = MappingProxyType({})


@dataclass
class Slot:
    """One input of the model: an encoder and the adapter that joins it to the LLM."""

    encoder: dict[str, Any]
    """`name` of a registered encoder (`NAME`, `NAME@VERSION`, `DISTRIBUTION:NAME`, or `module:Class`), then its own
    options; or `share` alone: the input whose encoder this one is."""
    adapter: dict[str, Any]
    """`name` of a registered adapter, likewise, then its own options; or `share` alone."""


@dataclass
class Model:
    """The LLM, its inputs, and its outputs beyond text."""

    llm: dict[str, Any]
    """`name` of a registered LLM (`causal`), then its own options."""
    inputs: dict[str, Slot | list[Slot]] = field(default_factory=dict)
    """Slot name -> encoder and adapter, or a list of several, whose rows stand one after the other. Samples name the
    slot by the type of their content part."""
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> `name` of a registered head, then its own options. Samples name it by the `head` of a target in an
    answer."""


@dataclass
class DataSource:
    """One file of samples in a mixture."""

    path: str
    """The file, inside `data.root`."""
    reader: str = "messages"
    """Name of a registered reader; `auto` takes the built-in one that the file's first record asks for."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Share of the mixture relative to the other sources, per sample: 2 shows each of its samples twice an epoch."""
    media_root: str | None = None
    """Folder inside `data.root` that media paths of this file start from; default: `data.root`."""
    limit: Count | None = None
    """Use only the first so many samples."""
    ignore: list[str] = field(default_factory=list)
    """Keys of turns and of their parts to pass over, such as `timestamp`; any other that is not read is an error."""


@dataclass
class Schedule:
    """The learning rate over a stage."""

    name: Shape = "cosine"
    """`cosine`, `linear` or `constant`, after the warmup."""
    warmup: NotNegative = 0.03
    """Share of the stage's steps (below 1) or number of steps (1 and more) that rise linearly from 0."""
    minimum: Share = 0.0
    """The final rate as a share of the peak."""


@dataclass
class Validation:
    """Loss on held-back samples inside a stage."""

    data: list[DataSource]
    every: CountOrNone = 0
    """Optimizer steps between validations, which come at the end of the stage too; 0: only there."""


@dataclass
class Stage:
    """One tuning stage. `train` says what trains, at which rate; everything else is frozen (Law 5)."""

    name: str
    data: list[DataSource]
    train: dict[str, NotNegative]
    """Glob over component paths (`adapters.*`, `llm.*lora*`) -> peak learning rate. The first match wins."""
    epochs: Count = 1
    steps: Count | None = None
    """Optimizer steps; overrides `epochs`."""
    batch_size: Count = 16
    """Samples per optimizer step, over all devices and accumulation."""
    accumulate: Count = 1
    """Split every batch into so many forward passes; changes memory, never the result."""
    schedule: Schedule = field(default_factory=Schedule)
    weight_decay: NotNegative = 0.0
    """Decoupled (AdamW); biases, norms and other one-dimensional parameters are exempt."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    losses: dict[str, NotNegative] = field(default_factory=lambda: {LM: 1.0})
    """Losses and their weights: `lm`, of the words of answers, and a head's by its name in `model.heads`. Each is a
    mean over the step: of the supervised tokens, or of the head's targets. A head that is not named rests."""
    template: str | None = None
    """Chat template of this stage (`llava_plain` for captions, say); default: the LLM's."""
    supervise: Literal["all", "last"] = "all"
    """The answers of a conversation that are learnt: `all`, or only the `last`; none whose record says otherwise."""
    markup: list[str] | None = None
    """Tokens of the tokenizer that answers of this stage's files hold as tokens: their texts, or globs (`<loc*>`) over
    those that the tokenizer does not call special. `[]`: none, all is plain text. Default: none, and a word of it."""
    group_by_length: bool = True
    """Batch samples of like length (within about a tenth) together: less padding."""
    validation: Validation | None = None


@dataclass
class Data:
    """How samples are found, prepared and refused."""

    root: str = "."
    """Every path of a sample stays inside this folder; a relative one in a YAML file starts from that file's folder."""
    max_length: Count = 2048
    """Tokens per sample, media rows included."""
    truncate: bool = False
    """True: cut longer samples at the end (never through a medium); False: a longer sample is a bad sample."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """`error` stops at the first bad sample; `skip` counts and reports them, up to `skip_budget`."""
    skip_budget: Share = 0.01
    """The share of a stage's samples (each counted once, however often it is shown) that may be skipped before the run
    stops. One sample always may be, unless this is 0."""
    workers: CountOrNone = 2
    """Loader processes per device."""
    privacy: bool = False
    """True: checkpoints and reports name samples by their number alone, never by paths or by what their records say."""


@dataclass
class Evaluation:
    """What the run is asked after its last stage; the table in report.md."""

    data: list[DataSource]
    conditions: list[Condition] = field(default_factory=lambda: ["true", "shuffled", "none"])
    """Show each question with its own media, with another sample's media, with none."""
    linear_probe: list[DataSource] = field(default_factory=list)
    """Training samples of the same closed question; a linear classifier on the frozen features is fitted on them."""
    metric: str = "accuracy"
    """A metric that is computed in addition to exact matches (`accuracy`) and token F1: the name of a plugin, such as
    `word_error_rate` for transcripts."""
    max_new_tokens: Count = 16
    batch_size: Count = 16


@dataclass
class Keep:
    """Which checkpoints of a run are kept, besides the last one of each stage."""

    last: Count = 2
    """So many of the newest; where one is damaged, the run continues from the one before."""
    best: str | None = None
    """`validation_loss`, or that of a head (`validation_loss/HEAD.LOSS`): the step with the lowest is saved and kept,
    and `omnivit.load(RUN, checkpoint="best")` opens it. It is of the last stage that validates."""


@dataclass
class Recipe:
    """A whole run."""

    model: Model
    stages: list[Stage] = field(default_factory=list)
    data: Data = field(default_factory=Data)
    trainer: dict[str, Any] = field(default_factory=dict)
    """Handed to `lightning.Trainer` as it stands: precision, strategy, devices, gradient_clip_val, ..."""
    evaluation: Evaluation | None = None
    checkpoint_every: int | str = "10m"
    """Time (`90s`, `10m`, `1h`) or number of optimizer steps between checkpoints; 0: only at the end of each stage."""
    keep: Keep = field(default_factory=Keep)
    nan_budget: CountOrNone = 3
    """Steps in a row that may be skipped because their loss or gradient is not finite; one more stops the run."""
    seed: Annotated[int, Range(ge=0, le=2**32 - 1)] = 0

    _places = _NOWHERE  # no annotation, so not a field: neither compared, printed nor written

    def where(self, path: str) -> Where:
        """The place of `path`, such as `model.inputs.image.encoder`, for errors; `load` makes it know file and line."""
        return Where.of(path, self._places)
