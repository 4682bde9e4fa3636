"""Rules: what a broken one says, how those that do not apply are told apart, and what a contract lists."""

from __future__ import annotations

import ast
import unittest
from pathlib import Path

import pytest

from omnivit.testing import rules as module
from omnivit.testing.rules import Broken, Contract, NotApplicable, Rule, outcome, outcomes, rule


class Base(Contract):
    kind = "thing"

    @rule
    def test_even(self, tmp_path: Path) -> None:
        """A thing is even, so that it
        can be halved.

        Only the first paragraph is what the contract wants.
        """
        del tmp_path
        if self.plugin().size % 2:
            raise Broken(f"size is {self.plugin().size}.", "Add one.")


class ThingContract(Base):
    @rule
    def test_small(self, tmp_path: Path) -> None:
        """A thing is small."""
        del tmp_path
        if self.plugin().size < 0:
            raise NotApplicable("it has no size.")
        assert self.plugin().size < 100, "too large"

    @rule
    def test_clean(self, tmp_path: Path) -> None:
        """A thing leaves an empty folder."""
        (tmp_path / "file").mkdir(parents=False)


class Thing:
    size = 2


class Odd:
    size = 201


class Missing:
    size = -2


def test_rules_are_listed_in_order_those_of_bases_first() -> None:
    rules = ThingContract.rules()
    assert [one.name for one in rules] == ["even", "small", "clean"]
    assert rules[0].wants == "A thing is even, so that it can be halved."


def test_a_thing_that_keeps_all() -> None:
    assert [one.status for one in outcomes(ThingContract.on(Thing))] == ["kept"] * 3


def test_a_broken_rule_tells_the_whole_story() -> None:
    even, small, _ = outcomes(ThingContract.on(Odd))
    assert even.status == small.status == "broken"
    assert even.message.splitlines() == [
        "rule even: A thing is even, so that it can be halved.",
        "  found: size is 201.",
        "  do: Add one.",
    ]
    assert "found: AssertionError: too large\n" in small.message
    assert f"({Path(__file__)}, line " in small.message


def test_a_rule_that_does_not_apply_says_why() -> None:
    small = outcome(ThingContract.on(Missing), ThingContract.rules()[1])
    assert (small.status, small.message) == ("not applicable", "it has no size.")


def test_pytest_and_unittest_skip_what_does_not_apply() -> None:
    assert issubclass(NotApplicable, unittest.SkipTest)
    with pytest.raises(unittest.SkipTest, match="no size"):
        ThingContract.on(Missing)().test_small(Path())  # type: ignore[attr-defined]


def test_a_broken_rule_is_an_assertion() -> None:
    with pytest.raises(AssertionError, match=r"rule even: .*\n  found: size is 201\."):
        ThingContract.on(Odd)().test_even(Path())  # type: ignore[attr-defined]


def test_authors_override_a_rule_without_the_decorator() -> None:
    class Lenient(ThingContract):
        thing = Odd

        def test_even(self, tmp_path: Path) -> None:
            raise ZeroDivisionError(tmp_path.name and "oh")

        def test_small(self, tmp_path: Path) -> None:
            del tmp_path

    even, small, _ = outcomes(Lenient)
    assert even.status == "broken" and "found: ZeroDivisionError: oh" in even.message
    assert even.rule.wants == "A thing is even, so that it can be halved."
    assert small.status == "kept"


def test_a_contract_that_names_no_plugin_says_so() -> None:
    even = outcome(ThingContract, ThingContract.rules()[0])
    assert "ThingContract does not name the class to test. Write `thing = YourClass`." in even.message


def test_each_rule_has_a_folder_of_its_own() -> None:
    seen: list[Path] = []

    def check(_: Contract, folder: Path) -> None:
        assert folder.is_dir() and not any(folder.iterdir())
        (folder / "file").touch()
        seen.append(folder)

    for _ in range(2):
        assert outcome(ThingContract, Rule("x", "y", check)).status == "kept"
    assert seen[0] != seen[1] and not seen[0].exists()


def test_nothing_of_it_needs_pytest() -> None:
    files = list(Path(module.__file__).parent.glob("*.py"))
    assert Path(module.__file__) in files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("pytest", "_pytest")], path
