"""In vLLM's environment: the entry point, the versions, and what vLLM then knows."""

from __future__ import annotations

import importlib.metadata

import pytest
from transformers import AutoConfig

import omnivit_vllm


def test_vllm_finds_the_plugin_and_then_the_model() -> None:
    (entry,) = importlib.metadata.entry_points(group="vllm.general_plugins", name="omnivit")
    assert entry.load() is omnivit_vllm.register
    omnivit_vllm.register()
    omnivit_vllm.register()  # vLLM does so in each process, sometimes twice
    from vllm import ModelRegistry

    assert omnivit_vllm.ARCHITECTURE in ModelRegistry.get_supported_archs()
    text = {"model_type": "llama", "hidden_size": 64, "vocab_size": 300}
    config = AutoConfig.for_model("omnivit_vllm", text_config=text, inputs={"points": 300})
    assert (config.get_text_config().hidden_size, config.inputs) == (64, {"points": 300})


@pytest.mark.parametrize(
    ("version", "works"),
    [("0.31.2", False), ("0.32.0", True), ("0.33.1+cpu", True), ("0.34.0rc1", False), ("not installed", False)],
)
def test_versions_with_another_interface_are_refused(
    version: str, works: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert omnivit_vllm.supported(version) is works
    monkeypatch.setattr(omnivit_vllm, "vllm_version", lambda: version)
    omnivit_vllm.register()
    assert ("exports of OmniViT cannot be loaded" in caplog.text) is not works
