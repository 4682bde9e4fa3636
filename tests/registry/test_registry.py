"""The registry against real throw-away distributions: a dist-info folder and modules on the path."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from registry_support import GOOD, GROUP, Install, failure

from omnivit.contracts import registries
from omnivit.errors import Interrupted, PluginError
from omnivit.registry import Health, Registry, introspection


def test_names_are_listed_and_nothing_is_imported(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"good": "foogood:Good", "bad": "foobad:Bad"}, {"foogood.py": GOOD, "foobad.py": "1/0"})
    assert {name: entry.value for name, entry in eyes.names().items()} == {"bad": "foobad:Bad", "good": "foogood:Good"}
    assert eyes.health("good") == Health(True)
    assert [listing.name for listing in eyes.survey()] == ["bad", "good"]
    assert not {"foogood", "foobad", "eyebase"} & set(sys.modules)


def test_what_is_installed_meanwhile_is_seen(install: Install, eyes: Registry[object], tmp_path: Path) -> None:
    install("foo", "1.2", {"good": "foogood:Good"}, {"foogood.py": GOOD})
    os.utime(tmp_path, (1e9, 1e9))  # long ago, so that the reading is kept
    assert set(eyes.names()) == set(eyes.names()) == {"good"}
    install("bar", "1.2", {"better": "foogood:Good"}, {})
    assert set(eyes.names()) == {"good", "better"}
    os.utime(tmp_path, (2e9, 2e9))
    assert set(eyes.names()) == {"good", "better"}


def test_get_returns_the_class(install: Install, eyes: Registry[object]) -> None:
    install(
        "foo",
        "1.2",
        {"good": "foogood:Good [x]", "inner": "foogood:Box.Good"},
        {"foogood.py": GOOD + "class Box:\n    Good = Good\n"},
    )
    good = eyes.get("good")
    assert (good.__module__, good.__name__) == ("foogood", "Good")
    assert eyes.get("inner") is good
    assert eyes.get("foogood:Good") is good


def test_provenance(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"good": "foogood:Good"}, {"foogood.py": GOOD + "    version = 3\n"})
    install("bar", "1", {}, {"barspace/one.py": GOOD})
    install("baz", "2", {}, {"barspace/two.py": GOOD})
    origin = {"distribution": "foo", "version": "1.2", "plugin_version": 3}
    assert eyes.provenance("good") == {"name": "good", "value": "foogood:Good", **origin}
    assert eyes.provenance("foogood:Good") == {"name": "foogood:Good", "value": "foogood:Good", **origin}
    shared = eyes.provenance("barspace.two:Good")
    assert (shared["distribution"], shared["version"], shared["plugin_version"]) == ("bar, baz", "1, 2", 1)


def test_provenance_of_what_no_distribution_holds(
    install: Install, eyes: Registry[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("foo", "1.2", {}, {})
    (tmp_path / "notebook").mkdir()
    (tmp_path / "notebook" / "mine.py").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path / "notebook")
    found = eyes.provenance("mine:Good")
    assert (found["distribution"], found["version"]) == ("not installed", "unknown")
    with pytest.raises(PluginError, match="module 'nowhere' is not found"):
        eyes.provenance("nowhere.at:All")


def test_unknown_name_suggests(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"good": "foogood:Good", "other": "foogood:Good"}, {"foogood.py": GOOD})
    text = failure(eyes, "goood")
    assert (
        "No eye is named 'goood' (entry-point group omnivit.eyes): did you mean 'good'? Available: good, other." in text
    )
    with pytest.raises(PluginError, match="did you mean 'good'"):
        eyes.health("goood")


def test_two_distributions_with_one_name(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"good": "foogood:Good", "fine": "foogood:Good"}, {"foogood.py": GOOD})
    install("bar", "3.4", {"good": "bargood:Good [x]"}, {"bargood.py": GOOD})
    assert set(eyes.names()) == {"good", "fine"}
    assert eyes.get("fine").__module__ == "foogood"
    text = failure(eyes, "good")
    assert "foo 1.2" in text and "bar 3.4" in text
    assert "good = foogood:Good" in text and "good = bargood:Good [x]" in text
    assert "uninstall one of them, or choose one: `name: " in text
    assert "`name: bar:good`" in text and "`name: foo:good`" in text
    assert not eyes.health("good").ok and "both claim" in eyes.health("good").problem
    claims = [(x.distribution, x.version, x.health.ok) for x in eyes.survey() if x.name == "good"]
    assert sorted(claims) == [("bar", "3.4", False), ("foo", "1.2", False)]
    with pytest.raises(PluginError, match="both claim"):
        eyes.provenance("good")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class Bad: pass", "it is the class foobad.Bad(builtins.object); it must be a subclass of eyebase.Eye"),
        ("def Bad(): pass", "it is an object of type builtins.function; it must be a subclass of eyebase.Eye"),
        ("from eyebase import Eye\nclass Bad(Eye): pass", "foobad.Bad(eyebase.Eye), which does not implement see"),
        (
            "from eyebase import Eye\nclass Bad(Eye):\n    def see(self): ...",
            "needs a dataclass `Config` as class attribute; it has none",
        ),
        (
            "from eyebase import Eye\nclass Bad(Eye):\n    class Config: pass\n    def see(self): ...",
            "its `Config` is the class foobad.Bad.Config(builtins.object)",
        ),
    ],
    ids=["base", "not a class", "abstract", "no Config", "plain Config"],
)
def test_contract(install: Install, eyes: Registry[object], source: str, expected: str) -> None:
    install("foo", "1.2", {"bad": "foobad:Bad"}, {"foobad.py": source})
    text = failure(eyes, "bad")
    assert expected in text
    assert "The eye 'bad' cannot be used" in text
    assert "entry point: omnivit.eyes: bad = foobad:Bad (distribution foo 1.2)" in text
    assert "remedy: correct foobad" in text


def test_readers_need_no_config(install: Install) -> None:
    source = "from eyebase import Eye\nclass Plain(Eye):\n    def see(self): ..."
    install("foo", "1.2", {"plain": "fooplain:Plain"}, {"fooplain.py": source})
    plain: Registry[object] = Registry(GROUP, "eyebase:Eye", configured=False)
    assert plain.get("plain").__name__ == "Plain"
    install("bar", "1", {"odd": "barodd:Odd"}, {"barodd.py": source.replace("Plain", "Odd") + "\n    Config = 3"})
    assert "which needs a dataclass `Config` as class attribute; its `Config` is an object" in failure(plain, "odd")
    assert [kind for kind, found in registries.ALL.items() if not found.configured] == ["readers", "metrics"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1\nraise RuntimeError('no licence')", "line 2: RuntimeError: no licence"),
        ("def f(:\n", "line 1: SyntaxError"),
        ("import sys\nsys.exit(3)", "line 2: SystemExit: 3"),
        ("from os import nothing_here", "line 1: ImportError: cannot import name 'nothing_here'"),
    ],
    ids=["exception", "syntax", "exit", "name"],
)
def test_failing_import(install: Install, eyes: Registry[object], source: str, expected: str) -> None:
    install("foo", "1.2", {"bad": "foobad:Bad"}, {"foobad.py": source})
    with pytest.raises(PluginError) as caught:
        eyes.get("bad")
    text = str(caught.value)
    assert "importing foobad failed at " in text and "foobad.py" in text and expected in text
    assert "distribution foo 1.2" in text and "remedy: correct foobad" in text
    assert caught.value.__cause__ is not None
    assert type(caught.value.__cause__).__name__ in expected


def test_failing_import_before_any_line_ran(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"bad": "foobad:Bad"}, {"foobad.py": "x = 1\0"})
    text = failure(eyes, "bad")
    assert "null bytes" in text
    assert "importlib" not in text and "registry.py" not in text


def test_interrupt_is_not_swallowed(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"bad": "foobad:Bad"}, {"foobad.py": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        eyes.get("bad")
    sigterm = "from omnivit.errors import Interrupted\nraise Interrupted(15, 'stopped')"
    install("bar", "1", {"worse": "barbad:Bad"}, {"barbad.py": sigterm})
    with pytest.raises(Interrupted, match="stopped"):
        eyes.get("worse")


def test_missing_module_and_attribute(install: Install, eyes: Registry[object]) -> None:
    entries = {"module": "foogone:Good", "child": "foo.gone:Good", "attribute": "foogood:Goood"}
    install("foo", "1.2", entries, {"foogood.py": GOOD, "foo/__init__.py": ""})
    assert "module 'foogone' is not found" in failure(eyes, "module")
    assert "module 'foo.gone' is not found" in failure(eyes, "child")
    assert "--force-reinstall foo" in failure(eyes, "child")
    text = failure(eyes, "attribute")
    assert "foogood has no 'Goood'; did you mean 'Good'?" in text
    assert "dataclass" not in text


def test_malformed_value(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"bad": "foogood", "worse": "foo good:9"}, {"foogood.py": GOOD})
    assert "'foogood' is not of the form 'module:Class'" in failure(eyes, "bad")
    assert "correct the entry point of foo" in failure(eyes, "worse")
    assert not eyes.health("bad").ok
    assert "name the class itself: `name: my.module:MyClass`" in failure(eyes, "my/module.py:Good")


def test_missing_extra(install: Install, eyes: Registry[object]) -> None:
    install(
        "foo",
        "1.2",
        {"lens": "foolens:Good [lens]", "all": "foolens:Good [all]", "plain": "foogood:Good"},
        {"foolens.py": "import absent_lens\n" + GOOD, "foogood.py": GOOD},
        "Provides-Extra: lens",
        "Provides-Extra: all",
        "Requires-Dist: eyebase>=0.5",
        "Requires-Dist: absent-never ; python_version < '3'",
        "Requires-Dist: absent-lens>=2 ; extra == 'lens'",
        "Requires-Dist: eyebase>=7 ; extra == 'lens'",
        "Requires-Dist: foo[lens] ; extra == 'all'",
    )
    problem = "absent-lens>=2 is not installed, eyebase>=7 is required, but 1.0 is installed"
    assert eyes.health("plain") == Health(True)
    assert eyes.health("lens") == Health(False, problem, 'pip install "foo[lens]" (extra lens)')
    assert eyes.health("all") == Health(False, problem, 'pip install "foo[all]" (extra all)')
    text = failure(eyes, "lens")
    assert "ModuleNotFoundError: No module named 'absent_lens'" in text and problem in text
    assert 'remedy: pip install "foo[lens]" (extra lens)' in text and "distribution foo 1.2" in text


def test_missing_requirement_that_is_no_extra(install: Install, eyes: Registry[object]) -> None:
    files = {"foobad.py": "import absent_one\n", "barbad.py": "import absent_two\n"}
    install("foo", "1.2", {"declared": "foobad:Bad"}, files, "Requires-Dist: absent-one", "Requires-Dist: not valid !")
    install("bar", "1.0", {"undeclared": "barbad:Bad"}, {})
    assert "absent-one is not installed" in eyes.health("declared").problem
    assert "the requirement 'not valid !' of foo cannot be read" in eyes.health("declared").problem
    assert "remedy: pip install foo" in failure(eyes, "declared")
    assert "provides module 'absent_two'; bar does not declare it" in failure(eyes, "undeclared")


def test_extra_of_another_distribution(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"good": "foogood:Good"}, {"foogood.py": GOOD}, "Requires-Dist: bar[lens]")
    install("bar", "1.0", {}, {}, "Requires-Dist: absent-one", "Requires-Dist: absent-two ; extra == 'lens'")
    assert eyes.health("good").problem == "absent-two is not installed"  # what bar itself lacks is not foo's affair


def test_extra_that_nobody_provides(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"good": "foogood:Good [lenz]"}, {"foogood.py": GOOD}, "Provides-Extra: lens")
    assert eyes.health("good").problem == "foo has no extra 'lenz'"


def test_named_directly(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {}, {"foobad.py": "1/0", "foogood.py": GOOD})
    text = failure(eyes, "foobad:Bad")
    assert "named directly: foobad:Bad (as eye)" in text and "ZeroDivisionError" in text
    assert "PYTHONPATH" in failure(eyes, "fooabsent:Bad")
    assert eyes.health("foogood:Good").ok
    assert eyes.health("foogood:Goood").problem.endswith("defines no 'Goood'; did you mean 'Good'? Available: Good")


def test_metadata_that_lost_its_fields(install: Install, eyes: Registry[object], tmp_path: Path) -> None:
    install("foo", "1.2", {"bad": "foogone:Bad"}, {})
    (tmp_path / "foo-1.2.dist-info" / "METADATA").unlink()
    assert [(x.distribution, x.version, x.health.ok) for x in eyes.survey()] == [("foo", "unknown", False)]
    assert "distribution foo unknown" in failure(eyes, "bad")


@pytest.mark.parametrize(
    ("source", "ok"),
    [
        ("class Good: pass", True),
        ("from eyebase import Good", True),
        ("from eyebase import Fair as Good", True),
        ("Good = make()", True),
        ("try:\n    from x import y\nexcept ImportError:\n    Good = None", True),
        ("from eyebase import *", True),
        ("def __getattr__(name): ...", True),
        ("from eyebase import Good as Fair", False),
        ("def f():\n    class Good: pass", False),
        ("print(Good)", False),
        ("def f(:", False),
        ("from nowhere import Good", False),
        ("import eyebase, nowhere.at\nclass Good: pass", False),
        ("from . import Good", True),
        ("if eyebase:\n    import nowhere\nclass Good: pass", True),
        ("class Good: pass\nraise RuntimeError('no licence')", False),
        ("def f():\n    raise RuntimeError\nclass Good: pass", True),
        ("class Good:\n    contract = 99", False),
        ("class Good:\n    contract: int = 1", True),
    ],
)
def test_health_reads_the_source(install: Install, eyes: Registry[object], source: str, ok: bool) -> None:
    install(
        "foo", "1.2", {"good": "foogood.deep.eye:Good"}, {"foogood/__init__.py": "1/0", "foogood/deep/eye.py": source}
    )
    health = eyes.health("good")
    assert health.ok is ok
    assert ok or "contract" in source or ("eye.py" in health.problem and health.remedy)


def test_health_says_what_would_fail(install: Install, eyes: Registry[object]) -> None:
    files = {
        "fooabsent.py": "import sys\nimport nowhere.at\nclass Good: pass",
        "fooraise.py": "class Good: pass\nraise RuntimeError('no licence')",
        "foonewer.py": "class Good:\n    contract = 99",
        "foolarge.py": "#" * (introspection.LARGEST + 1),
    }
    install("foo", "1.2", {name.removesuffix(".py"): f"{name.removesuffix('.py')}:Good" for name in files}, files)
    assert eyes.health("fooabsent").problem.endswith("fooabsent.py, line 2 imports 'nowhere', which is not installed")
    assert eyes.health("fooraise").problem.endswith("fooraise.py, line 2 raises RuntimeError('no licence')")
    assert eyes.health("foonewer").problem == "it is written for contract 99; this OmniViT accepts contract 1"
    assert eyes.health("foolarge").ok  # not looked into


def test_health_of_zip_package_and_folder(
    install: Install, eyes: Registry[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "eyes.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "1/0")
        archive.writestr("zipped/eye.py", "class Good: pass")
    monkeypatch.syspath_prepend(tmp_path / "eyes.zip")
    entries = {
        "zip": "zipped.eye:Good",
        "gone": "zipped.ear:Good",
        "folder": "foospace.empty:Good",
        "leaf": "foogood.x.y:Good",
    }
    install("foo", "1.2", entries, {"foospace/empty/note.txt": "", "foogood.py": GOOD})
    assert {x.name: x.health.problem for x in eyes.survey()} == {
        "zip": "",
        "gone": "module 'zipped.ear' is not found",
        "folder": "module 'foospace.empty' is a folder without __init__.py",
        "leaf": "module 'foogood.x.y' is not found",
    }


def test_health_of_a_module_made_in_memory(eyes: Registry[object], monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = ModuleType("notebook_in_memory")
    notebook.__dict__["Mine"] = type("Mine", (), {})
    monkeypatch.setitem(sys.modules, "notebook_in_memory", notebook)
    assert eyes.health("notebook_in_memory:Mine").ok
    assert eyes.health("notebook_in_memory:Other").problem == "module 'notebook_in_memory' has no 'Other'"


def test_health_sees_through_editable_finders(
    eyes: Registry[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Setuptools maps packages, and children of namespaces, by finders on `sys.meta_path`."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").write_text("1/0")
    (tmp_path / "src" / "eye.py").write_text("class Good: pass")

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> object:  # noqa: ARG004
            from importlib.machinery import ModuleSpec
            from importlib.util import spec_from_file_location

            if name == "mapped_space":
                space = ModuleSpec(name, None, is_package=True)
                space.submodule_search_locations = [str(tmp_path / "nowhere")]
                return space
            if name in ("mapped_top", "mapped_space.plugin"):
                return spec_from_file_location(name, tmp_path / "src" / "__init__.py")
            return None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert eyes.health("mapped_top.eye:Good").ok
    assert eyes.health("mapped_space.plugin.eye:Good").ok
    assert eyes.health("mapped_space.other:Good").problem == "module 'mapped_space.other' is not found"


def test_our_own_bases_and_names() -> None:
    assert list(registries.ALL) == ["encoders", "adapters", "llms", "readers", "heads", "metrics"]
    for kind, found in registries.ALL.items():
        assert found.group == f"omnivit.{kind}"
        assert introspection.definition(*found.base.split(":")).problem == ""
    expected = {
        "encoders": {"clip", "timm"},
        "adapters": {"linear", "mlp"},
        "llms": {"causal"},
        "readers": {"llava", "messages"},
        "metrics": {"accuracy", "token_f1", "word_error_rate"},
    }
    for kind, names in expected.items():
        assert names <= set(registries.ALL[kind].names())


def test_our_own_plugins_are_defined_where_they_say() -> None:
    for found in registries.ALL.values():
        for name, entry in found.names().items():
            module, _, rest = entry.value.partition(":")
            assert introspection.definition(module, rest.split()[0]).problem == "", name


def test_importing_the_registry_imports_nothing_heavy() -> None:
    code = (
        "import sys, omnivit.contracts.registries as r; [x.survey() for x in r.ALL.values()];"
        "print(*({'torch', 'transformers', 'lightning', 'omegaconf', 'numpy', 'omnivit_encoders'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
