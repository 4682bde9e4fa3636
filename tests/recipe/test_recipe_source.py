"""Files that are no recipes: broken, hostile, or something else altogether."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from omnivit.errors import RecipeError
from omnivit.recipe import load
from omnivit.recipe.yaml_tree import MAX_ALIASES, MAX_BYTES, MAX_DEPTH, MAX_VALUES, Node, parse

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(content: str | bytes) -> str:
    path = Path("bad.yaml")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RecipeError) as caught:
        load(path)
    return str(caught.value)


def tree(text: str) -> Node:
    node = parse(text, "t.yaml", Path("/folder"))
    assert node is not None
    return node


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "bad.yaml is empty; a recipe is a mapping with at least `model:`."),
        ("# nothing\n", "bad.yaml is empty"),
        ("---\n", "bad.yaml is empty"),
        ("- a\n- b\n", "bad.yaml:1: the file contains a list; a recipe is a mapping (`key: value`)."),
        ("\nhello\n", "bad.yaml:2: the file contains a single value; a recipe is a mapping"),
        ("a: 1\n---\nb: 2\n", "bad.yaml:2: a second document (`---`) begins; a recipe is one document."),
        (b"a: 1\nb: \xff\xfe\n", "bad.yaml:2: this is not text (UTF-8): invalid start byte."),
        (b"\x89PNG\r\n\x1a\n\0\0", "bad.yaml:1: this is not text"),
        (b"a: \0\n", "bad.yaml: this is not YAML: "),
        ("a: [1, 2\nb: 3\n", "bad.yaml:2, column 2: this is not YAML: did not find expected ',' or ']' while parsing"),
        ("a: b: c\n", "bad.yaml:1, column 5: this is not YAML: mapping values are not allowed in this context. Quote"),
        ("*.x: 3\n", "bad.yaml:1, column 2: this is not YAML: did not find expected alphabetic or numeric character"),
        ("a:\n\t- b\n", "bad.yaml:2, column 1: this is not YAML: found character that cannot start any token while"),
        ("seed: 1\nmodel: {}\nseed: 2\n", "bad.yaml:3: duplicate key 'seed', first given at bad.yaml:1."),
        ("model: {llm: {x: 1,\n  x: 2}}\n", "bad.yaml:2: duplicate key 'x', first given at bad.yaml:1."),
        ("a: !!python/object/apply:os.system ['true']\n", "bad.yaml:1: the tag !!python/object/apply:os.system is not"),
        ("a: 1\nb: !mine x\n", "bad.yaml:2: the tag !mine is not allowed: a recipe has plain values only."),
        ("a: !!binary aGk=\n", "bad.yaml:1: the tag !!binary is not allowed"),
        ("a: !!set {x}\n", "bad.yaml:1: the tag !!set is not allowed"),
        ("? [a]\n: b\n", "bad.yaml:1: a collection cannot be a key: keys are text."),
        ("true: b\n", "bad.yaml:1: True cannot be a key: keys are text. Quote it."),
        ("a: *b\n", "bad.yaml:1: alias *b has no anchor &b."),
        ("a: &abc 1\nb: *abd\n", "bad.yaml:2: alias *abd has no anchor &abd; did you mean 'abc'?"),
        ("a: &a\n  b: *a\n", "bad.yaml:2: alias *a is inside its own anchor."),
        ("a: {<<: 3}\n", "bad.yaml:1: `<<` expects a mapping, or a list of mappings."),
    ],
)  # fmt: skip
def test_what_is_no_recipe(content: str | bytes, message: str) -> None:
    assert refusal(content).startswith(message)


def test_hints_for_common_slips() -> None:
    assert refusal("a:\n\t- b\n").endswith("Indent with spaces, never with tabs.")
    assert refusal("*.x: 3\n").endswith("Quote a text that begins with '*'.")
    assert "flow sequence that begins in line 1" in refusal("a: [1, 2\nb: 3\n")


def test_an_alias_bomb_is_refused_before_it_is_expanded() -> None:
    """258 bytes that stand for 6 million values: counted from sizes, so the memory used stays that of the text."""
    assert len(BOMB) < 260
    tracemalloc.start()
    try:
        message = refusal(BOMB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # ten values a line, nine times nine times ...: the fourth line is the first above the limit, and none is read after
    assert message == f"bad.yaml:5: this expands to 66,430 values; at most {MAX_VALUES:,} are allowed."
    assert peak < 2_000_000


def test_an_alias_bomb_on_the_command_line() -> None:
    Path("ok.yaml").write_text("seed: 1\n")
    with pytest.raises(RecipeError, match="command line: trainer: this expands to"):
        load("ok.yaml", ["trainer={" + BOMB.replace("\n", ", ") + "}"])


def test_limits_on_aliases_depth_and_bytes() -> None:
    assert refusal("a: &a 1\nb: [" + "*a," * (MAX_ALIASES + 1) + "]\n") == "bad.yaml:2: more than 64 aliases (`*name`)."
    assert refusal("a: " + "[" * 100_000) == f"bad.yaml:1: nested deeper than {MAX_DEPTH} levels."
    assert refusal("a: '" + "x" * MAX_BYTES + "'") == "bad.yaml is larger than 1,000,000 bytes, the limit for a recipe."
    assert refusal("a: [" + "1," * MAX_VALUES + "]").startswith("bad.yaml:1: this expands to 10,001 values")


def test_aliases_cannot_build_depth() -> None:
    """Each line nests the one before: no single line is deep, all together are."""
    lines = ["k0: &k0 [1]"] + [f"k{i}: &k{i} [[[*k{i - 1}]]]" for i in range(1, 40)]
    assert refusal("\n".join(lines)).endswith(f"nested deeper than {MAX_DEPTH} levels.")


def test_a_number_of_a_thousand_digits_is_text() -> None:
    assert tree("a: " + "9" * 10_000).plain() == {"a": "9" * 10_000}


def test_missing_files_and_folders() -> None:
    Path("quickstart.yaml").write_text("seed: 1\n")
    with pytest.raises(RecipeError) as caught:
        load("qickstart.yaml")
    assert str(caught.value) == (
        "qickstart.yaml does not exist; did you mean 'quickstart.yaml'? Recipes in .: quickstart.yaml."
    )
    with pytest.raises(RecipeError, match=r"^no/such\.yaml does not exist: there is no folder no\.$"):
        load("no/such.yaml")
    Path("folder").mkdir()
    with pytest.raises(RecipeError, match=r"^folder is a folder; a recipe is a YAML file"):
        load("folder")
    with pytest.raises(RecipeError, match="is a character device; a recipe is a YAML file"):
        load(os.devnull)


def test_aliases_and_merge_keys_keep_their_places() -> None:
    node = tree("base: &b {x: 1, y: ./p}\nmine:\n  <<: *b\n  x: 2\nlist:\n  - *b\n")
    assert node.plain() == {
        "base": {"x": 1, "y": "/folder/p"},
        "mine": {"x": 2, "y": "/folder/p"},
        "list": [{"x": 1, "y": "/folder/p"}],
    }
    places = dict(node.places())
    assert places["mine", "x"] == "t.yaml:4"
    assert places["mine", "y"] == "t.yaml:1"
    assert places["list", 0] == "t.yaml:6"


def test_explicit_tags_of_plain_values() -> None:
    text = "a: !!str 5\nb: !!int '5'\nc: ! x\nd: !!float 1e-3\ne: !!null ''\nf: '5'\ng: 0x1F\nh: {1: one}"
    found = tree(text).plain()
    assert found == {"a": "5", "b": 5, "c": "x", "d": 0.001, "e": None, "f": "5", "g": 31, "h": {1: "one"}}


def test_a_byte_order_mark_is_skipped() -> None:
    assert refusal(b"\xef\xbb\xbfsead: 1\n").startswith("sead (bad.yaml:1): unknown key")
