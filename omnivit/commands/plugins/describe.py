"""What a plugin is, what it needs and takes, and how a recipe says it, for `omnivit plugins info`.

The plugin is imported, and its example tried for the rows that a medium takes; no weight is loaded.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from omnivit.contracts.card import Card
from omnivit.contracts.options import describe_config
from omnivit.contracts.registries import ALL
from omnivit.errors import OmniVitError
from omnivit.recipe.convert import hints
from omnivit.registry import advice

if TYPE_CHECKING:
    from omnivit.contracts.features import Layout
    from omnivit.contracts.sample import Media

MANDATORY = dataclasses.MISSING
BLOCKS: Mapping[str, str] = {"encoders": "encoder", "adapters": "adapter", "llms": "llm", "heads": "my_head"}
"""Kind -> the key of a recipe under which a plugin of it stands; of a head, any name."""


@dataclass(frozen=True)
class Option:
    """One field of a `Config`, or of a dataclass inside it."""

    path: str
    """`layer`, `lora.r`, `steps[].name`."""
    type: str
    default: Any
    """As plain values; `MANDATORY` where there is none."""
    doc: str

    @property
    def mandatory(self) -> bool:
        """Whether a recipe has to give it."""
        return self.default is MANDATORY

    @property
    def written(self) -> str:
        """The default as a recipe writes it; `???` where one has to be given."""
        return "???" if self.mandatory else as_yaml(self.default)


@dataclass(frozen=True)
class Measured:
    """The rows that a plugin's example gives."""

    options: Mapping[str, Any]
    """Of the example."""
    rows: Mapping[str, str]
    """What comes in -> how many rows come out, in words."""
    problem: str = ""
    """Why nothing could be measured."""


@dataclass(frozen=True)
class Sheet:
    """All that is told of a plugin."""

    kind: str
    name: str
    version: int
    contract: int | None
    """None: it does not say."""
    value: str
    """`module:Class` that is imported."""
    distribution: str
    distribution_version: str
    extras: tuple[str, ...]
    what: tuple[str, ...]
    """Paragraphs."""
    reads: str
    """The modality of an encoder."""
    token: str
    """The trigger token of a head."""
    licence: str
    """Of the code."""
    card: Card
    measured: Measured | None
    options: tuple[Option, ...]

    @property
    def install(self) -> str:
        """The command that installs it with what it needs; empty where no distribution holds it."""
        if not self.distribution_version:
            return ""
        wanted = advice.package(self.distribution, self.extras)
        return f"pip install {wanted}" if wanted else ""

    @property
    def yaml(self) -> str:
        """What a recipe says, with every default."""
        if self.kind == "readers":
            return f"data:\n  - path: ???\n    reader: {as_yaml(self.name)}"
        if self.kind == "metrics":
            return f"evaluation:\n  metric: {as_yaml(self.name)}"
        lines = [f"{BLOCKS[self.kind]}:", f"  name: {as_yaml(self.name)}"]
        for option in self.options:
            if option.path.isidentifier():
                lines.append(f"  {option.path}: {option.written}" + (f"  # {option.type}" if option.mandatory else ""))
        return "\n".join(lines)


def describe(kind: str, name: str, cls: type[Any]) -> Sheet:
    """Gather what is told of a plugin.

    Args:
        kind: `encoders`, `adapters`, ...
        name: as a recipe says it.
        cls: its class.

    Raises:
        PluginError: its `Config` has an annotation that is not understood.
    """
    origin = {key: str(value) for key, value in ALL[kind].provenance(name).items()}
    distribution = _distribution(origin["distribution"])
    config = getattr(cls, "Config", None)
    return Sheet(
        kind=kind,
        name=name,
        version=cls.version,
        contract=getattr(cls, "contract", None),
        value=origin["value"].partition("[")[0].strip(),
        distribution=origin["distribution"],
        distribution_version=origin["version"] if distribution else "",
        extras=tuple(EntryPoint(name, origin["value"], ALL[kind].group).extras),
        what=tuple(_paragraphs(name, cls)),
        reads=getattr(cls, "modality", ""),
        token=getattr(cls, "token", "") if kind == "heads" else "",
        licence=_licence(distribution) if distribution else "",
        card=cls.card,
        measured=_measured(kind, cls),
        options=tuple(options_of(config)) if inspect.isclass(config) else (),
    )


def options_of(config: type[Any], prefix: str = "", around: tuple[type[Any], ...] = ()) -> Iterator[Option]:
    """Every field of a `Config`, those of dataclasses inside it after the field that holds them.

    Raises:
        PluginError: an annotation is not understood.
    """
    kinds = hints(config)
    for found in describe_config(config):
        yield Option(prefix + found.name, found.type, plain(found.default), found.doc)
        for suffix, inner in _dataclasses_in(kinds[found.name]):
            if inner not in (*around, config):  # one that holds itself is described once
                yield from options_of(inner, f"{prefix}{found.name}{suffix}.", (*around, config))


def _dataclasses_in(annotation: Any, suffix: str = "") -> Iterator[tuple[str, type[Any]]]:
    """The dataclasses of an annotation, with `[]` for each list around them and `.*` for each mapping."""
    if inspect.isclass(annotation) and dataclasses.is_dataclass(annotation):
        yield suffix, annotation
        return
    origin = get_origin(annotation)
    if not (inspect.isclass(origin) and issubclass(origin, Iterable)):
        step = ""
    else:
        step = ".*" if issubclass(origin, Mapping) else "[]"
    for argument in get_args(annotation):
        yield from _dataclasses_in(argument, suffix + step)


def plain(value: Any) -> Any:
    """A default as mappings, lists and scalars, which JSON and YAML can hold."""
    if dataclasses.is_dataclass(value) and not inspect.isclass(value):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value if value is MANDATORY or value is None or isinstance(value, bool | int | float | str) else str(value)


def as_yaml(value: Any) -> str:
    """A plain value on one line, as a recipe writes it."""
    from omnivit.recipe.yaml_tree import dump

    return dump({"x": value}, flow=True).strip()[len("{x: ") : -1]


def _paragraphs(name: str, cls: type[Any]) -> Iterator[str]:
    """What a plugin says of itself: its module's first paragraph if that begins with its name, and its class's."""
    start = f"`{name.partition('@')[0].rpartition(':')[2]}`:"
    module = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "").partition("\n\n")[0]
    own = inspect.cleandoc(vars(cls).get("__doc__") or "").partition("\n\n")[0]  # not that of the base class
    for text in (module if module.startswith(start) or not own else "", own):
        words = " ".join(text.removeprefix(start).split())
        if words:
            yield words[0].upper() + words[1:]


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):  # a class named directly may belong to none, or to several
        return None


def _licence(distribution: metadata.Distribution) -> str:
    """The licence that a distribution states: its expression, else its field or its classifiers."""
    expression = distribution.metadata.get_all("License-Expression") or []
    field = [text.strip().partition("\n")[0] for text in distribution.metadata.get_all("License") or []]
    classifiers = distribution.metadata.get_all("Classifier") or []
    named = [text.rpartition("::")[2].strip() for text in classifiers if text.startswith("License ::")]
    return next((", ".join(texts) for texts in (expression, field, named) if any(texts)), "")


def _measured(kind: str, cls: type[Any]) -> Measured | None:
    """The rows of the media or layouts in a plugin's example; of kinds that make rows."""
    if kind not in MEASURES:
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            return MEASURES[kind](cls, Path(folder))
        except OmniVitError as error:
            return Measured({}, {}, " ".join(str(error).split()))
        except Exception as error:  # a stranger's example may raise anything; the rest of the sheet is still of use
            return Measured({}, {}, f"its example raises {type(error).__name__}: {' '.join(str(error).split())}")


def _of_encoder(cls: type[Any], folder: Path) -> Measured:
    from omnivit.contracts.encoder import layout_of
    from omnivit.testing.plugin import config_of

    example = cls.example(folder)
    processor = cls(config_of(cls, example.config)).processor()
    rows = {}
    for number, media in enumerate(example.media, 1):
        rows[f"{number}. {_told(cls, media, folder)}"] = _rows(layout_of(processor, processor(media)))
    return Measured(plain(dict(example.config)), rows)


def _told(cls: type[Any], media: Media, folder: Path) -> str:
    """A medium in words: what its encoder finds in it, else its name."""
    try:
        facts = cls.inspect(media)
    except OmniVitError:  # it need not tell, and some media are no files
        return f"{media.slot} {media}".replace(f"{folder}/", "")
    sizes = [f"{name} {size:,}" for name, size in facts.shape.items()]
    return ", ".join([facts.kind, *sizes, *([] if facts.seconds is None else [f"{facts.seconds:g} s"])])


def _of_adapter(cls: type[Any], folder: Path) -> Measured:
    from omnivit.testing.adapter_trial import USUAL, made, taken

    example = cls.example(folder)
    adapter = made(cls, example)
    found = {layout: taken(adapter, layout) for layout in example.layouts or USUAL}
    rows = {_rows(layout): "not taken" if given is None else _rows(given) for layout, given in found.items()}
    return Measured(plain(dict(example.config)), rows)


def _rows(layout: Layout) -> str:
    from omnivit.testing.adapter_trial import shown

    return shown(layout).removesuffix(" in no grid")


MEASURES = {"encoders": _of_encoder, "adapters": _of_adapter}
