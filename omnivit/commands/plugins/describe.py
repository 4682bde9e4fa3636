"""What a plugin is, what it needs, its options, and its block in a recipe, for `omnivit plugins info`.

The plugin is imported, and its example is run to count the tokens of a medium; no weights are loaded.
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
"""Kind -> the key of its block in a recipe; a head has any name."""


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
        """Whether a recipe has to set it."""
        return self.default is MANDATORY

    @property
    def written(self) -> str:
        """The default as a recipe writes it; `???` if the option is mandatory."""
        return "???" if self.mandatory else as_yaml(self.default)


@dataclass(frozen=True)
class Measured:
    """The tokens that a plugin's example gives."""

    options: Mapping[str, Any]
    """The options of the example."""
    rows: Mapping[str, str]
    """The input -> the number of tokens, as text."""
    problem: str = ""
    """Why the example could not be run; empty if it could."""


@dataclass(frozen=True)
class Sheet:
    """The description of a plugin."""

    kind: str
    name: str
    version: int
    contract: int | None
    """None: it is not declared."""
    value: str
    """The `module:Class` that is imported."""
    distribution: str
    distribution_version: str
    extras: tuple[str, ...]
    what: tuple[str, ...]
    """Paragraphs about its purpose."""
    reads: str
    """The modality of an encoder."""
    token: str
    """The trigger token of a head."""
    licence: str
    """The licence of the code."""
    card: Card
    measured: Measured | None
    options: tuple[Option, ...]

    @property
    def install(self) -> str:
        """The command that installs it with its requirements; empty if it belongs to no distribution."""
        if not self.distribution_version:
            return ""
        package = advice.package(self.distribution, self.extras)
        return f"pip install {package}" if package else ""

    @property
    def yaml(self) -> str:
        """Its block in a recipe, with every default."""
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
    """Collect the description of a plugin.

    Args:
        kind: `encoders`, `adapters`, ...
        name: its name in recipes.
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
    """Every field of a `Config`; the fields of a dataclass inside it follow the field of that type.

    Raises:
        PluginError: an annotation is not understood.
    """
    kinds = hints(config)
    for field in describe_config(config):
        yield Option(prefix + field.name, field.type, plain(field.default), field.doc)
        for suffix, inner in _dataclasses_in(kinds[field.name]):
            if inner not in (*around, config):  # one that contains itself is described once
                yield from options_of(inner, f"{prefix}{field.name}{suffix}.", (*around, config))


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
    """A default as mappings, lists and scalars, as JSON and YAML have them."""
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
    """The first paragraph of the module's docstring if it begins with the plugin's name, and that of the class."""
    start = f"`{name.partition('@')[0].rpartition(':')[2]}`:"
    module = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "").partition("\n\n")[0]
    class_doc = inspect.cleandoc(vars(cls).get("__doc__") or "").partition("\n\n")[0]  # not that of the base class
    for text in (module if module.startswith(start) or not class_doc else "", class_doc):
        words = " ".join(text.removeprefix(start).split())
        if words:
            yield words[0].upper() + words[1:]


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):  # a class named directly may belong to none, or to several
        return None


def _licence(distribution: metadata.Distribution) -> str:
    """The licence in the metadata of a distribution: its expression, else its field or its classifiers."""
    expression = distribution.metadata.get_all("License-Expression") or []
    field = [text.strip().partition("\n")[0] for text in distribution.metadata.get_all("License") or []]
    classifiers = distribution.metadata.get_all("Classifier") or []
    named = [text.rpartition("::")[2].strip() for text in classifiers if text.startswith("License ::")]
    return next((", ".join(texts) for texts in (expression, field, named) if any(texts)), "")


def _measured(kind: str, cls: type[Any]) -> Measured | None:
    """The tokens of the media or layouts in the example of an encoder or adapter; None for other kinds."""
    if kind not in MEASURES:
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            return MEASURES[kind](cls, Path(folder))
        except OmniVitError as error:
            return Measured({}, {}, " ".join(str(error).split()))
        except Exception as error:  # an example may raise anything; the rest of the description is still useful
            return Measured({}, {}, f"its example raises {type(error).__name__}: {' '.join(str(error).split())}")


def _of_encoder(cls: type[Any], folder: Path) -> Measured:
    from omnivit.contracts.encoder import layout_of
    from omnivit.testing.plugin import config_of

    example = cls.example(folder)
    processor = cls(config_of(cls, example.config)).processor()
    rows = {}
    for number, media in enumerate(example.media, 1):
        rows[f"{number}. {_medium(cls, media, folder)}"] = _rows(layout_of(processor, processor(media)))
    return Measured(plain(dict(example.config)), rows)


def _medium(cls: type[Any], media: Media, folder: Path) -> str:
    """A medium as text: the facts that its encoder reads from it, else its name."""
    try:
        facts = cls.inspect(media)
    except OmniVitError:  # encoders need not implement it, and some media are not files
        return f"{media.slot} {media}".replace(f"{folder}/", "")
    sizes = [f"{name} {size:,}" for name, size in facts.shape.items()]
    return ", ".join([facts.kind, *sizes, *([] if facts.seconds is None else [f"{facts.seconds:g} s"])])


def _of_adapter(cls: type[Any], folder: Path) -> Measured:
    from omnivit.testing.adapter_trial import USUAL, build, taken

    example = cls.example(folder)
    adapter = build(cls, example)
    outputs = {layout: taken(adapter, layout) for layout in example.layouts or USUAL}
    rows = {_rows(layout): "not accepted" if out is None else _rows(out) for layout, out in outputs.items()}
    return Measured(plain(dict(example.config)), rows)


def _rows(layout: Layout) -> str:
    from omnivit.testing.adapter_trial import layout_text

    return layout_text(layout).removesuffix(" in no grid")


MEASURES = {"encoders": _of_encoder, "adapters": _of_adapter}
