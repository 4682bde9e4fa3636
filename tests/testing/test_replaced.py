"""A plugin that replaces functions of torch or of OmniViT is named, with the functions."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from pcm_encoder import Pcm

from omnivit import seeds
from omnivit.testing.encoder import EncoderContract
from omnivit.testing.replaced import replaced
from omnivit.testing.rules import outcome

SOURCE = """
import torch
from omnivit import seeds
from pcm_encoder import Pcm

plain = torch.nn.functional.hardswish

def hardswish(*arguments, **options):
    return plain(*arguments, **options)

torch.nn.functional.hardswish = hardswish
torch.Tensor.omni_view = lambda self: self
seeds.derive_seed = lambda *arguments: 0

class Replacing(Pcm):
    pass
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Pcm]:
    (tmp_path / "replacing_plugin.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch.nn.functional, "hardswish", torch.nn.functional.hardswish)
    monkeypatch.setattr(seeds, "derive_seed", seeds.derive_seed)
    monkeypatch.setattr(torch.Tensor, "omni_view", None, raising=False)
    monkeypatch.setitem(sys.modules, "replacing_plugin", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "replacing_plugin")
    replacing: type[Pcm] = importlib.import_module("replacing_plugin").Replacing
    return replacing


def test_replaced_functions_are_named(plugin: type[Pcm]) -> None:
    names = set(replaced(plugin))
    assert names >= {"torch.nn.functional.hardswish", "torch.Tensor.omni_view", "omnivit.seeds.derive_seed"}


def test_the_rule_names_the_plugin(plugin: type[Pcm]) -> None:
    contract = EncoderContract.on(plugin)
    (rule,) = [rule for rule in contract.rules() if rule.name == "imports"]
    result = outcome(contract, rule)
    assert result.status == "broken"
    assert "found: replacing_plugin replaces `omnivit.seeds.derive_seed`, and 2 more." in result.message


def test_a_plugin_that_replaces_nothing() -> None:
    assert list(replaced(Pcm)) == []
