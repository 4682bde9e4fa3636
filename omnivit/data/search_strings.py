"""The strings that a chat template searches messages for, such as `</think>`, where it cuts out earlier reasoning."""

from __future__ import annotations

import re
from collections.abc import Iterator

from jinja2 import Environment, TemplateSyntaxError, nodes

_METHODS = frozenset(
    {
        "split",
        "rsplit",
        "partition",
        "rpartition",
        "startswith",
        "endswith",
        "find",
        "rfind",
        "index",
        "count",
        "replace",
    }
    | {"strip", "lstrip", "rstrip", "removeprefix", "removesuffix"}
)
_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
"""A tag that transformers adds to Jinja: it encloses what the assistant generates."""
_TAG = re.compile(r"[<>\[\]{}|]")
"""Characters that distinguish a tag in a text from the name of a key or a role."""


def search_strings(template: str) -> tuple[str, ...]:
    """The strings with brackets or bars that a template searches texts for, longest first; none if it is not Jinja."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(_GENERATION.sub("", template))
    except TemplateSyntaxError:
        return ()
    tags = {text for text in _constants(tree) if _TAG.search(text)}
    return tuple(sorted(tags, key=lambda text: (-len(text), text)))


def _constants(tree: nodes.Template) -> Iterator[str]:
    """The constant strings in calls of string methods, in `replace` filters, and on the right of `in`."""
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in _METHODS:
            yield from _texts(call.args)
    for replacing in tree.find_all(nodes.Filter):
        if replacing.name == "replace":
            yield from _texts(replacing.args[:1])
    for compare in tree.find_all(nodes.Compare):
        if any(operand.op in ("in", "notin") for operand in compare.ops):
            yield from _texts([compare.expr])


def _texts(expressions: list[nodes.Expr]) -> Iterator[str]:
    return (node.value for node in expressions if isinstance(node, nodes.Const) and isinstance(node.value, str))
