"""An assistant whose LLM runs in vLLM: what `--backend vllm` does before the server starts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from omnivit.serve.settings import Settings
from omnivit.serve.vllm.address import Address
from omnivit.serve.vllm.client import Client

if TYPE_CHECKING:
    from omnivit.run.assistant import Assistant
    from omnivit.serve.vllm.engine import VllmEngine


class Backend:
    """A server of vLLM that answers.

    Raises:
        BackendError: it does not, or has no such model.
    """

    def __init__(self, address: Address) -> None:
        self.client = Client(address)
        record = self.client.model()
        self.name = str(record["id"])
        limit: Any = record.get("max_model_len")
        self.context = limit if isinstance(limit, int) else None

    def engine(self, assistant: Assistant, settings: Settings) -> VllmEngine:
        """The engine of an assistant, whose LLM is freed here except for its table of embeddings.

        Args:
            assistant: opened completely, so that what vLLM serves can be compared with it.
            settings: its `slots` and `queue` are the engine's.

        Raises:
            RecipeError: vLLM could not answer as the model does.
            BackendError: it serves another model, or does not take embeddings.
        """
        from omnivit.serve.vllm.engine import VllmEngine
        from omnivit.serve.vllm.halves import release_layers, require_halves
        from omnivit.serve.vllm.trial import trial

        llm = require_halves(assistant)
        difference = trial(assistant, self.client, self.name)
        print(
            f"vLLM at {self.client.address.base} serves {self.name}: log-probabilities of a trial differ from those of "
            f"this run by at most {difference:.2g}",
            file=sys.stderr,
            flush=True,
        )
        release_layers(llm, self.context)
        return VllmEngine(
            assistant.model,
            assistant.preparer.chat,
            self.client,
            self.name,
            context=self.context,
            slots=settings.slots,
            queue=settings.queue,
        )
