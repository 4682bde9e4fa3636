"""Answers as the API writes them: choices, log-probabilities with the bytes of tokens, and usage."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from omnivit.engine import Step
from omnivit.run.answering import Answering

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST = -9999.0
"""What OpenAI's API writes for the logarithm of a probability of 0."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokens:
    """Texts and bytes of tokens. A token may be a part of a character, which has bytes and no text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._added = {id: token.content for id, token in tokenizer.added_tokens_decoder.items()}
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        decoder = json.dumps(json.loads(backend.to_str()).get("decoder")) if backend is not None else ""
        self._alphabet = {char: value for value, char in byte_alphabet().items()} if "ByteLevel" in decoder else None
        self.bytes_of = lru_cache(maxsize=65536)(self._bytes_of)

    def _bytes_of(self, id: int) -> bytes:
        """The bytes that a token stands for."""
        if id in self._added:
            return self._added[id].encode()
        token = str(self._tokenizer.convert_ids_to_tokens(id))
        if self._alphabet is not None and all(char in self._alphabet for char in token):
            return bytes(self._alphabet[char] for char in token)
        if match := _BYTE.fullmatch(token):
            return bytes([int(match.group(1), 16)])
        return token.replace("\u2581", " ").encode()

    def logprobs(self, steps: Sequence[Step]) -> list[dict[str, Any]]:
        """Tokens of an answer with their log-probabilities and alternatives."""
        return [
            {**self._entry(step.id, step.logprob), "top_logprobs": [self._entry(id, value) for id, value in step.top]}
            for step in steps
        ]

    def _entry(self, id: int, logprob: float | None) -> dict[str, Any]:
        content = self.bytes_of(id)
        value = LEAST if logprob is None or not math.isfinite(logprob) else logprob
        return {"token": content.decode("utf-8", "replace"), "logprob": value, "bytes": list(content)}


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[int, str]:
    """Byte -> the character that byte-level tokenizers (GPT-2's and its followers') write for it.

    Printable characters of Latin-1 stand for themselves; the other bytes are the characters from U+0100 on, in order.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(256) if value not in printable]
    return {value: chr(value) for value in printable} | {value: chr(256 + k) for k, value in enumerate(others)}


def choice_of(answering: Answering, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
    """A complete answer, with what the heads read off it."""
    reply = answering.reply()
    return {
        "message": {"role": "assistant", "content": reply.text, "refusal": None},
        "finish_reason": answering.generated.finish,
        "logprobs": None if logprobs is None else {"content": logprobs, "refusal": None},
        "predictions": [{"head": given.head, "value": finite(given.plain())} for given in reply.predictions],
        "boxes": finite(reply.boxes),
        "points": finite(reply.points),
    }


def finite(value: Any) -> Any:
    """A value that JSON can hold: None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(name): finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def usage_of(answerings: Sequence[Answering]) -> dict[str, Any]:
    """The tokens of one prompt and of all its answers."""
    prompt = answerings[0].prompt_tokens
    completion = sum(len(answering.generated.ids) for answering in answerings)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {f"{slot}_tokens": count for slot, count in answerings[0].media_tokens.items()},
    }
