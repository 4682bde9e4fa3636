"""The engine whose LLM runs in vLLM: media and text become embeddings here, vLLM continues them.

A thread for each running request reads vLLM's stream. vLLM batches the requests by itself.

Shapes: T tokens of a prompt, D width.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor

from omnivit.contracts.generate import stopping
from omnivit.data.chat import Chat
from omnivit.data.collate import EncodedSample, collate
from omnivit.engine import Finish, Generation, Request
from omnivit.engine.media import MediaCache
from omnivit.engine.request import require_place, require_room
from omnivit.engine.row import Row
from omnivit.errors import DataError
from omnivit.model.omni import OmniModel
from omnivit.serve.vllm.client import Answer, BackendError, Client
from omnivit.serve.vllm.prompts import encoded, ids_of, options_of, step_of

_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length"}
_ENGINES: weakref.WeakSet[VllmEngine] = weakref.WeakSet()
"""Those whose threads may run when the process ends."""


class VllmEngine:
    """Answers requests through vLLM.

    Args:
        model: in `eval()`; its LLM needs embeddings alone.
        chat: of the model.
        client: of vLLM.
        name: of the model there.
        context: the most tokens that vLLM attends to; None: not known.
        slots: the most requests that vLLM gets at the same time.
        queue: the most requests that wait besides.
        media_cache_mb: as of `omnivit.engine.Engine`.
    """

    def __init__(
        self,
        model: OmniModel,
        chat: Chat,
        client: Client,
        name: str,
        *,
        context: int | None = None,
        slots: int = 8,
        queue: int = 64,
        media_cache_mb: int = 256,
    ) -> None:
        self.model, self.chat, self.client, self.name = model, chat, client, name
        self.context, self.slots, self.queue = context, slots, queue
        self._media = MediaCache(model, media_cache_mb)
        self._stopped: Any = stopping(model.llm.tokenizer(), chat.stop_texts) if chat.stop_texts else None
        self._turn, self._changed = threading.Lock(), threading.Condition()
        self._waiting: deque[Generation] = deque()
        self._running: dict[Generation, Answer | None] = {}
        self._tokens = 0
        self._closed = False
        _ENGINES.add(self)

    def submit(self, request: Request) -> Generation:
        """Take a request; its answer comes through what is returned.

        Raises:
            DataError: prompt and answer do not fit into the context that vLLM was started with.
            EngineBusy: the queue is full.
            EngineClosed: the engine is closed.
        """
        require_room(request, self.context, f"vLLM's context of {self.context} (`--max-model-len`)")
        generation = Generation(request, self._cancelled)
        with self._changed:
            require_place(self._closed, len(self._running), len(self._waiting), self.slots + self.queue)
            self._waiting.append(generation)
            self._begin()
        return generation

    def stats(self) -> dict[str, Any]:
        """As `omnivit.engine.Engine.stats`; `kind` is "vllm"."""
        with self._changed:
            return {
                "kind": "vllm",
                "running": len(self._running),
                "waiting": len(self._waiting),
                "tokens": self._tokens,
                **self._media.stats(),
            }

    def close(self) -> None:
        """Cancel all requests, and take no more."""
        with self._changed:
            self._closed = True
            generations = [*self._waiting, *self._running]
        for generation in generations:
            generation.cancel()
        with self._changed:
            self._changed.wait_for(lambda: not self._running)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Inside, encoders and adapters are the caller's."""
        with self._turn:
            yield

    def _begin(self) -> None:
        """Start waiting requests, as many as may run; the lock is held."""
        while self._waiting and len(self._running) < self.slots:
            generation = self._waiting.popleft()
            self._running[generation] = None
            threading.Thread(target=self._answer, args=(generation,), name="omnivit-vllm", daemon=True).start()

    def _cancelled(self, generation: Generation) -> None:
        with self._changed:
            waits = generation in self._waiting
            if waits:
                self._waiting.remove(generation)
            answer = self._running.get(generation)
        if waits:
            generation.end("cancelled")
        elif answer is not None:
            answer.close()

    def _answer(self, generation: Generation) -> None:
        """The thread of a request."""
        row = Row(generation, self.chat, self._stopped, torch.device("cpu"))
        try:
            if not generation.cancelled:
                self._follow(row)
        except Exception as error:
            row.error = error
        finally:
            with self._changed:
                self._tokens += len(row.ids)
                del self._running[generation]
                self._begin()
                self._changed.notify_all()
            row.close()

    def _follow(self, row: Row) -> None:
        """Give a request the tokens of vLLM until its answer ends."""
        request = row.request
        prompt = encoded(self._embedded(request.prompt))
        body = {"model": self.name, "prompt_embeds": prompt, **options_of(request, frozenset(self.chat.stop_ids))}
        base, finish = self.client.address.base, None
        with closing(self.client.stream(body)) as answer:
            with self._changed:
                self._running[row.generation] = answer
            for event in answer if not row.generation.cancelled else ():
                for choice in event.get("choices") or ():
                    for place in range(len(ids_of(choice, base))):
                        row.put(step_of(choice, place, request.logprobs, base))
                        if row.leaves:
                            return
                    finish = choice.get("finish_reason") or finish
        if row.finish is None and not row.generation.cancelled:
            if finish not in _FINISH:
                raise BackendError(f"vLLM at {base} ended an answer early: {finish}. Its log has the reason.")
            row.finish = _FINISH[finish]

    @torch.inference_mode()
    def _embedded(self, prompt: EncodedSample) -> Tensor:
        """A prompt -> its embeddings [T, D].

        Raises:
            DataError: its tokens do not stand at the positions 0, 1, 2, ..., which vLLM gives them.
        """
        with self.exclusive():
            device = next(self.model.parameters()).device
            batch = collate([prompt], tuple(self.model.encoders), self.chat.pad_id, pad_left=True).to(device)
            positions = batch.position_ids[0]
            if not bool((positions == torch.arange(len(positions), device=device)).all()):
                raise DataError(f"{prompt.name}: vLLM gives tokens the positions 0, 1, 2, ..., this prompt has others.")
            embeds, _ = self.model.embed(batch, self._media.features(batch, [prompt]))
            return embeds[0]


@atexit.register
def _close_all() -> None:
    """Python kills threads at its end, and PyTorch ends the process with an error if one is inside it then."""
    for engine in list(_ENGINES):
        engine.close()
