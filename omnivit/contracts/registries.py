"""The registry of each kind of plugin. Importing this module imports neither a plugin nor torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from omnivit.registry import Registry

if TYPE_CHECKING:
    from omnivit.contracts.adapter import Adapter
    from omnivit.contracts.encoder import Encoder
    from omnivit.contracts.head import Head
    from omnivit.contracts.llm import LanguageModel
    from omnivit.contracts.metric import Metric
    from omnivit.contracts.reader import Reader

encoders: Registry[Encoder] = Registry("omnivit.encoders", "omnivit.contracts.encoder:Encoder")
adapters: Registry[Adapter] = Registry("omnivit.adapters", "omnivit.contracts.adapter:Adapter")
llms: Registry[LanguageModel] = Registry("omnivit.llms", "omnivit.contracts.llm:LanguageModel")
readers: Registry[Reader] = Registry("omnivit.readers", "omnivit.contracts.reader:Reader", configured=False)
heads: Registry[Head] = Registry("omnivit.heads", "omnivit.contracts.head:Head")
metrics: Registry[Metric] = Registry("omnivit.metrics", "omnivit.contracts.metric:Metric", configured=False)

ALL: Mapping[str, Registry[Any]] = MappingProxyType(
    {"encoders": encoders, "adapters": adapters, "llms": llms, "readers": readers, "heads": heads, "metrics": metrics}
)
"""Every registry by kind."""
