"""A bound on the rendering of chat templates: a template is a program from outside and may loop forever.

transformers renders templates in a sandbox of jinja2, which forbids access to Python, but neither endless loops nor
strings of gigabytes. Inside `bounded()` a template is compiled a second time, so that each iteration of a loop and each
call counts against a budget of CPU time of the rendering thread, and operators and functions whose result may be large
check its size first. The output of a template does not change. No thread, signal or process is needed, so it works the
same way in loader workers and outside the main thread, and a busy machine stops nothing early.

transformers has no way to pass an environment, so its function that compiles templates is replaced for this process.
The new one differs only inside `bounded()`.
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
"""CPU time for one conversation; an ordinary one needs a thousandth of it."""
MAX_SIZE = 10_000_000
"""Characters or items that one operation may create. People's text does not count: templates see short marks."""
MAX_BITS = 10_000
"""The most bits of an integer that a power or a product creates."""
CHECKED = 4
"""Iterations and calls between two checks of the clock."""
COMPILE = "_compile_jinja_template"
"""transformers' function: text -> compiled template."""
SIZED_FILTERS = ("batch", "center", "format", "indent", "join", "list", "replace", "slice", "sum", "tojson", "truncate",
                 "wordwrap")  # fmt: skip
"""Filters whose result may be larger than their argument."""
_FIELD = re.compile(r"%[^a-zA-Z%]*[a-zA-Z]|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
"""In a format string: `%5d` or `{:5}`."""
_WIDE = re.compile(r"\d{6}|\*|(?<=.)\{", re.DOTALL)
"""In a field: a width of a million, or one that is an argument."""


class _Budget(threading.local):
    """The CPU time at which the rendering of this thread has to stop; `end` is None where nothing is bounded."""

    end: float | None = None
    ticks = 0

    def tick(self) -> None:
        """Count one iteration or call.

        Raises:
            RecipeError: the time is used up.
        """
        self.ticks += 1
        if self.ticks % CHECKED == 0 and self.end is not None and time.thread_time() > self.end:
            raise RecipeError(
                f"The chat template was stopped after {SECONDS:g} s of rendering one conversation: it probably loops "
                "forever. Fix it, or choose another one with `template:`."
            )


_budget = _Budget()


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Render chat templates inside with a bound on time and size.

    Raises:
        RecipeError: a template exceeded it. Raised while it renders.
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
            f"transformers {transformers.__version__} has no {COMPILE}, so OmniViT cannot limit the rendering time of "
            "chat templates. Install a version of transformers from the range that OmniViT requires."
        )
    # the environment is the same for all templates, so an empty one gives it; a user's is only compiled when bounded
    environment = _bounded_environment(compile_template("").environment)
    bounded_template = functools.lru_cache(environment.from_string)

    def compiled(text: str) -> Template:
        return compile_template(text) if _budget.end is None else bounded_template(text)

    setattr(chat_template_utils, COMPILE, compiled)


def _bounded_environment(plain: Environment) -> Environment:
    """A copy of a sandbox in which templates are compiled with checks of the budget."""
    copied: Any = copy.copy(plain)
    copied.__class__ = type("BoundedEnvironment", (_Bounded, type(plain)), {})
    copied.filters = plain.filters | {name: _sized(plain.filters[name]) for name in SIZED_FILTERS}
    copied.filters |= {"_tick": _tick, "_concat": _concat}
    environment: Environment = copied
    return environment


class _Bounded(Environment):
    """The methods in which the copy differs from its original."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    """jinja2 calls `call_binop` for these, and does not evaluate them while it compiles a template."""

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
            _check(bits * abs(right) if operator == "**" else bits + right.bit_length(), MAX_BITS, "an integer")
        elif operator == "*":
            _check(_repeats(left) * _repeats(right), MAX_SIZE, "a sequence")
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check(len(left) + len(right), MAX_SIZE, "a sequence")
        elif operator == "%" and isinstance(left, str):
            _check_text("format", left, ())
        return super().call_binop(context, operator, left, right)  # type: ignore[misc]


def _replace_concat(node: nodes.Node) -> None:
    """Replace `a ~ b` by a checked filter, everywhere below a node."""
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
    """A filter that checks its arguments first."""

    @functools.wraps(plain)  # also copies the attributes that jinja2 sets on a filter
    def checked(*arguments: Any, **options: Any) -> Any:
        _budget.tick()
        texts = [value for value in arguments if isinstance(value, str)]
        if texts:
            _check_text(plain.__name__.removeprefix("do_"), texts[0], [*arguments[-2:], *options.values()])
        elif plain.__name__ not in ("do_tojson", "tojson"):  # there a number is the value, not a size
            _check_numbers(*arguments[1:], *options.values())
        return _checked(plain(*arguments, **options))

    return checked


def _check_text(name: str, text: str, arguments: Sequence[Any]) -> None:
    """Refuse a method or filter on a text whose result would be too large."""
    if name in ("format", "format_map"):
        wide = next((field for field in _FIELD.findall(text) if _WIDE.search(field)), None)
        if wide is not None:
            raise RecipeError(f"The chat template was stopped: the format {wide[:40]!r} would create too wide a text.")
        return
    if name == "replace":
        longest = max((len(value) for value in arguments if isinstance(value, str)), default=0)
        _check(len(text) * longest, MAX_SIZE, "a text")
    _check_numbers(*arguments)


def _check_numbers(*values: Any) -> None:
    for value in values:
        if isinstance(value, int):
            _check(abs(value), MAX_SIZE, "a text")


def _checked(result: Any) -> Any:
    """The result of an operation of a template, unless it is too large."""
    if isinstance(result, str | list | tuple):
        _check(len(result), MAX_SIZE, "a text or list")
    return result


def _repeats(value: Any) -> float:
    """Items of a sequence, or how often a number repeats one."""
    if hasattr(value, "__len__"):
        return len(value)
    return max(value, 1) if isinstance(value, int) else 1


def _check(size: float, most: int, what: str) -> None:
    if size > most:
        raise RecipeError(f"The chat template was stopped: it would create {what} larger than {most:,}.")
