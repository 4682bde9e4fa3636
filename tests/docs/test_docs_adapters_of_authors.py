"""docs/plugins: the adapters of change-the-llm.md and pretrained-weights.md keep the contract and work as described."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from docs_support import blocks
from safetensors.torch import save_file

from omnivit.contracts.options import merge_options
from omnivit.errors import RecipeError
from omnivit.testing.adapter import AdapterContract
from omnivit.testing.rules import outcomes

FOLDER = Path(__file__).parents[2] / "docs/plugins"


def module_of(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of a page's Python block, imported from a file."""
    source = next(block.text for block in blocks(FOLDER / page) if block.language == "python")
    name = f"page_{page.partition('.')[0].replace('-', '_')}"
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop(name, None)
    return __import__(name)


@pytest.mark.parametrize(
    ("page", "name"), [("change-the-llm.md", "ToneAdapter"), ("pretrained-weights.md", "ThinAdapter")]
)
def test_the_adapter_of_the_page_keeps_the_contract(
    page: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = getattr(module_of(page, tmp_path, monkeypatch), name)
    results = list(outcomes(AdapterContract.on(adapter)))
    assert [result.message for result in results if result.status == "broken"] == []
    assert sum(result.status == "kept" for result in results) > len(results) // 2


def test_the_projector_of_the_page_is_loaded_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter_class = module_of("pretrained-weights.md", tmp_path, monkeypatch).ThinAdapter
    weights = {"weight": torch.randn(8, 6), "bias": torch.randn(8)}
    file = tmp_path / "llava.safetensors"
    save_file({f"model.mm_projector.{key}": tensor for key, tensor in weights.items()} | {"other": torch.ones(1)}, file)
    adapter = adapter_class(merge_options(adapter_class.Config, {"path": str(file)}, "adapter"), 6, 8)
    adapter.load()
    assert all(torch.equal(adapter.layer.state_dict()[key], tensor) for key, tensor in weights.items())
    with pytest.raises(RecipeError, match="thin adapter, path"):
        wider = adapter_class(adapter_class.Config(str(file)), 7, 8)
        wider.load()
    with pytest.raises(RecipeError, match="no such file"):
        adapter_class(adapter_class.Config("./nothing.safetensors"), 6, 8)
