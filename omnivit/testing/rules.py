"""What a rule of the plugin contract is, and how a contract lists its rules and tries them.

A contract is a class that pytest collects, with a method `test_...` for each rule. This module is independent of the
kinds of plugins, and needs neither pytest nor torch.
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
from typing import Any, ClassVar, Literal, TypeVar, overload
from weakref import WeakKeyDictionary

from omnivit.errors import PluginError

Check = Callable[[Any, Path], None]
"""A rule's method: takes the contract and an empty folder (pytest's `tmp_path`); raises `Broken` or `NotApplicable`."""
EXAMPLE = "example"
"""The rule that every other one needs, unless it names the rules that it needs itself."""


class Broken(AssertionError):
    """A plugin breaks a rule. Raise it with the evidence, smallest counterexample first; `rule` adds the rest."""

    def __init__(self, evidence: str, do: str = "") -> None:
        """Create the error.

        Args:
            evidence: what the plugin did, on the smallest counterexample.
            do: what its author can do about it.
        """
        super().__init__(evidence)
        self.evidence = evidence
        self.do = do
        self.rule: Rule | None = None

    def __str__(self) -> str:
        lines = [] if self.rule is None else [f"rule {self.rule.name}: {self.rule.wants}"]
        lines.append(f"found: {self.evidence}" if lines else self.evidence)
        lines += [f"do: {self.do}"] if self.do else []
        return "\n  ".join(lines)


class NotApplicable(unittest.SkipTest):
    """A rule does not apply to this plugin; the message says why. pytest shows it as skipped, with the reason."""


class NotTried(NotApplicable):
    """A rule cannot be tried, because a rule that it needs is broken. One fault thus breaks one rule."""

    def __init__(self, cause: str) -> None:
        """Create the error.

        Args:
            cause: the name of the broken rule.
        """
        super().__init__(f"it needs the rule `{cause}`, which is broken.")
        self.cause = cause


@dataclass(frozen=True)
class Rule:
    """A rule of a contract."""

    name: str
    """The method's name, without `test_`."""
    wants: str
    """What the contract expects: the first paragraph of the method's docstring."""
    check: Callable[..., None]
    """The method, unbound."""
    needs: tuple[str, ...] = (EXAMPLE,)
    """Names of the rules without which this one cannot be kept."""


_Check = TypeVar("_Check", bound=Check)


@overload
def rule(check: _Check) -> _Check: ...


@overload
def rule(*, needs: tuple[str, ...]) -> Callable[[_Check], _Check]: ...


def rule(check: Any = None, *, needs: tuple[str, ...] = (EXAMPLE,)) -> Any:
    """Make a method `test_...` of a contract a rule: what it raises becomes a `Broken` with rule, evidence and remedy.

    Args:
        check: the method.
        needs: names of the rules without which this one cannot be kept. Where one of them was tried and is broken,
            this one is not tried.
    """
    if check is None:
        return functools.partial(rule, needs=needs)

    @functools.wraps(check)
    def run(contract: Any, tmp_path: Path) -> None:
        __tracebackhide__ = True  # pytest shows the message, not this frame
        described = as_rule(run)
        _check_needs(type(contract), described)
        try:
            check(contract, tmp_path)
        except NotApplicable:
            raise
        except Exception as error:
            _causes(type(contract))[described.name] = described.name
            raise _explained(error, described) from (error.__cause__ if isinstance(error, Broken) else error)

    run.__dict__.setdefault("needs", needs)  # set already where a rule is decorated twice
    return run


_CAUSES: WeakKeyDictionary[type[Contract], dict[str, str]] = WeakKeyDictionary()


def _causes(contract: type[Contract]) -> dict[str, str]:
    """Of a contract's rules that were broken or could not be tried: name -> name of the broken rule behind it."""
    return _CAUSES.setdefault(contract, {})


def _check_needs(contract: type[Contract], tried: Rule) -> None:
    """Raise NotTried where a rule that this one needs is broken."""
    causes = _causes(contract)
    causes.pop(tried.name, None)
    cause = next((causes[name] for name in tried.needs if name in causes), None)
    if cause is not None:
        causes[tried.name] = cause
        raise NotTried(cause)


def _explained(error: Exception, broken: Rule) -> Broken:
    if not isinstance(error, Broken):
        error = Broken(_raised(error), "Fix the code that raised it, or give another example.")
    error.rule = error.rule or broken
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
    return Rule(
        check.__name__.removeprefix("test_"), " ".join(wants.split()), check, getattr(check, "needs", (EXAMPLE,))
    )


class Contract:
    """Base class of contracts. Has no state: each rule builds what it needs from the plugin's example."""

    kind: ClassVar[str]
    """`encoder`, `adapter`, ...: also the attribute in which an author names the plugin."""

    @classmethod
    def plugin(cls) -> type[Any]:
        """The class that is tried.

        Raises:
            PluginError: the test class does not name it.
        """
        plugin = getattr(cls, cls.kind, None)
        if not inspect.isclass(plugin):
            raise PluginError(f"{cls.__qualname__} does not name the class to test. Write `{cls.kind} = YourClass`.")
        return plugin

    @classmethod
    def on(cls, plugin: type[Any]) -> type[Contract]:
        """This contract, for a plugin: what an author writes as `class TestThermal(EncoderContract): ...`."""
        return type(f"{cls.__name__}[{plugin.__name__}]", (cls,), {cls.kind: plugin})

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """All rules, in the order of the source, those of base classes first."""
        names = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base) if name.startswith("test_"))
        return tuple(cls._rule(name) for name in names)

    @classmethod
    def _rule(cls, name: str) -> Rule:
        """A rule. An author who overrides it need not repeat its text and what it needs."""
        versions = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
        wants = next(filter(None, (as_rule(version).wants for version in versions)), "")
        needs = next((version.needs for version in versions if hasattr(version, "needs")), (EXAMPLE,))
        return replace(as_rule(getattr(cls, name)), wants=wants, needs=needs)


Status = Literal["kept", "broken", "not applicable", "not tried"]


@dataclass(frozen=True)
class Outcome:
    """The result of one rule for a plugin."""

    rule: Rule
    status: Status
    message: str
    """The evidence and what to do; the reason, where the rule does not apply or was not tried; empty: kept."""
    seconds: float


def outcome(contract: type[Contract], tried: Rule) -> Outcome:
    """Try one rule in a new folder."""
    start = time.perf_counter()
    status: Status = "kept"
    message = ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            _check_needs(contract, tried)
            rule(tried.check)(contract(), Path(folder))  # an author's own may lack the decorator
        except NotApplicable as reason:
            status = "not tried" if isinstance(reason, NotTried) else "not applicable"
            message = str(reason)
        except Broken as error:
            error.rule = tried
            status, message = "broken", str(error)
    return Outcome(tried, status, message, time.perf_counter() - start)


def outcomes(contract: type[Contract]) -> Iterator[Outcome]:
    """Try every rule, in order."""
    return (outcome(contract, tried) for tried in contract.rules())
