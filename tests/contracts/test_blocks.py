"""Blocks of plugins are found at any depth, with their place and their kind."""

from __future__ import annotations

from typing import Any

from omnivit.contracts import registries
from omnivit.contracts.blocks import Block, blocks_in, change_blocks
from omnivit.recipe.convert import Where

CHAIN = {"name": "chain", "steps": [{"name": "pool", "options": {"name": "no_plugin"}}, {"name": "a:B"}]}
MODEL: dict[str, Any] = {
    "llm": {"name": "unknown_llm", "lora": {"r": 2}},
    "inputs": {
        "image": [{"encoder": {"name": "video", "encoder": {"name": "clip"}}, "adapter": CHAIN}],
        "audio": {"encoder": {"name": "whisper"}, "adapter": {"share": "image[0]"}},
    },
    "heads": {"mask": {"name": "unknown_head"}},
}
WHERE = Where.of("model")


def test_every_plugin_with_its_place_and_kind() -> None:
    found = [(b.where.path, b.name, b.registry) for b in blocks_in(MODEL, WHERE) if b.is_plugin]
    assert found == [
        ("model.llm", "unknown_llm", registries.llms),
        ("model.inputs.image[0].encoder", "video", registries.encoders),
        ("model.inputs.image[0].encoder.encoder", "clip", registries.encoders),
        ("model.inputs.image[0].adapter", "chain", registries.adapters),
        ("model.inputs.image[0].adapter.steps[0]", "pool", registries.adapters),
        ("model.inputs.image[0].adapter.steps[1]", "a:B", registries.adapters),
        ("model.inputs.audio.encoder", "whisper", registries.encoders),
        ("model.heads.mask", "unknown_head", registries.heads),
    ]


def test_groups_of_options_are_blocks_and_no_plugins() -> None:
    others = [block.where.path for block in blocks_in(MODEL, WHERE) if not block.is_plugin]
    assert "model.llm.lora" in others and "model.inputs.image[0].adapter.steps[0].options" in others


def test_changed_options_are_searched_for_blocks_too() -> None:
    def change(block: Block) -> dict[str, Any]:
        options = dict(block.options)
        return {"name": options["name"], "layers": options["steps"]} if "steps" in options else options

    changed = change_blocks(MODEL, WHERE, change)
    assert changed["inputs"]["image"][0]["adapter"] == {"name": "chain", "layers": CHAIN["steps"]}
    assert changed["llm"] == MODEL["llm"] and "steps" in CHAIN
