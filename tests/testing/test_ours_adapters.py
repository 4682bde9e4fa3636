"""Each of our adapters keeps the contract, by its own example and by other settings that take another way."""

from __future__ import annotations

from typing import Any

import pytest

from omnivit.contracts import registries
from omnivit.contracts.adapter import Adapter
from omnivit.contracts.examples import AdapterExample
from omnivit.contracts.features import Layout
from omnivit.testing.adapter import AdapterContract
from omnivit.testing.rules import outcomes

OURS = [name for name, entry in registries.adapters.names().items() if entry.value.startswith("omnivit_adapters.")]
QFORMER = {"queries": 3, "layers": 2, "heads": 2, "hidden": 16, "intermediate": 24}
PICTURES = [Layout(16, (4, 4)), Layout(8, (2, 4))]
CLIPS = [Layout(24, (2, 3, 4)), Layout(18, (3, 2, 3))]
ENDED = [
    {"name": "linear"},
    {"name": "markers", "begin": True, "end": True},
    {"name": "visual_expert", "boundary_tokens": True},
]
OTHERS: dict[str, tuple[str, AdapterExample]] = {
    "chain to experts": ("chain", AdapterExample({"steps": ENDED}, text_unchanged=True)),
    "conv over the grid": ("conv", AdapterExample({"kernel": 3, "stride": 2, "padding": 1, "dims": 2}, PICTURES)),
    "markers of frames": ("markers", AdapterExample({"frame": True}, CLIPS, width=32)),
    "mlp gated": ("mlp", AdapterExample({"gated": True, "hidden": 16})),
    "per_frame qformer": ("per_frame", AdapterExample({"adapter": {"name": "qformer", **QFORMER}}, CLIPS)),
    "pool spatio_temporal": ("pool", AdapterExample({"kind": "spatio_temporal", "frames": 4}, CLIPS)),
    "pool temporal": ("pool", AdapterExample({"kind": "temporal", "weights": "transformer", "heads": 2}, CLIPS)),
    "pool consecutive": ("pool", AdapterExample({"kind": "consecutive", "n": 2}, PICTURES)),
    "pool grid": ("pool", AdapterExample({"kind": "grid", "size": [3, 2]})),
    "qformer, plain": ("qformer", AdapterExample(QFORMER)),
    "resampler query": ("resampler", AdapterExample({"kind": "query", "queries": 4, "heads": 2}, PICTURES)),
    "resampler abstractor": (
        "resampler",
        AdapterExample({"kind": "abstractor", "queries": 4, "heads": 2, "depth": 2, "hidden": 16}),
    ),
    "video_qformer audio": ("video_qformer", AdapterExample({**QFORMER, "branch": "audio", "frames": 24})),
    "visual_expert between ends": (
        "visual_expert",
        AdapterExample({"boundary_tokens": True}, width=32, text_unchanged=True),
    ),
    "visual_expert mlp": (
        "visual_expert",
        AdapterExample({"layer_interval": 2, "parts": "mlp"}, width=32, text_unchanged=True),
    ),
}
"""What is tried -> adapter, and an example in place of its own."""


def check(plugin: type[Adapter]) -> None:
    found = list(outcomes(AdapterContract.on(plugin)))
    assert [one.message for one in found if one.status == "broken"] == []
    assert sum(one.status == "kept" for one in found) > len(found) // 2


@pytest.mark.parametrize("name", OURS)
def test_ours_keep_the_contract(name: str) -> None:
    check(registries.adapters.get(name))


@pytest.mark.parametrize("name", OTHERS)
def test_other_settings_keep_the_contract(name: str) -> None:
    adapter, example = OTHERS[name]
    plugin: Any = registries.adapters.get(adapter)
    body = {"example": classmethod(lambda cls, folder: example), "__doc__": plugin.__doc__}  # noqa: ARG005
    check(type(plugin.__name__, (plugin,), body))


@pytest.mark.parametrize("name", OURS)
def test_ours_say_what_they_are(name: str) -> None:
    plugin = registries.adapters.get(name)
    assert plugin.card.tokens
    assert plugin.card.paper or name == "chain"
