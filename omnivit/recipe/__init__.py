"""A recipe: read from YAML, checked, and written back.

Reading, in this order:

1. `extends: other.yaml` (or a list of files, relative to the folder of the extending file): those files are read first,
   left to right, and each later file is merged over the earlier ones, the file itself last. Mappings merge, lists and
   scalars are replaced. A plugin's block (`model.llm`, a head, an input's `encoder` or `adapter`) whose `name` or
   `share` changes is replaced, unless the new name is another version of the same plugin (`whisper@1` over `whisper`).
2. A text in a YAML file that begins with `./` or `../` becomes absolute, from that file's folder; so does a relative
   `data.root`, whose default is the folder of the recipe. `~/` is the home folder.
3. Overrides such as `stages.align.batch_size=8` (a list item by index or `name`; the value is YAML) are merged over the
   result, those of a `name` first. Their relative paths start at the working folder, and so do those from environment
   variables.
4. `${data.root}` is replaced by another value, `${oc.env:NAME}` and `${oc.env:NAME,default}` by an environment
   variable, `\\${` by a literal `${`. `???` marks a value that a later file or an override must set.
5. Types, names and ranges are checked. An error names the path (`stages[0].batch_size`) and the file and line.
6. Files of `prompts` are read: the recipe then contains their wordings (`omnivit.recipe.prompts`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from omnivit.errors import RecipeError
from omnivit.recipe.convert import Where, convert
from omnivit.recipe.identity import content
from omnivit.recipe.schema import (
    LM,
    BoxText,
    ChatTemplate,
    Data,
    DataSource,
    Evaluation,
    InitFrom,
    Keep,
    Model,
    Recipe,
    Schedule,
    Slot,
    Stage,
    StageInput,
    Validation,
)

__all__ = [
    "LM",
    "BoxText",
    "ChatTemplate",
    "Data",
    "DataSource",
    "Evaluation",
    "InitFrom",
    "Keep",
    "Model",
    "Recipe",
    "Schedule",
    "Slot",
    "Stage",
    "StageInput",
    "Validation",
    "fingerprint",
    "load",
    "to_yaml",
]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe (see the module's docstring for the rules).

    Args:
        path: a YAML file.
        overrides: `key.path=value`; a later one wins.

    Raises:
        RecipeError: the recipe cannot be read, or a value is not valid.
    """
    from omnivit.recipe.checks import problems
    from omnivit.recipe.compose import compose, override  # these import yaml and omegaconf
    from omnivit.recipe.interpolate import resolve
    from omnivit.recipe.prompts import read_wordings

    tree = override(compose(Path(path)), overrides)
    where = Where((), dict(tree.places()))
    # read twice: an interpolation can name a default, which is known once the rest of the recipe is typed
    draft = convert(tree.plain(), Recipe, where, draft=True, problems=[])
    messages: list[str] = []
    recipe: Recipe = convert(resolve(draft, where), Recipe, where, problems=messages)
    recipe._places = where.places
    messages += problems(recipe)
    if messages:
        raise RecipeError("\n".join(messages))
    read_wordings(recipe)
    return recipe


def to_yaml(recipe: Recipe) -> str:
    """Write a recipe with its defaults as YAML, from which `load` reads an equal recipe in any folder.

    Raises:
        RecipeError: it contains an object that is neither mapping, list nor scalar.
    """
    from omnivit.recipe.yaml_tree import dump

    return dump(dataclasses.asdict(recipe))


def fingerprint(recipe: Recipe) -> str:
    """16 hexadecimal digits that change with every value of the recipe, but not with the file that it was read from."""
    text = json.dumps(content(recipe), sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
