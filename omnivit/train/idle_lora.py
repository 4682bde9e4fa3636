"""LoRA that trains in vain: a component may use the weight of a layer without calling the layer, which has the LoRA.

Known cases are refused before (`omnivit.model.lora`); plugins of others are watched while they see their first media.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from torch import nn

from omnivit.model.lora import lora_layers
from omnivit.train.leader import is_leader

log = logging.getLogger(__name__)
PARTS = ("encoders.", "adapters.")


class LoraWatch:
    """Watches which layers with trained LoRA are called, in the first batch with media of their slot.

    Args:
        model: the whole model.
        trained: names of the parameters that train.
        stage: name of the stage, for the warning.
    """

    def __init__(self, model: nn.Module, trained: Collection[str], stage: str) -> None:
        self.stage = stage
        self.idle: dict[str, Any] = {}
        """Path of a layer that has not been called -> the handle of its hook."""
        for path, layer in lora_layers(model).items():
            if path.startswith(PARTS) and any(name.startswith(f"{path}.lora_") for name in trained):
                self.idle[path] = layer.register_forward_hook(self._noting(path))

    def look(self, slots: Collection[str]) -> None:
        """Warn of layers that a batch with media of these slots has not called; each slot is looked at once."""
        seen = [path for path in self.idle if path.split(".")[1] in slots]
        for path in seen:
            self.idle.pop(path).remove()
        if seen and is_leader():
            more = f" and {len(seen) - 1} more" if len(seen) > 1 else ""
            log.warning(
                "stages.%s.train: the LoRA of %s%s is trained, but the first batch did not call this layer. If its "
                "component uses the weight without calling the layer, LoRA there has no effect: list other `targets`.",
                self.stage,
                seen[0],
                more,
            )

    def _noting(self, path: str) -> Any:
        def called(*_: Any) -> None:
            if path in self.idle:
                self.idle.pop(path).remove()

        return called
