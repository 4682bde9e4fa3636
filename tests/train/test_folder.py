"""What a run folder says of the plugins that made it."""

from __future__ import annotations

from collections.abc import Callable

from omnivit.check import build_on_meta
from omnivit.recipe import Recipe
from omnivit.train.folder import provenance


def test_adapters_inside_adapters_are_named(load_recipe: Callable[..., Recipe]) -> None:
    steps = "[{name: chain, steps: [{name: mlp}]}, {name: linear}]"
    recipe = load_recipe(f"model.inputs.image.adapter={{name: chain, steps: {steps}}}")
    plugins = provenance(recipe, {}, "")["plugins"]
    assert {name for name in plugins if "adapters" in name} == {
        f"omnivit.adapters:{n}" for n in ("chain", "mlp", "linear")
    }


def test_a_shared_part_is_named_once(load_recipe: Callable[..., Recipe]) -> None:
    recipe = load_recipe("model.inputs.other={encoder: {share: image}, adapter: {name: linear}}")
    plugins = provenance(recipe, {}, "")["plugins"]
    assert sorted(name for name in plugins if "omnivit.readers" not in name) == [
        "omnivit.adapters:linear", "omnivit.adapters:mlp", "omnivit.encoders:clip", "omnivit.llms:causal",
    ]  # fmt: skip


def test_versions_and_distributions_are_part_of_a_name(load_recipe: Callable[..., Recipe]) -> None:
    steps = "[{name: mlp@1, depth: 1}, {name: linear}]"
    recipe = load_recipe(f"model.inputs.image.adapter={{name: 'omnivit:chain', steps: {steps}}}")
    plugins = provenance(recipe, {}, "")["plugins"]
    assert {name.removeprefix("omnivit.adapters:") for name in plugins if "adapters" in name} == {
        "omnivit:chain", "mlp@1", "linear",
    }  # fmt: skip
    assert plugins["omnivit.adapters:omnivit:chain"]["value"] == "omnivit_adapters.chain:ChainAdapter"
    assert plugins["omnivit.adapters:mlp@1"]["plugin_version"] == 1
    assert [type(part).__name__ for part in build_on_meta(recipe).adapters["image"].steps] == [
        "MLPAdapter", "LinearAdapter",
    ]  # fmt: skip
