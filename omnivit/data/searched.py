"""What a chat template searches messages for: `</think>`, where it cuts the thought out of an earlier answer."""

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
"""A tag of transformers' own, which says what an assistant generates. Jinja does not know it."""
_TAG = re.compile(r"[<>\[\]{}|]")
"""What tells a mark in a text from the name of a key or a role."""


def searched(template: str) -> tuple[str, ...]:
    """The strings with brackets or bars that a template looks for in texts, longest first; none if it is not Jinja."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(_GENERATION.sub("", template))
    except TemplateSyntaxError:
        return ()
    found = {text for text in _constants(tree) if _TAG.search(text)}
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


def _constants(tree: nodes.Template) -> Iterator[str]:
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in _METHODS:
            yield from _texts(call.args)
    for replacing in tree.find_all(nodes.Filter):
        if replacing.name == "replace":
            yield from _texts(replacing.args[:1])
    for compare in tree.find_all(nodes.Compare):
        if any(operand.op in ("in", "notin") for operand in compare.ops):
            yield from _texts([compare.expr])


def _texts(given: list[nodes.Expr]) -> Iterator[str]:
    return (node.value for node in given if isinstance(node, nodes.Const) and isinstance(node.value, str))
