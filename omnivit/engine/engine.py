"""The engine thread: takes requests of many callers and lets one model answer them."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from omnivit.contracts.batch import Batch
from omnivit.contracts.context import Context
from omnivit.contracts.generate import stopping
from omnivit.contracts.llm import LanguageModel
from omnivit.data.chat import Chat
from omnivit.data.collate import collate
from omnivit.engine.alone import continued
from omnivit.engine.media import MediaCache
from omnivit.engine.request import Generation, Request, require_place, require_room
from omnivit.engine.row import Row
from omnivit.engine.running import Running
from omnivit.model.omni import OmniModel

LINGER = 1.0
"""Seconds that the thread waits for another request before it ends; the next request starts a new one."""
PREFILL = 8192
"""Most tokens of prompts, padding included, that are computed together: while they are, running requests rest."""
_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()
"""Those whose thread may run when the process ends."""
_log = logging.getLogger(__name__)


class Engine:
    """Answers requests in a thread of its own, which runs while there are requests.

    Args:
        model: in `eval()`.
        chat: of the model.
        slots: the most requests that run together.
        queue: the most requests that wait besides.
        media_cache_mb: memory for encoded media that later requests may use again, in MB; 0: none.
    """

    def __init__(
        self, model: OmniModel, chat: Chat, *, slots: int = 8, queue: int = 64, media_cache_mb: int = 256
    ) -> None:
        self.model, self.chat, self.slots, self.queue = model, chat, slots, queue
        self.inputs = tuple(model.encoders)
        self._media = MediaCache(model, media_cache_mb)
        self._together: Running | None = None
        self._alone = False
        self._stopped: Any = None
        self._changed = threading.Condition()
        self._waiting: deque[Generation] = deque()
        self._running: list[Row] = []
        self._tokens = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self._turn = threading.Condition()
        self._guests, self._in_use = 0, False
        _ENGINES.add(self)

    def submit(self, request: Request) -> Generation:
        """Take a request; its answer comes through what is returned.

        Raises:
            DataError: prompt and answer do not fit into the LLM's context.
            EngineBusy: the queue is full.
            EngineClosed: the engine is closed.
        """
        context = self._llm.context
        require_room(request, context, f"the LLM's context of {context}")
        generation = Generation(request, self._cancelled)
        with self._changed:
            require_place(self._closed, len(self._running), len(self._waiting), self.slots + self.queue)
            self._waiting.append(generation)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="omnivit-engine", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return generation

    def stats(self) -> dict[str, Any]:
        """What the engine does now, and has done.

        Returns:
            `kind`: "continuous", or "one at a time" where no request can join others (known after the first request);
            `running` and `waiting` requests; `tokens` so far, of all answers; `media_hits`, `media_misses` and
            `media_mb` of the media that are kept.
        """
        with self._changed:
            return {
                "kind": "one at a time" if self._alone else "continuous",
                "running": len(self._running),
                "waiting": len(self._waiting),
                "tokens": self._tokens + sum(len(row.ids) for row in self._running),
                **self._media.stats(),
            }

    def close(self) -> None:
        """Cancel all requests, and take no more."""
        with self._changed:
            self._closed = True
            generations = [*self._waiting, *(row.generation for row in self._running)]
            thread = self._thread
            self._changed.notify_all()
        for generation in generations:
            generation.cancel()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Inside, the model is the caller's: the engine rests between two of its steps."""
        with self._turn:
            self._guests += 1
            self._turn.wait_for(lambda: not self._in_use)
            self._in_use = True
        try:
            yield
        finally:
            self._hand_back(guests=1)

    def _hand_back(self, guests: int = 0) -> None:
        with self._turn:
            self._guests -= guests
            self._in_use = False
            self._turn.notify_all()

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """As `exclusive`, for the engine itself: others go first."""
        with self._turn:
            self._turn.wait_for(lambda: not self._in_use and not self._guests)
            self._in_use = True
        try:
            yield
        finally:
            self._hand_back()

    @property
    def _llm(self) -> LanguageModel:
        llm = self.model.llm
        assert isinstance(llm, LanguageModel)
        return llm

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _cancelled(self, generation: Generation) -> None:
        with self._changed:
            waits = generation in self._waiting
            if waits:
                self._waiting.remove(generation)
        if waits:
            generation.end("cancelled")

    def _serve(self) -> None:
        try:
            if self.chat.stop_texts and self._stopped is None:
                self._stopped = stopping(self._llm.tokenizer(), self.chat.stop_texts)
            with torch.inference_mode():
                while self._has_work():
                    with self._in_turn():
                        self._work()
        except BaseException as error:  # nobody may wait for a thread that is gone
            _log.exception("the engine thread broke; all of its requests fail")
            self._fail_all(error)

    def _has_work(self) -> bool:
        """Wait for requests; False: there are none, and the thread ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._running or self._closed, LINGER)
            if self._waiting or self._running:
                return True
            self._thread = None
            return False

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            generations = [*(row.generation for row in self._running), *self._waiting]
            self._running.clear()
            self._waiting.clear()
            self._thread = None
        for generation in generations:
            generation.end(None, error)

    def _work(self) -> None:
        """Take waiting requests in, or give those that run a token each."""
        if self._together is None and not self._alone:
            decoding = self._llm.decoding() if self.chat.stop_ids else None
            self._alone = decoding is None
            self._together = None if decoding is None else Running(decoding, self._device)
        if self._together is not None:
            self._close(self._together.leaving())
        rows = self._taken()
        if self._together is None:
            self._answer_alone(rows)
        elif rows:
            self._join(self._together, rows)
        elif self._together.rows:
            self._step(self._together)
        if self._together is not None:
            self._close(self._together.leaving())

    def _taken(self) -> list[Row]:
        """The waiting requests that begin now."""
        rows: list[Row] = []
        with self._changed:
            tokens = 0
            while self._waiting and len(self._running) < (1 if self._alone else self.slots):
                tokens = max(tokens, len(self._waiting[0].request.prompt.ids))
                if rows and tokens * (len(rows) + 1) > PREFILL:
                    break
                rows.append(Row(self._waiting.popleft(), self.chat, self._stopped, self._device))
                self._running.append(rows[-1])
        return rows

    def _join(self, running: Running, rows: list[Row]) -> None:
        """Compute prompts together; where one of them fails, each for itself, so that it fails alone."""
        try:
            batch, embeds, _ = self._embedded(rows)
            running.join(rows, embeds, batch.attention_mask, batch.position_ids)
        except Exception as error:
            if len(rows) == 1:
                self._close(rows, error)
                return
            for row in rows:
                self._join(running, [row])

    def _step(self, running: Running) -> None:
        try:
            running.step()
        except Exception as error:  # it is not known whose token failed
            self._together = None
            self._close(running.rows, error)

    def _answer_alone(self, rows: list[Row]) -> None:
        for row in rows:
            try:
                continued(self.model, self.chat, row, self._embedded([row]), self.inputs)
                self._close([row])
            except Exception as error:
                self._close([row], error)

    def _embedded(self, rows: list[Row]) -> tuple[Batch, Tensor, Context]:
        prompts = [row.request.prompt for row in rows]
        batch = collate(prompts, self.inputs, self.chat.pad_id, pad_left=True).to(self._device)
        return batch, *self.model.embed(batch, self._media.features(batch, prompts))

    def _close(self, rows: list[Row], error: Exception | None = None) -> None:
        with self._changed:
            for row in rows:
                self._tokens += len(row.ids)
                self._running.remove(row)
        for row in rows:
            row.error = row.error or error
            row.close()


@atexit.register
def _close_all() -> None:
    """Python kills threads at its end, and PyTorch ends the process with an error if one is inside it then."""
    for engine in list(_ENGINES):
        engine.close()
