"""Prompts and tokens as vLLM's completions have them.

Shapes: T tokens of a prompt, D width.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from omnivit.engine import Request, Step
from omnivit.serve.vllm.client import BackendError

_TOKEN = "token_id:"
"""What vLLM writes before the id of a token, where ids are asked for."""


def encoded(embeds: Tensor) -> str:
    """Embeddings [T, D] as `prompt_embeds`: a tensor file of PyTorch in base64."""
    buffer = io.BytesIO()
    torch.save(embeds.detach().cpu().clone(), buffer)  # a copy: else the file would hold all that the view is part of
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def options_of(request: Request, stop_ids: frozenset[int]) -> dict[str, Any]:
    """How vLLM chooses tokens. Every setting that it would take from the model's folder is named.

    Args:
        request: stop texts are looked for here, where the answer's tokens are decoded.
        stop_ids: tokens that end an answer.
    """
    sampling = request.sampling
    options: dict[str, Any] = {
        "max_tokens": request.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "ignore_eos": True,  # the recipe says what ends an answer
        "stop_token_ids": sorted(stop_ids),
        "return_token_ids": True,
        "skip_special_tokens": False,
    }
    if sampling.seed is not None:
        options["seed"] = sampling.seed
    if request.logprobs is not None:
        options |= {"logprobs": request.logprobs, "return_tokens_as_token_ids": True}
    return options


def ids_of(choice: Mapping[str, Any], base: str) -> list[int]:
    """The new tokens of a choice. Raises BackendError where it has none: vLLM is too old."""
    ids = choice.get("token_ids")
    if not isinstance(ids, list) or not all(isinstance(id, int) for id in ids):
        raise BackendError(f"vLLM at {base} returns no `token_ids`. Use vLLM 0.32 or newer.")
    return ids


def step_of(choice: Mapping[str, Any], place: int, count: int | None, base: str) -> Step:
    """A token of a choice, with its log-probability and the `count` likeliest alternatives, where they were asked for.

    Raises:
        BackendError: they are not in the choice.
    """
    id = ids_of(choice, base)[place]
    if count is None:
        return Step(id)
    try:
        logprobs = choice["logprobs"]
        value, alternatives = logprobs["token_logprobs"][place], logprobs["top_logprobs"][place]
        top = [(int(token.removeprefix(_TOKEN)), float(each)) for token, each in alternatives.items()]
        # beside the likeliest ones vLLM lists the token itself
        top = sorted(top, key=lambda pair: (-pair[1], pair[0]))[:count]
        return Step(id, float(value), tuple(top))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise BackendError(f"vLLM at {base} returns no log-probabilities: {error!r}.") from error
