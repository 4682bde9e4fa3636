"""What a plugin raises is told with its slot, name, distribution and version, and where the recipe asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registry_support import installing

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError, PluginError, RecipeError
from omnivit.model.blueprint import ModelBlueprint
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import Recipe
from omnivit.run.check import check
from omnivit.run.runner import train

Load = Callable[..., Recipe]
SOURCE = """
from dataclasses import dataclass
from omnivit.errors import RecipeError
from omnivit_adapters.linear import LinearAdapter
from omnivit_encoders.timm import TimmEncoder

class Constructed(LinearAdapter):
    def __init__(self, config, width, llm_width):
        super().__init__()

class Refusing(LinearAdapter):
    def __init__(self, config, width, llm_width):
        raise RecipeError("no such thing")

class Loaded(LinearAdapter):
    def load(self):
        open("/nowhere/weights.bin")

class Called(LinearAdapter):
    def forward(self, features, instruction=None):
        return features.values.no_such_method()

class Reader:
    def __call__(self, media):
        raise SyntaxError("not a TIFF file")

class Read(TimmEncoder):
    def processor(self):
        return Reader()

class Processed(TimmEncoder):
    def processor(self):
        raise KeyError("size")
"""


@pytest.fixture(autouse=True)
def _faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    steps = installing(tmp_path, monkeypatch, "omnivit.adapters")
    install = next(steps)
    names = ("Constructed", "Refusing", "Loaded", "Called")
    install("plug-faulty", "1.2", {name.lower(): f"plug_faulty:{name}" for name in names}, {"plug_faulty.py": SOURCE})
    (tmp_path / "plug-faulty-1.2.dist-info" / "top_level.txt").unlink()  # as newer build backends leave it out
    yield
    next(steps, None)


def adapter(name: str) -> str:
    return f"model.inputs.image.adapter={{name: {name}}}"


def check_named(error: PluginError, where: str, name: str, doing: str, fault: str, origin: str) -> None:
    text = str(error)
    assert text.startswith(f"{where}: {name} failed {doing} at ") and "plug_faulty.py, line " in text
    assert fault in text and f"plug_faulty:{name} ({origin})" in text and "OMNIVIT_TRACEBACK=1" in text
    assert error.__cause__ is not None


def test_a_constructor_that_raises_is_named_with_its_place(load_recipe: Load) -> None:
    with pytest.raises(PluginError) as found:
        check(load_recipe(adapter("constructed")))
    where, origin = "model.inputs.image.adapter (command line)", "distribution plug-faulty 1.2"
    check_named(found.value, where, "Constructed", "in its constructor", "TypeError: LinearAdapter.__init__()", origin)
    with pytest.raises(RecipeError, match=r"^model.inputs.image.adapter \(command line\): no such thing$"):
        ModelBlueprint.of(load_recipe(adapter("refusing"))).build()


def test_weights_that_cannot_be_loaded_and_a_step_that_raises_are_named(load_recipe: Load, tmp_path: Path) -> None:
    origin = "distribution plug-faulty 1.2"
    with pytest.raises(PluginError) as caught:
        load_model(load_recipe(adapter("loaded")))
    where = "model.inputs.image.adapter (command line)"
    check_named(caught.value, where, "Loaded", "while it loaded weights", "FileNotFoundError: [Errno 2]", origin)
    with pytest.raises(PluginError) as caught:
        train(load_recipe(adapter("called"), "data.workers=0"), tmp_path / "run")
    check_named(caught.value, "model.inputs.image", "Called", "on a batch", "no attribute 'no_such_method'", origin)


def test_a_processor_that_raises_is_named_with_its_slot(load_recipe: Load) -> None:
    recipe = load_recipe("model.inputs.image.encoder={name: 'plug_faulty:Processed', model: test_resnet}")
    model = ModelBlueprint.of(recipe).build()
    with pytest.raises(PluginError) as found:
        preparer_of(model, recipe)
    fault, origin = "KeyError: 'size'", "distribution plug-faulty 1.2"
    check_named(found.value, "model.inputs.image", "Processed", "while it created its processor", fault, origin)


def test_a_medium_on_which_a_processor_raises_is_a_bad_medium(load_recipe: Load) -> None:
    recipe = load_recipe("model.inputs.image.encoder={name: 'plug_faulty:Read', model: test_resnet}")
    preparer = preparer_of(ModelBlueprint.of(recipe).build(), recipe)
    with pytest.raises(MediaError) as found:
        preparer.slots["image"](Media("image", "scan.tif"))
    text = str(found.value)
    assert text.startswith("scan.tif: plug_faulty:Reader (distribution plug-faulty 1.2) failed on it at ")
    assert "SyntaxError: not a TIFF file" in text
