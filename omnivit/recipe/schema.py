"""The recipe: all parts of a run as typed dataclasses, with the keys, types and ranges of their values.

This module knows no plugin and no tensor. The keys of a block such as `encoder`, other than `name`, are the fields of
the plugin's own `Config` (see `omnivit.contracts.options`).
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
"""The media with which a question is asked: its own, another sample's, or none."""

Prompts = str | list[str] | dict[str, str | list[str]]
"""Wordings of questions: a file, a list, or task -> list."""

Choices = Literal["generate", "likelihood"]
"""How a question is answered."""

LM = "lm"
"""The name of the language-modelling loss on answers; the loss of a head has the head's name."""
_NOWHERE: Mapping[Keys, str] = MappingProxyType({})


@dataclass
class Slot:
    """One input of the model: an encoder and the adapter that connects it to the LLM."""

    encoder: dict[str, Any]
    """`name` of a registered encoder (`NAME`, `NAME@VERSION`, `DISTRIBUTION:NAME`, or `module:Class`), and its options.
    `lora: {r, alpha, dropout, targets}` adds LoRA to its linear layers. Or only `share`: the name of the input whose
    encoder is used here too."""
    adapter: dict[str, Any]
    """`name` of a registered adapter, in the same forms, its options, and `lora` as for encoders. Or only `share`: the
    name of an input."""
    combine: Literal["tokens", "sum", "mean"] = "tokens"
    """What several media of one turn become. `tokens`: each has tokens of its own. `sum`, `mean`: the tokens of all
    media of the turn whose inputs have the same setting are added, or averaged, and take the place of one medium."""


@dataclass
class BoxText:
    """How boxes and points in an image are written as text in questions and answers."""

    codec: str
    """`shikra`, `qwen_vl`, `minigpt_v2`, `cogvlm`, `ferret` or `llava`; or `module:NAME`, a codec of your own."""
    outside: Literal["error", "clamp"] = "error"
    """A box that is partly outside of what the model sees of the image: `error`, its sample is a bad sample; `clamp`,
    it is cut at the edge, as Shikra does. A box that is entirely outside always makes a bad sample."""


@dataclass
class Model:
    """The LLM, its inputs, and its outputs beyond text."""

    llm: dict[str, Any]
    """`name` of a registered LLM (`causal`), and its options."""
    inputs: dict[str, Slot | list[Slot]] = field(default_factory=dict)
    """Slot name -> encoder and adapter, or a list of several, whose tokens follow one another in the sequence. The type
    of a content part in a sample is the name of its slot."""
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> `name` of a registered head, and its options. The `head` of a target in a sample is this name."""
    boxes: BoxText | None = None
    """How boxes and points of samples are written as text, such as `{codec: shikra}`."""


@dataclass
class DataSource:
    """One file of samples in a mixture."""

    path: str
    """The file, inside `data.root`."""
    reader: str = "messages"
    """Name of a registered reader; `auto` chooses a built-in reader by the keys of the file's first record."""
    weight: Annotated[float, Range(gt=0)] = 1.0
    """How often each sample of this file is used in an epoch: with 2, twice; with 0.5, once in two epochs."""
    ratio: Annotated[float, Range(gt=0)] | None = None
    """The file's part of the samples that are used, relative to the `ratio` of the stage's other files and independent
    of the sizes of the files. It replaces `weight`; all files of a stage have one, or none has."""
    media_root: str | None = None
    """The folder inside `data.root` where media paths of this file start; default: `data.root`."""
    limit: Count | None = None
    """Use only this number of samples, from the start of the file; default: all."""
    ignore: list[str] = field(default_factory=list)
    """Keys of records, of turns and of their parts to ignore, such as `timestamp`. Every other key of a turn or a part
    that is not read is an error, and so is a key of a record that names a medium."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the reader, such as `records: annotations`; `omnivit plugins info READER` lists them."""
    prompts: Prompts | None = None
    """Wordings of this file's questions: a text file (one a line), a YAML or JSON file, a list, or a mapping from tasks
    to lists (`*`: any task). `{name}` is a field of the record, `{question}` the question's text, `{media}` or the name
    of an input the place of its media. Training draws one for each sample and epoch; answers use the first. A relative
    path starts at `data.root`, one with `./` at the recipe."""


@dataclass
class Schedule:
    """The learning rate over a stage."""

    name: Shape = "cosine"
    """`cosine`, `linear` or `constant`, after the warmup."""
    warmup: NotNegative = 0.03
    """The steps in which the learning rate rises linearly from 0: a fraction of the stage's steps (below 1), or their
    number (1 or more)."""
    minimum: Share = 0.0
    """The final learning rate as a fraction of the peak."""


@dataclass
class Validation:
    """The loss on validation samples during a stage."""

    data: list[DataSource]
    every: CountOrNone = 0
    """Optimizer steps between validations. There is always one at the end of the stage; 0: only that one."""


@dataclass
class ChatTemplate:
    """A chat template with what its Jinja text cannot say."""

    jinja: str | None = None
    """Jinja, or the name of a template such as `vicuna_v0`; default: the tokenizer's own template."""
    end: str = ""
    """The text that ends an answer, such as `###`, where no control token does: the model learns to write it after each
    answer, and an answer is cut where this text, without the white space around it, begins. Default: that of the named
    template."""
    bos: bool | None = None
    """Put the tokenizer's BOS token before the conversation. Default: as the named template does; false for Jinja."""


@dataclass
class StageInput:
    """Other options of an input's encoder and adapter in one stage."""

    encoder: dict[str, Any] = field(default_factory=dict)
    """Options that the encoder allows to change between stages, such as `fit` or `image_size` of `clip`."""
    adapter: dict[str, Any] = field(default_factory=dict)
    """Options that the adapter allows to change between stages."""


@dataclass
class Batching:
    """How the samples of a forward pass become a batch. It does not change what is learnt, except for rounding."""

    kind: Literal["padded", "packed"] = "padded"
    """`padded`: a row for each sample, padded to the longest. `packed`: all samples follow one another in one row, and
    attention never crosses from one to the next."""


@dataclass
class Stage:
    """One training stage. `train` selects what trains, with its learning rates; everything else is frozen (Law 5)."""

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
    """The number of forward passes into which every batch is split; this saves memory and does not change the result.
    """
    schedule: Schedule = field(default_factory=Schedule)
    weight_decay: NotNegative | dict[str, NotNegative] = 0.0
    """Decoupled (AdamW); biases, norms and other one-dimensional parameters are exempt. Or glob over component paths ->
    weight decay, as in `train`; 0 for what no pattern matches."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    optimizer: dict[str, Any] = field(default_factory=lambda: {"name": "adamw"})
    """`name`: `adamw`, `adafactor`, `muon` (for the matrices of layers; AdamW trains all others), `paged_adamw_8bit`
    (needs bitsandbytes and a GPU), or `module:Class` of a torch optimizer; and options of the class, such as `eps`."""
    ema: Annotated[float, Range(gt=0, lt=1)] | None = None
    """The decay of an exponential moving average of the trained weights, such as 0.999. When the stage ends, the
    averages become the weights; until then, validation and checkpoints have the weights that train."""
    losses: dict[str, NotNegative] = field(default_factory=lambda: {LM: 1.0})
    """Losses and their weights: `lm`, the language-modelling loss on answers, and the losses of heads by their names in
    `model.heads`. Each is a mean over the step: over supervised tokens, or over the head's targets. A head that is not
    named is not trained."""
    template: str | ChatTemplate | None = None
    """Chat template of this stage, such as `llava_plain` for captions: a name, Jinja, or a block with `jinja`, `end`
    and `bos`; default: the LLM's."""
    supervise: Literal["all", "last"] = "all"
    """The answers of a conversation to train on: `all`, or only the `last`. An answer that its record excludes from
    training is never used."""
    markup: list[str] | None = None
    """Tokens of the tokenizer that are tokens, not plain text, in the answers of this stage's files: their texts, or
    globs (`<loc*>`) over tokens that are not special. `[]`: none. Default: none, with a warning if an answer contains
    the text of a token."""
    markup_questions: bool = False
    """True: the tokens of `markup` are tokens in the questions of this stage's files, too. What a person types stays
    plain text."""
    inputs: dict[str, StageInput | list[StageInput]] = field(default_factory=dict)
    """Slot -> options of its `encoder` and `adapter` in this stage; a list for an input with several. Other options are
    as in `model.inputs`. The evaluation and the trained model use those of the last stage."""
    group_by_length: bool = True
    """Put samples of similar length (within about a tenth) into the same batch, which reduces padding."""
    batching: Batching = field(default_factory=Batching)
    validation: Validation | None = None
    merge_lora: bool = False
    """True: before this stage, the LoRA of the stages before it is added to the weights that it adapts, and a new one
    begins."""
    prompts: Prompts | None = None
    """Wordings of questions, as `prompts` of a data source, for the files that have none of their own. A mapping
    changes only samples of its tasks."""
    system: dict[str, str] = field(default_factory=dict)
    """Task -> the system text of its samples (`*`: of all other samples). The task is `task` of the record."""


@dataclass
class InitFrom:
    """Weights with which training begins, instead of those that the components load or draw. Set exactly one of `run`,
    `file` and `lora`."""

    run: str | None = None
    """The folder of a run: the weights that it has trained or begun with."""
    file: str | None = None
    """A file of weights (.safetensors, .bin, .pt, .pth), also on the Hugging Face hub: `organisation/name/file`."""
    lora: str | None = None
    """A folder or hub id with a LoRA that peft has saved."""
    checkpoint: str | None = None
    """Of a `run`: `last` (default), `best`, or the name of a folder in its `checkpoints`."""
    parts: list[str] = field(default_factory=list)
    """Globs over the component paths of this recipe, as in `train`: what is taken. Default: all of the source, and all
    of `into`."""
    into: str | None = None
    """The component path that the names of the source are below, such as `adapters.image`. Default: a file has complete
    paths, and a LoRA belongs to `llm.hf`."""
    rename: dict[str, str] = field(default_factory=dict)
    """The beginning of a name in the source -> what it is here. Tensors whose names begin otherwise are left out."""
    tokens: dict[str, int] = field(default_factory=dict)
    """For a `file`: new token of this recipe -> its row in the tables of the file, which `rename` calls
    `llm.tokens.embedding` and `llm.tokens.output`. Other rows are left out."""
    merge: bool = False
    """True: add the LoRA of the source to the weights that it adapts. False: it becomes the LoRA of this recipe."""


@dataclass
class Data:
    """Where samples are, how they are prepared, and what happens to bad ones."""

    root: str = "."
    """The folder that all paths of samples must stay inside. A relative folder in a YAML file starts at the folder of
    that file."""
    max_length: Count = 2048
    """The most tokens of a sample, those of media included."""
    truncate: bool = False
    """True: cut longer samples at the end (never through a medium). False: a longer sample is a bad sample."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """`error` stops at the first bad sample; `skip` counts and reports them, up to `skip_budget`."""
    skip_budget: Share = 0.01
    """The fraction of a stage's samples (each counted once, even if it is used several times) that may be skipped
    before the run stops. One sample may always be skipped, unless this is 0."""
    relative_root: bool = False
    """True: the run folder names `data.root`, and paths inside it, relative to itself. Run and data can then be moved
    together, opened, evaluated and resumed."""
    workers: CountOrNone = 2
    """Processes per device that load samples."""
    privacy: bool = False
    """True: checkpoints and reports name samples only by their number, never by paths or content of records."""


@dataclass
class Evaluation:
    """The questions of the evaluation after the last stage; its results are the table in report.md."""

    data: list[DataSource]
    conditions: list[Condition] = field(default_factory=lambda: ["true", "shuffled", "none"])
    """The media with which each question is asked: its own (`true`), another sample's (`shuffled`), or none (`none`).
    """
    linear_probe: list[DataSource] = field(default_factory=list)
    """Training samples with the same closed question, to fit a linear classifier on the frozen features."""
    metric: str = "accuracy"
    """A metric that is computed in addition to exact matches (`accuracy`) and token F1: the name of a plugin, such as
    `word_error_rate` for transcripts."""
    by: str | None = None
    """A key of the records, such as `scanner` or `task`: the report has the accuracy for each of its values. Default:
    for each reference answer, where the answers of the file are few and short, as classes are."""
    max_new_tokens: Count = 16
    batch_size: Count = 16
    choices: Choices = "generate"
    """How questions are answered. `generate`: the model writes an answer. `likelihood`: the candidate with the highest
    probability is the answer. Candidates are the list `choices` of a record, or all answers of the file if its records
    have none."""


@dataclass
class Keep:
    """The checkpoints of a run that are kept, in addition to the last one of each stage."""

    last: Count = 2
    """The number of newest checkpoints to keep. If the newest is damaged, the run continues from the one before it."""
    best: str | None = None
    """`validation_loss`, or that of a head (`validation_loss/HEAD.LOSS`): the step with the lowest value is saved and
    kept, and `omnivit.load(RUN, checkpoint="best")` opens it. The last stage with a `validation` decides."""


@dataclass
class Recipe:
    """A complete run."""

    model: Model
    stages: list[Stage] = field(default_factory=list)
    data: Data = field(default_factory=Data)
    trainer: dict[str, Any] = field(default_factory=dict)
    """Arguments of `lightning.Trainer`: precision, strategy, devices, gradient_clip_val, ..."""
    evaluation: Evaluation | None = None
    checkpoint_every: int | str = "10m"
    """The time (`90s`, `10m`, `1h`) or number of optimizer steps between checkpoints; 0: only at the end of a stage."""
    keep: Keep = field(default_factory=Keep)
    nan_budget: CountOrNone = 3
    """The number of consecutive steps that may be skipped because their loss or gradient is not finite. One more stops
    the run."""
    seed: Annotated[int, Range(ge=0, le=2**32 - 1)] = 0
    init_from: list[InitFrom] = field(default_factory=list)
    """Runs and files whose weights the training begins with; a later one wins."""

    _places = _NOWHERE  # no annotation, so not a field: neither compared, printed nor written

    def where(self, path: str) -> Where:
        """The place of `path`, such as `model.inputs.image.encoder`, for errors; with file and line after `load`."""
        return Where.of(path, self._places)
