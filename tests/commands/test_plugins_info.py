"""`omnivit plugins info NAME`, and how `omnivit plugins` finds what a name means."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from registry_support import Install, installing

from omnivit.cli import main
from omnivit.commands.plugins.describe import Sheet, describe, options_of
from omnivit.commands.plugins.find import find
from omnivit.commands.plugins.info import as_record
from omnivit.commands.plugins.sheet import text
from omnivit.contracts import registries
from omnivit.contracts.options import merge_options
from omnivit.errors import PluginError

OURS = [(kind, name) for kind, known in registries.ALL.items() for name, claim in known.names().items()]
SHRINK = '''"""`shrink`: every n-th row.

More.
"""
from dataclasses import dataclass, field
from omnivit.errors import RecipeError
from omnivit.contracts.examples import AdapterExample
from omnivit.contracts.adapter import Adapter
from omnivit.contracts.features import Features, Layout
from omnivit.plugin import Card

@dataclass
class Step:
    n: int
    """Of how many rows one is kept,
    from 1."""
    rate: float = 1e-6

class Shrink(Adapter):
    """Rows [M, S, D] -> [M, L, D].

    Not printed.
    """
    contract, version, card = 1, 3, Card("Doe, Less is more", "CC-BY-4.0, of Doe", "half of them")

    @dataclass
    class Config:
        step: Step
        "What is kept."
        names: tuple[str, ...] = ("a", "yes")
        folder: dict[str, Step] = field(default_factory=dict)
        """By slot."""

    def __init__(self, config, width, llm_width):
        super().__init__(config, width, llm_width)
        self.n = config.step.n

    def length(self, layout):
        if layout.grid:
            raise RecipeError("no grid")
        return Layout(-(-layout.tokens // self.n))

    def forward(self, features, instruction=None):
        return features

    @classmethod
    def example(cls, folder):
        return AdapterExample({"step": {"n": 2}})
'''
PLAIN = """
from dataclasses import dataclass
from omnivit.contracts.adapter import Adapter
class Plain(Adapter):
    @dataclass
    class Config: ...
    def __init__(self, config, width, llm_width): ...
    def forward(self, features, instruction=None): ...
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    yield from installing(tmp_path, monkeypatch, "omnivit.adapters")


def sheet_of(name: str, kind: str | None = None) -> Sheet:
    plural, cls = find(name, kind)
    return describe(plural, name, cls)


def arguments_of(*arguments: str) -> list[str]:
    """The arguments of `omnivit plugins`."""
    return ["plugins", *arguments]


@pytest.mark.parametrize(("kind", "name"), OURS, ids=lambda value: str(value))
def test_the_block_of_each_is_what_it_takes(kind: str, name: str, tmp_path: Path) -> None:
    cls = registries.ALL[kind].get(name)
    options = tuple(options_of(cls.Config)) if registries.ALL[kind].configured else ()
    sheet = Sheet(kind, name, 1, 1, "", "", "", (), (), "", "", "", cls.card, None, options)
    read = yaml.safe_load(sheet.yaml)
    if kind == "readers":
        assert read == {"data": [{"path": "???", "reader": name}]}
        return
    if kind == "metrics":
        assert read == {"evaluation": {"metric": name}}
        return
    block = next(iter(read.values()))
    assert block.pop("name") == name
    assert set(block) == {option.path for option in options if "." not in option.path}
    example = {"path": "some/model"} if kind == "llms" else dict(cls.example(tmp_path).config)
    defaults = {key: value for key, value in block.items() if value != "???"}
    assert merge_options(cls.Config, {**defaults, **example}, name) == merge_options(cls.Config, example, name)


def test_everything_is_told(install: Install) -> None:
    install("lessrows", "1.2", {"shrink": "lessrows:Shrink [fast]"}, {"lessrows.py": SHRINK}, "License: MIT\n  .")
    sheet = sheet_of("shrink")
    assert text(sheet, 100, colour=False) == (
        """adapter shrink
Every n-th row.
Rows [M, S, D] -> [M, L, D].

from     lessrows 1.2
class    lessrows:Shrink
version  3, contract 1
install  pip install "lessrows[fast]"
tokens   half of them
paper    Doe, Less is more
licence  MIT
weights  CC-BY-4.0, of Doe

Tokens of its example
  1 token: 1 token
  7 tokens: 4 tokens
  12 tokens in a grid (3, 4): not accepted
  with {step: {n: 2}}

Options
OPTION         TYPE                        DEFAULT      MEANING
step           mapping: Step               (mandatory)  What is kept.
step.n         int                         (mandatory)  Of how many rows one is kept, from 1.
step.rate      float                       1.0e-06
names          list of str                 [a, 'yes']
folder         mapping of str to mapping:  {}           By slot.
               Step
folder.*.n     int                         (mandatory)  Of how many rows one is kept, from 1.
folder.*.rate  float                       1.0e-06

In a recipe, under model.inputs.SLOT:

adapter:
  name: shrink
  step: ???  # mapping: Step
  names: [a, 'yes']
  folder: {}"""
    )


def test_a_narrow_terminal_gets_a_list(install: Install) -> None:
    install("lessrows", "1.2", {"shrink": "lessrows:Shrink"}, {"lessrows.py": SHRINK})
    lines = text(sheet_of("shrink"), 40, colour=False).splitlines()
    start = lines.index("Options")
    assert lines[start + 1 : start + 9] == [
        "step",
        "    mapping: Step, mandatory",
        "    What is kept.",
        "step.n",
        "    int, mandatory",
        "    Of how many rows one is kept, from",
        "    1.",
        "step.rate = 1.0e-06",
    ]


@pytest.mark.parametrize("width", [32, 57, 96, 300])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = text(sheet_of("mlp"), width).split("In a recipe")[0].splitlines()
    assert max(map(len, lines)) <= min(width, 160)
    assert ("OPTION" in "".join(lines)) is (width >= 96)


def test_titles_are_bold_on_a_terminal_alone(capsys: pytest.CaptureFixture[str]) -> None:
    sheet = sheet_of("mlp")
    assert "\x1b[1mOptions\x1b[0m" in text(sheet, colour=True)
    assert text(sheet, 100, colour=True).replace("\x1b[1m", "").replace("\x1b[0m", "") == text(sheet, 100, False)
    assert main(arguments_of("info", "mlp")) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_json_holds_all_of_it(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("lessrows", "1.2", {"shrink": "lessrows:Shrink [fast]"}, {"lessrows.py": SHRINK}, "License: MIT")
    assert main(arguments_of("info", "shrink", "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == as_record(sheet_of("shrink"))
    assert {field.name for field in dataclasses.fields(Sheet)} - {"card"} <= {*record, "licence"}
    assert record["licence"] == {"code": "MIT", "weights": "CC-BY-4.0, of Doe"}
    assert record["measured"]["rows"]["7 tokens"] == "4 tokens"
    step = {"path": "step", "type": "mapping: Step", "mandatory": True, "default": None, "doc": "What is kept."}
    assert record["options"][0] == step
    assert record["options"][3]["default"] == ["a", "yes"]


def test_the_rows_of_an_encoders_example() -> None:
    measured = sheet_of("features").measured
    assert measured is not None and measured.options == {"width": 8, "layout": "HWD"}
    assert measured.rows["2. features, y 3, x 5, width 8"] == "15 tokens in a grid (3, 5)"


@pytest.mark.parametrize(
    ("example", "problem"),
    [
        ("raise ValueError('no\\nluck')", "its example raises ValueError: no luck"),
        ("return AdapterExample({'stepp': 1})", "stepp: unknown key; did you mean 'step'?"),
        ("return super().example(folder)", "has no example to test the contract with"),
    ],
)
def test_an_example_that_fails_is_no_reason_to_say_nothing(install: Install, example: str, problem: str) -> None:
    source = SHRINK.replace('return AdapterExample({"step": {"n": 2}})', example)
    install("lessrows", "1.2", {"shrink": "lessrows:Shrink"}, {"lessrows.py": source})
    sheet = sheet_of("shrink")
    assert sheet.measured is not None and problem in sheet.measured.problem
    printed = " ".join(text(sheet, 100).split())
    assert "Tokens not measured: " in printed and problem in printed and "Every n-th row." in printed


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        (["License-Expression: MIT OR Apache-2.0", "License: x"], "MIT OR Apache-2.0"),
        (["License: BSD-3-Clause\n   Redistribution and use ..."], "BSD-3-Clause"),
        (["Classifier: License :: OSI Approved :: MIT License", "Classifier: Typing :: Typed"], "MIT License"),
        ([], ""),
    ],
)
def test_licence_of_the_code(install: Install, metadata: list[str], licence: str) -> None:
    install("foo", "1", {"plain": "fooplain:Plain"}, {"fooplain.py": PLAIN}, *metadata)
    sheet = sheet_of("plain")
    assert sheet.licence == licence
    assert f"licence  {licence or 'not stated'}" in text(sheet, 100)


def test_what_a_plugin_does_not_say(install: Install) -> None:
    install("foo", "1", {"plain": "fooplain:Plain"}, {"fooplain.py": PLAIN})
    printed = text(sheet_of("plain"), 100)
    assert "Base class of adapters" not in printed  # the docstring of its base class is none of its own
    assert "version  1, contract not declared; assumed to be 1" in printed
    assert "weights  none" in printed and "install  pip install foo\n" in printed
    assert "Options" not in printed
    assert "paper" not in printed and "tokens" not in printed


def test_a_class_that_is_named_directly(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del install
    (tmp_path / "notebook").mkdir()
    (tmp_path / "notebook/mine.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(tmp_path / "notebook")
    assert find("mine:Plain")[0] == "adapters"
    printed = text(sheet_of("mine:Plain"), 100)
    assert "from     not installed" in printed and "install" not in printed.replace("not installed", "")
    assert "name: mine:Plain" in printed or "name: 'mine:Plain'" in printed
    assert main(arguments_of("info", "mine:Plane")) == 2
    error = capsys.readouterr().err
    assert "mine has no 'Plane'; did you mean 'Plain'" in error and "Set --kind to the right one" in error


def test_a_head_has_a_token(install: Install) -> None:
    head = """
from dataclasses import dataclass
from omnivit.contracts.head import Head
class Boxes(Head):
    token, losses = "[BOX]", ("box",)
    @dataclass
    class Config:
        size: int = 1
    def __init__(self, config, llm_width): ...
    def processor(self): ...
    def forward(self, states, targets=None): ...
"""
    install("foo", "1", {}, {"fooboxes.py": head})
    sheet = sheet_of("fooboxes:Boxes")
    printed = text(sheet, 100)
    assert (sheet.kind, sheet.token, sheet.measured) == ("heads", "[BOX]", None)
    assert sheet.yaml == "my_head:\n  name: 'fooboxes:Boxes'\n  size: 1"
    assert "token    [BOX]" in printed and "In a recipe, under model.heads:" in printed


def test_hostile_text_is_shown_harmlessly(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    source = SHRINK.replace("What is kept.", "a\\x1b[2Jb\\u202e" + "c" * 9000).replace("Less is more", "\\x1b]0;x\\x07")
    install("foo", "1", {"shrink": "lessrows:Shrink"}, {"lessrows.py": source}, "License: \x1b[31mMIT")
    for arguments in ([], ["--json"]):
        assert main(arguments_of("info", "shrink", *arguments)) == 0
        printed = capsys.readouterr().out
        assert all(character.isprintable() or character == "\n" for character in printed)
    assert len(printed) < 30_000


def test_a_broken_plugin_says_why(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("foo", "1", {"bad": "foobad:Bad", "worse": "foonone:Worse"}, {"foobad.py": "1/0"})
    assert main(arguments_of("info", "bad")) == 2
    assert "importing foobad failed" in (error := capsys.readouterr().err) and "ZeroDivisionError" in error
    assert main(arguments_of("info", "worse", "--json")) == 2
    captured = capsys.readouterr()
    assert "module 'foonone' is not found" in captured.err and captured.out == ""


def test_a_deprecated_contract_is_told(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    from omnivit.registry import contract

    terms = contract.Terms(current=2, accepted=range(1, 3), deprecated={1: "write it anew"})
    monkeypatch.setattr(contract, "TERMS", terms)
    install("foo", "1", {"plain": "fooplain:Plain"}, {"fooplain.py": PLAIN})
    with warnings.catch_warnings(record=True) as told:
        assert main(arguments_of("info", "plain")) == 0
    assert any("write it anew" in str(warning.message) for warning in told)


@pytest.fixture
def twins(install: Install, tmp_path: Path) -> None:
    """A plugin `plain` among the adapters and another among the readers."""
    reader = "from omnivit_readers.llava import LlavaReader\nclass Other(LlavaReader):\n    'Reads.'\n"
    install("foo", "1", {"plain": "fooplain:Plain"}, {"fooplain.py": PLAIN, "fooread.py": reader})
    points = tmp_path / "foo-1.dist-info/entry_points.txt"
    points.write_text(points.read_text() + "[omnivit.readers]\nplain = fooread:Other\n")


@pytest.mark.usefixtures("twins")
def test_a_name_of_several_kinds() -> None:
    with pytest.raises(PluginError) as caught:
        find("plain")
    assert "Several plugins are called 'plain' (adapters, readers)" in str(caught.value)
    assert "--kind adapter or --kind reader" in str(caught.value)
    assert [find("plain", kind)[1].__name__ for kind in ("adapter", "adapters", "reader")] == [
        "Plain",
        "Plain",
        "Other",
    ]
    assert find("foo:plain", "reader")[1].__name__ == "Other"
    with pytest.raises(PluginError, match="No encoder is named 'plain'"):
        find("plain", "encoder")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info"], "omnivit plugins info needs one name, but got 0"),
        (["info", "mlp", "linear"], "omnivit plugins info needs one name, but got 2"),
        (["check"], "omnivit plugins check needs at least one name"),
        (["mlp"], "'mlp' is a plugin. Run `omnivit plugins info mlp`"),
        (["inof"], "no action 'inof': did you mean 'info'?"),
        (["info", "mpl"], "No plugin is called 'mpl': did you mean 'mlp'"),
        (["info", "mlp", "--kind", "hat"], "--kind hat: this kind of plugin does not exist; Available: adapters,"),
        (["info", "mlp@7"], "requests version 7"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments_of(*arguments)) == 2
    assert message in capsys.readouterr().err


def test_one_kind_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments_of("--kind", "llm", "--json")) == 0
    assert {record["kind"] for record in json.loads(capsys.readouterr().out)} == {"llms"}
    assert main(arguments_of("--kind", "readers")) == 0
    assert "llava" in (printed := capsys.readouterr().out) and "mlp" not in printed
