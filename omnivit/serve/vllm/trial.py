"""Whether vLLM serves the LLM of this run: one prompt, answered here and there.

Shapes: T tokens of the prompt, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from omnivit.contracts.sample import Message, Sample, Text
from omnivit.run.assistant import Assistant
from omnivit.serve.vllm.address import REMEDY
from omnivit.serve.vllm.client import BackendError, Client
from omnivit.serve.vllm.prompts import encoded, step_of

COUNT = 5
"""Log-probabilities that are compared."""
LARGEST = 1.0
"""The largest difference of log-probabilities that rounding explains, with weights of 8 bits, too."""


@torch.inference_mode()
def trial(assistant: Assistant, client: Client, name: str) -> float:
    """The largest difference of the likeliest next tokens' log-probabilities after a short question.

    Args:
        assistant: with the complete LLM.
        client: of vLLM.
        name: of the model there.

    Raises:
        BackendError: vLLM serves another model, or does not take embeddings.
    """
    prompt = assistant.preparer(Sample("trial", (Message("user", (Text("Hello"),)),)), generate=True)
    batch = assistant._collate([prompt])
    last = torch.zeros_like(batch.attention_mask)
    last[:, -1] = True
    embeds, context = assistant.model.embed(batch)
    output = assistant.model.llm(embeds, batch.attention_mask, batch.position_ids, last, context)
    ours = output.logits[0].float().log_softmax(dim=-1).cpu()
    body: dict[str, Any] = {"model": name, "max_tokens": 1, "temperature": 0}
    base = client.address.base
    try:
        client.complete({**body, "prompt": [len(ours) - 1]})  # vLLM refuses ids beyond its vocabulary
        options = {"logprobs": COUNT, "return_tokens_as_token_ids": True, "return_token_ids": True}
        content = client.complete({**body, **options, "prompt_embeds": encoded(embeds[0])})
    except BackendError as error:
        if error.status not in (400, 422):
            raise
        raise BackendError(
            f"{error} The LLM of this run has {len(ours)} tokens and the width {embeds.shape[-1]}. If vLLM serves "
            f"another model: {REMEDY}",
            error.status,
        ) from error
    theirs = dict(step_of(content["choices"][0], 0, COUNT, base).top)
    if not theirs or max(theirs) >= len(ours):
        raise BackendError(f"vLLM at {base} reports log-probabilities of other tokens than this run has. {REMEDY}")
    difference = max(abs(float(ours[id]) - value) for id, value in theirs.items())
    if not difference <= LARGEST:
        raise BackendError(
            f"vLLM at {base} serves {name}, which is not the LLM of this run: after a short question the "
            f"log-probabilities of the likeliest tokens differ by up to {difference:.2g}. {REMEDY}"
        )
    return difference
