"""Options of plugins: merging with their `Config`, the types understood, and what errors say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest

from omnivit.contracts.options import ConfigField, describe_config, merge_options
from omnivit.errors import PluginError, RecipeError
from omnivit.recipe.convert import Where


@dataclass
class Lora:
    """LoRA."""

    r: int
    """Rank
    of the update."""
    targets: list[str] = field(default_factory=list)


@dataclass
class Base:
    path: Optional[str] = None  # noqa: UP045  (the older spelling must work too)
    """Inherited."""


@dataclass
class Config(Base):
    model: str = dataclasses.field(kw_only=True)
    """What to build."""
    layer: int = -1
    scale: float = 1.0
    classes: bool = False
    dtype: Literal["float32", "bfloat16", 8] = "float32"
    """The numbers."""
    lora: Lora | None = None
    size: tuple[int, int] = (2, 2)
    pads: tuple[float, ...] = ()
    either: Union[int, str, list[int]] = 0  # noqa: UP007
    rates: dict[str, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    stages: Sequence[Lora] = ()
    cache: Path | None = None
    extra: Any = None
    hidden: int = field(default=3, init=False)


def merge(**options: Any) -> Config:
    return merge_options(Config, {"model": "vit"} | options, "model.inputs.image.encoder")


def refusal(**options: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        merge(**options)
    return str(caught.value)


def test_defaults_stay_and_options_win() -> None:
    assert merge() == Config(model="vit")
    assert merge(layer=-2, path="x") == Config(model="vit", layer=-2, path="x")


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("scale", 2, 2.0),
        ("scale", "1e-3", 0.001),
        ("scale", "-.inf", float("-inf")),
        ("layer", "7", 7),
        ("classes", "true", True),
        ("dtype", "bfloat16", "bfloat16"),
        ("dtype", 8, 8),
        ("lora", {"r": 4, "targets": ["q"]}, Lora(4, ["q"])),
        ("lora", None, None),
        ("size", [3, 4], (3, 4)),
        ("pads", [1, 2, 3], (1.0, 2.0, 3.0)),
        ("either", 5, 5),
        ("either", "5", "5"),
        ("either", [5], [5]),
        ("rates", {"a.*": 1}, {"a.*": 1.0}),
        ("names", {1: "one"}, {1: "one"}),
        ("stages", [{"r": 1}], [Lora(1)]),
        ("cache", "/tmp/x", Path("/tmp/x")),
        ("extra", {"deep": [1, {"x": None}]}, {"deep": [1, {"x": None}]}),
    ],
)
def test_types_that_are_understood(name: str, given: Any, wanted: Any) -> None:
    found = getattr(merge(**{name: given}), name)
    assert found == wanted
    assert type(found) is type(wanted)


PREFIX = "model.inputs.image.encoder"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lyer": 1}, ".lyer: unknown key; did you mean 'layer'? Allowed: path (str or null), model (str), layer (int"),
        ({"hidden": 1}, ".hidden: unknown key. Allowed: path (str or null), "),
        ({"layer": 1.0}, ".layer: 1.0 is a float; expected int."),
        ({"layer": True}, ".layer: True is a bool; expected int."),
        ({"layer": "010"}, ".layer: '010' is a str; expected int."),
        ({"layer": None}, ".layer: null; expected int."),
        ({"scale": True}, ".scale: True is a bool; expected float."),
        ({"scale": 10**400}, ".scale: 1" + "0" * 56 + "... is an int; expected float."),
        ({"classes": 1}, ".classes: 1 is an int; expected bool."),
        ({"path": 3}, ".path: 3 is an int; expected str. Quote it to make it text."),
        ({"dtype": "bf16"}, ".dtype: 'bf16' is not allowed; did you mean 'bfloat16'? Allowed: 'float32', 'bfloat16',"),
        ({"lora": {"r": 4, "target": []}}, ".lora.target: unknown key; did you mean 'targets'? Allowed: r (int), targ"),
        ({"lora": {}}, ".lora: the mandatory key 'r' (int) is missing. Allowed: r (int), targets (list of str)."),
        ({"lora": {"r": 4, "targets": ["q", 5]}}, ".lora.targets[1]: 5 is an int; expected str."),
        ({"lora": {"r": 4, "targets": "q"}}, ".lora.targets: 'q' is a str; expected list of str."),
        ({"size": [1]}, ".size: got 1 values; expected list of 2: int, int."),
        ({"pads": [1, "x"]}, ".pads[1]: 'x' is a str; expected float."),
        ({"either": 0.5}, ".either: 0.5 is a float; expected int or str or list of int."),
        ({"rates": {"a.*": "x"}}, ".rates['a.*']: 'x' is a str; expected float."),
        ({"rates": [1]}, ".rates: [1] is a list; expected mapping of str to float."),
        ({"names": {"1": "one"}}, ".names: the key '1' is a str; expected int."),
        ({"extra": [{"x": "???"}]}, ".extra[0].x: the value ??? must be replaced; expected anything."),
    ],
)  # fmt: skip
def test_errors_name_path_value_and_what_is_allowed(options: dict[str, Any], message: str) -> None:
    assert refusal(**options).startswith(PREFIX + message)


def test_a_missing_option_is_named_with_its_type() -> None:
    with pytest.raises(RecipeError, match=r"^model\.llm: the mandatory key 'model' \(str\) is missing\. Allowed: "):
        merge_options(Config, {}, "model.llm")


def test_a_place_gives_file_and_line() -> None:
    where = Where.of("model.llm", {("model", "llm"): "r.yaml:3", ("model", "llm", "layer"): "r.yaml:5"})
    with pytest.raises(RecipeError, match=r"^model\.llm\.layer \(r\.yaml:5\): 'x' is a str"):
        merge_options(Config, {"model": "vit", "layer": "x"}, where)
    with pytest.raises(RecipeError, match=r"^model\.llm \(r\.yaml:3\): the mandatory key 'model'"):
        merge_options(Config, {"layer": 1}, where)


def test_interpolations_are_over_when_options_are_merged() -> None:
    assert refusal(layer="${x}").startswith(f"{PREFIX}.layer: '${{x}}' is a str; expected int.")


@dataclass
class Picky:
    grid: int = 2

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise ValueError(f"grid must be at least 1, not {self.grid}")


def test_a_config_that_refuses_is_given_its_place() -> None:
    with pytest.raises(RecipeError, match=r"^model\.llm: grid must be at least 1, not 0$"):
        merge_options(Picky, {"grid": 0}, "model.llm")


@dataclass
class Odd:
    call: Callable[[], int] | None = None


@dataclass
class Unresolved:
    x: NoSuchType  # type: ignore[name-defined]  # noqa: F821


def test_annotations_that_are_not_understood_are_the_plugins_fault() -> None:
    with pytest.raises(PluginError, match=r"^x\.call: the annotation .*Callable.* is not supported\. Use bool, int"):
        merge_options(Odd, {"call": 1}, "x")
    with pytest.raises(PluginError, match=r"test_options\.Unresolved: an annotation cannot be resolved: .*NoSuchType"):
        merge_options(Unresolved, {}, "x")


def test_a_config_is_described_with_its_docstrings() -> None:
    options = {option.name: option for option in describe_config(Config)}
    assert list(options)[:3] == ["path", "model", "layer"]
    assert "hidden" not in options
    assert options["path"] == ConfigField("path", "str or null", None, "Inherited.")
    assert options["model"] == ConfigField("model", "str", dataclasses.MISSING, "What to build.")
    assert options["layer"] == ConfigField("layer", "int", -1, "")
    assert options["dtype"].type == "one of 'float32', 'bfloat16', 8"
    assert options["size"].type == "list of 2: int, int"
    assert options["pads"].type == "list of float"
    assert options["rates"] == ConfigField("rates", "mapping of str to float", {}, "")
    assert options["lora"].type == "mapping: Lora or null"
    assert describe_config(Lora)[0].doc == "Rank of the update."


def test_a_config_without_source_is_described_without_docstrings() -> None:
    made = dataclasses.make_dataclass("Made", [("depth", int, 2)])
    assert describe_config(made) == [ConfigField("depth", "int", 2, "")]
