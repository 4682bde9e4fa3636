"""A bound on the rendering of chat templates: a template is a stranger's program, and may loop for ever.

transformers renders templates in a sandbox of jinja2, which forbids access to Python but neither endless loops nor
strings of gigabytes. Inside `bounded()` a template is compiled once more, so that each turn of a loop and each call
reports to a budget of processor time of the rendering thread, and operators and functions whose result may be large
check its size first. What a template writes does not change, and no thread, signal or process is needed: it works the
same in loader workers and outside the main thread, and a busy machine stops nothing early.

transformers offers no way to pass an environment, so its function that compiles templates is replaced, for this
process, by one that differs inside `bounded()` alone.
"""

from __future__ import annotations

import copy
import functools
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.environment import Environment
from jinja2.runtime import Context

from omnivit.errors import RecipeError

SECONDS = 1.0
"""Processor time for one conversation; an ordinary one takes a thousandth of it."""
MAX_SIZE = 10_000_000
"""Characters or items that one operation may make. People's text is not among them: templates see short marks."""
MAX_BITS = 10_000
"""Of a whole number that a power or a product makes."""
CHECKED = 4
"""Turns and calls between two looks at the clock."""
COMPILE = "_compile_jinja_template"
"""transformers' function: text -> compiled template."""
SIZED_FILTERS = ("batch", "center", "format", "indent", "join", "list", "replace", "slice", "sum", "tojson", "truncate",
                 "wordwrap")  # fmt: skip
"""Filters that make something larger than what they are given."""
_FIELD = re.compile(r"%[^a-zA-Z%]*[a-zA-Z]|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
"""In a format string: `%5d` or `{:5}`."""
_WIDE = re.compile(r"\d{6}|\*|(?<=.)\{", re.DOTALL)
"""In a field: a width of a million, or one that is an argument."""


class _Budget(threading.local):
    """What the rendering of this thread may still use; `end` is None where nothing is bounded."""

    end: float | None = None
    ticks = 0

    def tick(self) -> None:
        """Count one turn or call.

        Raises:
            RecipeError: the time is used up.
        """
        self.ticks += 1
        if self.ticks % CHECKED == 0 and self.end is not None and time.thread_time() > self.end:
            raise RecipeError(
                f"The chat template was stopped after {SECONDS:g} s of rendering one conversation: it seems to loop "
                "for ever. Choose another with `template:`, or correct it."
            )


_budget = _Budget()


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Render chat templates inside with a bound on time and size.

    Raises:
        RecipeError: a template reached it. Raised where it renders.
    """
    _replace_compiler()
    before = _budget.end
    _budget.end, _budget.ticks = time.thread_time() + seconds, 0
    try:
        yield
    finally:
        _budget.end = before


@functools.cache
def _replace_compiler() -> None:
    from transformers.utils import chat_template_utils

    compile_template: Callable[[str], Template] | None = getattr(chat_template_utils, COMPILE, None)
    if compile_template is None:
        import transformers

        raise RecipeError(
            f"transformers {transformers.__version__} has no {COMPILE}, so that the rendering of chat templates cannot "
            "be bounded. Install a version from the range that OmniViT is tested with."
        )
    # the environment is the same for all templates; the stranger's is not compiled before it is bounded
    environment = _bounded_environment(compile_template("").environment)
    bounded_template = functools.lru_cache(environment.from_string)

    def compiled(text: str) -> Template:
        return compile_template(text) if _budget.end is None else bounded_template(text)

    setattr(chat_template_utils, COMPILE, compiled)


def _bounded_environment(plain: Environment) -> Environment:
    """A copy of a sandbox that compiles templates so that they keep to the budget."""
    made: Any = copy.copy(plain)
    made.__class__ = type("BoundedEnvironment", (_Bounded, type(plain)), {})
    made.filters = plain.filters | {name: _sized(plain.filters[name]) for name in SIZED_FILTERS}
    made.filters |= {"_tick": _tick, "_concat": _concat}
    bounded_environment: Environment = made
    return bounded_environment


class _Bounded(Environment):
    """What the copy does differently."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    """They also are not evaluated while a template is compiled."""

    def _generate(self, source: nodes.Template, *arguments: Any, **options: Any) -> str:
        for loop in source.find_all(nodes.For):
            loop.body.insert(0, nodes.ExprStmt(_filter(nodes.Const(0), "_tick"), lineno=loop.lineno))
        _replace_concat(source)
        source.set_environment(self)
        return super()._generate(source, *arguments, **options)

    concat = staticmethod(lambda parts: _checked("".join(parts)))
    """Joins what a template, a macro or a block writes."""

    def call(self, context: Context, obj: Any, /, *arguments: Any, **options: Any) -> Any:
        """Call a function or macro from a template."""
        _budget.tick()
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)  # jinja2 wraps `format`
        if isinstance(owner, str):
            _check_text(obj.__name__, owner, arguments)
        elif obj is self.globals.get("lipsum"):
            _check_numbers(*arguments, *options.values())
        return _checked(super().call(context, obj, *arguments, **options))  # type: ignore[misc]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator, unless its result would be too large."""
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length()
            _check(bits * abs(right) if operator == "**" else bits + right.bit_length(), MAX_BITS, "a whole number")
        elif operator == "*":
            _check(_repeats(left) * _repeats(right), MAX_SIZE, "a sequence")
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check(len(left) + len(right), MAX_SIZE, "a sequence")
        elif operator == "%" and isinstance(left, str):
            _check_text("format", left, ())
        return super().call_binop(context, operator, left, right)  # type: ignore[misc]


def _replace_concat(node: nodes.Node) -> None:
    """Make `a ~ b` a filter of ours, everywhere below a node."""
    for field, value in node.iter_fields():
        children = value if isinstance(value, list) else [value]
        for place, child in enumerate(children):
            if isinstance(child, nodes.Node):
                _replace_concat(child)
            if isinstance(child, nodes.Concat):
                new = _filter(nodes.List(child.nodes, lineno=child.lineno), "_concat")
                if isinstance(value, list):
                    value[place] = new
                else:
                    setattr(node, field, new)


def _filter(value: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno or 1)


@pass_context  # so that it is not evaluated while a template is compiled
def _tick(context: Context, value: int) -> int:
    del context
    _budget.tick()
    return value


@pass_context
def _concat(context: Context, parts: list[Any]) -> str:
    del context
    joined: str = _checked("".join(map(str, parts)))
    return joined


def _sized(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at its arguments first."""

    @functools.wraps(plain)  # what jinja2 notes on a filter too
    def checked(*arguments: Any, **options: Any) -> Any:
        _budget.tick()
        texts = [value for value in arguments if isinstance(value, str)]
        if texts:
            _check_text(plain.__name__.removeprefix("do_"), texts[0], [*arguments[-2:], *options.values()])
        elif plain.__name__ not in ("do_tojson", "tojson"):  # else a number is what is written, not a size
            _check_numbers(*arguments[1:], *options.values())
        return _checked(plain(*arguments, **options))

    return checked


def _check_text(name: str, text: str, arguments: Sequence[Any]) -> None:
    """Refuse a method or filter on a text whose result would be too large."""
    if name in ("format", "format_map"):
        wide = next((field for field in _FIELD.findall(text) if _WIDE.search(field)), None)
        if wide is not None:
            raise RecipeError(f"The chat template was stopped: the format {wide[:40]!r} makes a text too wide.")
        return
    if name == "replace":
        longest = max((len(value) for value in arguments if isinstance(value, str)), default=0)
        _check(len(text) * longest, MAX_SIZE, "a text")
    _check_numbers(*arguments)


def _check_numbers(*values: Any) -> None:
    for value in values:
        if isinstance(value, int):
            _check(abs(value), MAX_SIZE, "a text")


def _checked(made: Any) -> Any:
    """What a template made, unless it is too large to go on with."""
    if isinstance(made, str | list | tuple):
        _check(len(made), MAX_SIZE, "a text or list")
    return made


def _repeats(value: Any) -> float:
    """Items of a sequence, or how often a number repeats one."""
    if hasattr(value, "__len__"):
        return len(value)
    return max(value, 1) if isinstance(value, int) else 1


def _check(size: float, most: int, what: str) -> None:
    if size > most:
        raise RecipeError(f"The chat template was stopped: it makes {what} larger than {most:,}.")
