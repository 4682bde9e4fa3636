"""`omnivit schema`: print the JSON Schema of recipes, with which an editor completes and checks them.

The schema is read off the dataclasses of `omnivit.recipe.schema`: types, ranges, allowed words, defaults and the
docstring of each key. It knows no plugin: the options of an encoder are printed by `omnivit plugins info NAME`.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omnivit.contracts.options import describe_config
from omnivit.recipe import Recipe
from omnivit.recipe.convert import hints, is_mandatory
from omnivit.recipe.ranges import Range

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
REFERENCE = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
"""A text that takes the place of any other value: an interpolation such as `${data.root}`, or `???`."""
EXTENDS = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "Recipe or recipes that this one is laid over; names start from the folder of this file.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes: nothing, since the schema is the same for every recipe."""
    parser.epilog = "Usage: omnivit schema > recipe.schema.json; docs/recipes.md shows how an editor finds the file."


def run(_: argparse.Namespace) -> int:
    """Print the schema."""
    print(json.dumps(recipe_schema(), indent=2))
    return 0


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, as plain values."""
    writer = _Writer()
    recipe = writer.properties(Recipe)
    return {
        "$schema": DIALECT,
        "title": "OmniViT recipe",
        **recipe,
        "properties": {"extends": EXTENDS, **recipe["properties"]},
        # a recipe that extends another one takes its mandatory keys from there
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": _mandatory(Recipe)},
        "$defs": writer.definitions,
    }


class _Writer:
    """Translates annotations; collects the dataclasses that they name.

    Attributes:
        definitions: name of a dataclass -> its schema.
    """

    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, Any]] = {}

    def properties(self, config: type[Any]) -> dict[str, Any]:
        """A dataclass as an object without further keys."""
        annotations = hints(config, with_ranges=True)
        properties = {}
        for field in describe_config(config):
            schema = self.schema(annotations[field.name])
            if field.doc:
                schema = {**schema, "description": field.doc}
            if field.default is not dataclasses.MISSING and field.default is not None:
                schema = {**schema, "default": _plain(field.default)}
            properties[field.name] = schema
        description = inspect.cleandoc(config.__doc__ or "").partition("\n\n")[0]
        return {
            "type": "object",
            "description": " ".join(description.split()),
            "properties": properties,
            "additionalProperties": False,
        }

    def schema(self, annotation: Any) -> dict[str, Any]:
        """The schema of values of a type, or of a text that is replaced by one."""
        strict = self._strict(annotation)
        if not strict or "$ref" in strict or strict == {"type": "string"}:
            return strict
        if "type" in strict:  # not `anyOf`, with which editors mark the value as a whole and not what is wrong in it
            return {**strict, "type": [strict["type"], "string"], "pattern": REFERENCE["pattern"]}
        return {"anyOf": [*strict.get("anyOf", [strict]), REFERENCE]}

    def _strict(self, annotation: Any) -> dict[str, Any]:
        if annotation in SCALARS:
            return {"type": SCALARS[annotation]}
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            return self._named(annotation)
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            ranges = [limit for limit in arguments[1:] if isinstance(limit, Range)]
            return self._strict(arguments[0]) | {key: bound for limit in ranges for key, bound in _bounds(limit)}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self._strict(member) for member in arguments]}
        if origin is list:
            return {"type": "array", "items": self._item(arguments[0])}
        if origin is tuple:
            items = [self.schema(member) for member in arguments]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.schema(arguments[1])}
        return {}  # Any

    def _named(self, config: type[Any]) -> dict[str, Any]:
        if config.__name__ not in self.definitions:
            self.definitions[config.__name__] = {}  # a dataclass may contain itself
            self.definitions[config.__name__] = self.properties(config)
        return {"$ref": f"#/$defs/{config.__name__}"}

    def _item(self, annotation: Any) -> dict[str, Any]:
        """The items of a list. Lists are replaced and not merged, so an item has all its mandatory keys."""
        schema = self.schema(annotation)
        return schema | {"required": _mandatory(annotation)} if "$ref" in schema else schema


def _mandatory(config: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(config) if is_mandatory(field)]


def _bounds(limit: Range) -> list[tuple[str, float]]:
    named = {BOUNDS[field.name]: getattr(limit, field.name) for field in dataclasses.fields(limit)}
    return [(name, bound) for name, bound in named.items() if math.isfinite(bound)]


def _plain(default: Any) -> Any:
    return dataclasses.asdict(default) if dataclasses.is_dataclass(default) else default  # type: ignore[arg-type]
