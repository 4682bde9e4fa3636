"""What a rule of the plugin contract is, and how a contract lists its rules and tries them.

A contract is a class that pytest collects, with a method `test_...` for each rule. Knows no kind of plugin, and needs
neither pytest nor torch.
"""

from __future__ import annotations

import functools
import inspect
import tempfile
import time
import traceback
import unittest
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from omnivit.errors import PluginError

Check = Callable[[Any, Path], None]
"""A rule's method: takes the contract and an empty folder (pytest's `tmp_path`); raises `Broken` or `NotApplicable`."""


class Broken(AssertionError):
    """A plugin breaks a rule. Raise it with what was found, smallest counterexample first; `rule` adds the rest."""

    def __init__(self, found: str, do: str = "") -> None:
        """Say what is wrong.

        Args:
            found: what the plugin did, on the smallest counterexample.
            do: what its author can do about it.
        """
        super().__init__(found)
        self.found = found
        self.do = do
        self.rule: Rule | None = None

    def __str__(self) -> str:
        lines = [] if self.rule is None else [f"rule {self.rule.name}: {self.rule.wants}"]
        lines.append(f"found: {self.found}" if lines else self.found)
        lines += [f"do: {self.do}"] if self.do else []
        return "\n  ".join(lines)


class NotApplicable(unittest.SkipTest):
    """A rule says nothing about this plugin; the message says why. pytest shows it as skipped, with the reason."""


@dataclass(frozen=True)
class Rule:
    """A rule of a contract."""

    name: str
    """The method's, without `test_`."""
    wants: str
    """What the contract wants: the first paragraph of the method's docstring."""
    check: Callable[..., None]
    """The method, unbound."""


_Check = TypeVar("_Check", bound=Check)


def rule(check: _Check) -> _Check:
    """Make a method `test_...` of a contract a rule: what it raises becomes a `Broken` that tells the whole story."""

    @functools.wraps(check)
    def run(contract: Any, tmp_path: Path) -> None:
        __tracebackhide__ = True  # pytest shows the message, not this frame
        try:
            check(contract, tmp_path)
        except (Broken, NotApplicable) as error:
            raise _told(error, check) from error.__cause__
        except Exception as error:
            raise _told(Broken(_raised(error), "Mend what raised it, or give another example."), check) from error

    return run  # type: ignore[return-value]  # wraps keeps the signature


def _told(error: Broken | NotApplicable, check: Callable[..., None]) -> Broken | NotApplicable:
    if isinstance(error, Broken) and error.rule is None:
        error.rule = as_rule(check)
    return error


def _raised(error: Exception) -> str:
    """What was raised, and the innermost line of it that is not torch's or the contract's."""
    frames = traceback.extract_tb(error.__traceback__)
    here = str(Path(__file__).parent)
    outside = [f for f in frames if not f.filename.startswith(here) and "/torch/" not in f.filename.replace("\\", "/")]
    place = f" ({outside[-1].filename}, line {outside[-1].lineno})" if outside else ""
    return f"{type(error).__name__}: {error}{place}"


def as_rule(check: Callable[..., None]) -> Rule:
    """Describe a method of a contract."""
    wants = inspect.cleandoc(check.__doc__ or "").partition("\n\n")[0]
    return Rule(check.__name__.removeprefix("test_"), " ".join(wants.split()), check)


class Contract:
    """Base class of contracts. Has no state: each rule makes what it needs from the plugin's example."""

    kind: ClassVar[str]
    """`encoder`, `adapter`, ...: the attribute by which an author names the plugin, too."""

    @classmethod
    def plugin(cls) -> type[Any]:
        """The class that is tried.

        Raises:
            PluginError: the test class does not name it.
        """
        found = getattr(cls, cls.kind, None)
        if not inspect.isclass(found):
            raise PluginError(f"{cls.__qualname__} does not say what it tries. Write `{cls.kind} = YourClass` in it.")
        return found

    @classmethod
    def on(cls, plugin: type[Any]) -> type[Contract]:
        """This contract, for a plugin: what an author writes as `class TestThermal(EncoderContract): ...`."""
        return type(f"{cls.__name__}[{plugin.__name__}]", (cls,), {cls.kind: plugin})

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """All rules, in the order in which they stand, those of base classes first."""
        names = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base) if name.startswith("test_"))
        return tuple(replace(as_rule(getattr(cls, name)), wants=cls._wants(name)) for name in names)

    @classmethod
    def _wants(cls, name: str) -> str:
        """What a rule wants: an author who overrides it need not say so again."""
        said = (as_rule(vars(base)[name]).wants for base in cls.__mro__ if name in vars(base))
        return next(filter(None, said), "")


@dataclass(frozen=True)
class Outcome:
    """How a plugin fares by one rule."""

    rule: Rule
    status: Literal["kept", "broken", "not applicable"]
    message: str
    """What was found and what to do; the reason, where the rule does not apply; empty where it is kept."""
    seconds: float


def outcome(contract: type[Contract], one: Rule) -> Outcome:
    """Try one rule in a folder of its own."""
    start = time.perf_counter()
    status: Literal["kept", "broken", "not applicable"] = "kept"
    message = ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            rule(one.check)(contract(), Path(folder))  # an author's own may lack the decorator
        except NotApplicable as reason:
            status, message = "not applicable", str(reason)
        except Broken as error:
            error.rule = one
            status, message = "broken", str(error)
    return Outcome(one, status, message, time.perf_counter() - start)


def outcomes(contract: type[Contract]) -> Iterator[Outcome]:
    """Try every rule, in order."""
    return (outcome(contract, one) for one in contract.rules())
