"""How recipes name plugins: versions, distributions, and names that nobody may have."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry_support import GOOD, GROUP, Install, failure, of_version

from omnivit.recipe import load, to_yaml
from omnivit.registry import Registry, names
from omnivit.registry.names import Wanted, harmless, printable, same_plugin


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("whisper", Wanted("", "whisper", None)),
        ("whisper@12", Wanted("", "whisper", 12)),
        ("omnivit-x:whisper@1", Wanted("omnivit-x", "whisper", 1)),
        ("a.b:C", Wanted("a.b", "C", None)),
        ("whisper@0", Wanted("", "whisper@0", None)),
        ("whisper@1.2", Wanted("", "whisper@1.2", None)),
        ("@1", Wanted("", "@1", None)),
        ("whisper@\u0661", Wanted("", "whisper@\u0661", None)),
    ],
)
def test_parse(text: str, wanted: Wanted) -> None:
    assert names.parse(text) == wanted


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("whisper", "whisper@1", True),
        ("whisper@2", "whisper@1", True),
        ("omnivit-x:whisper", "whisper@1", True),
        ("omnivit-x:whisper", "omnivit-y:whisper", False),
        ("whisper", "clip", False),
        ("my.module:Eye", "my.module:Ear", False),
        ("my.module:Eye", "Eye_", False),
    ],
)
def test_same_plugin(one: str, other: str, same: bool) -> None:
    assert same_plugin(one, other) is same_plugin(other, one) is same


def test_harmless() -> None:
    assert harmless("clip-2.b@1") == "clip-2.b@1"
    assert harmless("\x1b[31mred\n\u202eevil\u200b") == "\\x1b[31mred\\n\\u202eevil\\u200b"
    assert harmless("\u0441lip") == "\\u0441lip" and printable("\u0441lip") == "\u0441lip"
    assert harmless("x" * 10_000) == "x" * 80 + "... (10,000 characters)"
    assert printable("J\xfcrgen: \x9b31m\u2028\udcff") == "J\xfcrgen: \\x9b31m\\u2028\\udcff"


def test_a_version_is_that_of_the_class(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"good": "foogood:Good", "first": "foofirst:Good"},
            {"foogood.py": of_version(2), "foofirst.py": GOOD})  # fmt: skip
    assert eyes.get("good@2") is eyes.get("good")
    assert eyes.get("first@1") is eyes.get("first")  # who says none is of version 1
    assert eyes.health("good@2").ok and eyes.knows("good@7") and not eyes.knows("god@2")
    text = failure(eyes, "good@3")
    assert "The eye 'good@3' cannot be used: the recipe requests version 3, but foo 1.2 has version 2." in text
    assert "remedy: pip install --upgrade foo, or request the installed one: `good@2`" in text
    assert 'remedy: install an older release that has it: pip install "foo<1.2", or request' in failure(eyes, "good@1")
    assert "did you mean 'good'? Available: first, good." in failure(eyes, "god@2")


def test_an_entry_point_keeps_an_old_version(install: Install, eyes: Registry[object]) -> None:
    entries = {"good": "foogood:Good", "good@1": "fooold:Good", "good@3": "foogood:Good"}
    install("foo", "1.2", entries, {"foogood.py": of_version(2), "fooold.py": of_version(1)})
    assert eyes.get("good@1").__module__ == "fooold"
    assert eyes.get("good").__module__ == eyes.get("good@2").__module__ == "foogood"
    assert eyes.provenance("good@1")["plugin_version"] == 1
    assert set(eyes.names()) == {"good", "good@1", "good@3"}
    text = failure(eyes, "good@3")
    assert (
        "registered as version 3, but its class has `version = 2`" in text and "correct the entry point of foo" in text
    )


def test_an_old_version_alone_is_not_the_plugin(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"good@1": "foogood:Good"}, {"foogood.py": GOOD})
    assert "did you mean 'good@1'?" in failure(eyes, "good")


@pytest.mark.parametrize("version", ["2", 0, -1, True, None, 1.5])
def test_a_version_that_is_none(install: Install, eyes: Registry[object], version: object) -> None:
    install("foo", "1.2", {"good": "foogood:Good"}, {"foogood.py": of_version(version)})
    assert f"its `version` is {version!r}, not a whole number above 0" in failure(eyes, "good")


def test_a_version_of_a_class_named_directly(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {}, {"foogood.py": of_version(2)})
    assert "the distribution 'foogood' registers no eye 'Good@1'" in failure(eyes, "foogood:Good@1")


def test_a_distribution_disambiguates(install: Install, eyes: Registry[object]) -> None:
    install("foo-Eyes", "1.2", {"good": "foogood:Good"}, {"foogood.py": of_version(2)})
    install("bar", "3.4", {"good": "bargood:Good", "good@1": "barold:Good"},
            {"bargood.py": of_version(2), "barold.py": of_version(1)})  # fmt: skip
    assert eyes.get("foo-eyes:good").__module__ == eyes.get("Foo_Eyes:good@2").__module__ == "foogood"
    assert eyes.get("bar:good").__module__ == "bargood"
    assert eyes.get("bar:good@1").__module__ == eyes.get("good@1").__module__ == "barold"
    assert eyes.provenance("foo-eyes:good") == {
        "name": "foo-eyes:good", "value": "foogood:Good", "distribution": "foo-Eyes", "version": "1.2",
        "plugin_version": 2,
    }  # fmt: skip
    assert eyes.health("bar:good").ok and not eyes.health("good").ok
    assert "both claim the name" in failure(eyes, "good@2")
    assert "the recipe requests version 1, but foo-Eyes 1.2 has version 2" in failure(eyes, "foo-eyes:good@1")


def test_a_distribution_that_has_no_such_plugin(install: Install, eyes: Registry[object]) -> None:
    install("foo-eyes", "1.2", {"good": "foogood:Good"}, {"foogood.py": GOOD})
    text = failure(eyes, "foo-eyes:god")
    assert "the distribution 'foo-eyes' registers no eye 'god': did you mean 'good'? Available: good." in text
    text = failure(eyes, "other-eyes:good")
    assert "'other-eyes' registers no eye 'good': Available: none." in text
    assert "Install it (`pip install other-eyes`), or name the class itself" in text
    assert "or, if other is a distribution, install it: `pip install other`" in failure(eyes, "other:good")


def test_a_distribution_wins_over_a_module_of_its_name(install: Install, eyes: Registry[object]) -> None:
    install("foogood", "1.2", {"Good": "fooother:Good"}, {"foogood.py": GOOD, "fooother.py": GOOD})
    assert eyes.get("foogood:Good").__module__ == "fooother"


def test_one_distribution_that_claims_a_name_twice(install: Install, eyes: Registry[object], tmp_path: Path) -> None:
    install("foo", "1.2", {}, {"foogood.py": GOOD, "fooother.py": GOOD})
    entries = tmp_path / "foo-1.2.dist-info" / "entry_points.txt"
    entries.write_text(f"[{GROUP}]\ngood = foogood:Good\ngood = foogood:Good\n")
    assert eyes.get("good").__module__ == "foogood"  # it says the same twice
    entries.write_text(f"[{GROUP}]\ngood = foogood:Good\ngood = fooother:Good\n")
    assert "foo 1.2 claims the name 2 times" in failure(eyes, "good")


@pytest.mark.parametrize(
    "name",
    ["\u0441lip", "cl\x1b[31mip", "cl\u202eip", "c" * 10_000, "clip@x", "foogood:Good", "a b", ".clip", "clip@01"],
)
def test_names_that_nobody_may_have(install: Install, eyes: Registry[object], name: str) -> None:
    install("foo", "1.2", {name: "foobad:Bad", "good": "foogood:Good"}, {"foogood.py": GOOD, "foobad.py": "1/0"})
    assert set(eyes.names()) == {"good"}
    listing = next(found for found in eyes.survey() if found.name != "good")
    assert listing.name == name and not listing.health.ok
    assert "a plugin may not have this name; allowed: at most 64 letters a-z" in listing.health.problem
    if ":" in name:
        assert eyes.get(name).__module__ == "foogood"  # it cannot take the place of the class
        return
    text = failure(eyes, name)
    assert (
        "may not have this name" in text and text.replace("\n", "").isascii() and text.replace("\n", "").isprintable()
    )
    assert len(text) < 1000


def test_a_hostile_distribution_is_no_command(install: Install, eyes: Registry[object], tmp_path: Path) -> None:
    install("foo", "1.2", {"bad": "foogone:Bad"}, {})
    (tmp_path / "foo-1.2.dist-info" / "METADATA").write_text("Name: x; rm -rf ~\nVersion: 1\n \x1b[2J\n")
    text = failure(eyes, "bad")
    assert "pip install" not in text and "\x1b" not in text and "\\x1b" in text
    assert "remedy: remove the distribution that registers it and install it again" in text


@pytest.mark.parametrize(
    ("name", "kept"),
    [("whisper@1", True), ("omnivit-x:whisper", True), ("whisper", True), ("clip", False), ("my.module:Eye", False)],
)
def test_options_of_the_same_plugin_survive_another_version(tmp_path: Path, name: str, kept: bool) -> None:
    block = "{encoder: {name: whisper, path: old}, adapter: {name: mlp}}"
    (tmp_path / "base.yaml").write_text(f"model: {{llm: {{name: causal}}, inputs: {{audio: {block}}}}}\n")
    (tmp_path / "top.yaml").write_text(
        f"extends: base.yaml\nmodel: {{inputs: {{audio: {{encoder: {{name: '{name}', layer: -1}}}}}}}}\n"
    )
    expected = {"name": name, **({"path": "old"} if kept else {}), "layer": -1}
    found = load(tmp_path / "top.yaml")
    assert found.model.inputs["audio"].encoder == expected
    (tmp_path / "shown.yaml").write_text(to_yaml(found))
    assert load(tmp_path / "shown.yaml") == found
    overridden = load(tmp_path / "base.yaml", [f"model.inputs.audio.encoder.name={name}"])
    assert overridden.model.inputs["audio"].encoder == {"name": name, **({"path": "old"} if kept else {})}
