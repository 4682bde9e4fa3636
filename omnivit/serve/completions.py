"""`POST /v1/chat/completions`: from a request to an answer, complete or streamed as events.

A thread for each answer reads the engine's tokens, because they come from a thread; the event loop only passes on what
is ready, and looks whether the client is still there.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from omnivit.contracts.sample import Message
from omnivit.media.image_decode import images_of_strangers
from omnivit.run.answering import Answering
from omnivit.run.assistant import Assistant
from omnivit.run.prompts import Prompt
from omnivit.serve.asked import Asked, asked_of
from omnivit.serve.failures import ApiError, failure_of, json_response
from omnivit.serve.fetch import fetch
from omnivit.serve.inputs import Input
from omnivit.serve.metrics import Metrics
from omnivit.serve.parts import PartReader
from omnivit.serve.places import Places
from omnivit.serve.schema import ChatRequest
from omnivit.serve.settings import Settings
from omnivit.serve.written import Tokens, choice_of, usage_of

POLL = 0.2
"""Seconds between two looks whether the client is still there."""
T = TypeVar("T")
Event = tuple[int, dict[str, Any] | None]
"""Number of a choice, and a part of it for a chunk; None: the choice is complete."""


class _Gone(Exception):
    """The client does not wait for the answer any more."""


class _Stream(StreamingResponse):
    """Events; whatever ends it, the answers that still grow are cancelled."""

    def __init__(self, events: AsyncIterator[str], end: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx would collect the events
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self.end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.end()


class Completions:
    """Answers chat requests.

    Args:
        assistant: answers.
        settings: of the server.
        metrics: counts.
        inputs: of the model.
    """

    def __init__(self, assistant: Assistant, settings: Settings, metrics: Metrics, inputs: Sequence[Input]) -> None:
        self.assistant, self.settings, self.metrics, self.inputs = assistant, settings, metrics, tuple(inputs)
        self._tokens = Tokens(assistant.model.llm.tokenizer())
        self.places = Places(settings.places)
        self._readers = ThreadPoolExecutor(settings.places, "omnivit-answer")
        # one for each request that is let in: media that come slowly from elsewhere hold nobody else up
        self._starters = ThreadPoolExecutor(settings.places, "omnivit-start")
        self._preparing = threading.Lock()  # of media: those of many requests at once would need much memory

    def close(self) -> None:
        """Cancel all answers; from now on requests are refused with status 503."""
        self.places.close()
        self.assistant.engine.close()
        self._readers.shutdown(cancel_futures=True)
        self._starters.shutdown(cancel_futures=True)

    async def answer(self, body: ChatRequest, request: Request) -> Response:
        """Answer a request.

        Raises:
            ApiError: the request is refused, or fails.
        """
        begun = time.monotonic()
        asked = asked_of(body, self.settings)
        try:
            running = await self._begun(body, asked, request, begun)
            if asked.stream:
                return _Stream(running.events(), running.end)
            try:
                return json_response(await running.complete())
            finally:
                running.end()
        except _Gone as error:  # nobody reads the answer; the number is nginx's, for the metrics
            raise ApiError("The client has left.", 499, code="client_left") from error
        except Exception as error:
            raise failure_of(error) from error

    async def _begun(self, body: ChatRequest, asked: Asked, request: Request, begun: float) -> _Running:
        """All answers to a request, begun; they keep its places until they end."""
        self.places.take(asked.count)
        future = self._starters.submit(self._started, body, asked)
        try:
            answerings = await self._in_time(future, request, begun)
            return _Running(self, asked, answerings, request, begun)
        except BaseException:
            # the place is taken as long as the thread is: a client that comes and goes must not fill all threads
            future.add_done_callback(partial(self._abandoned, asyncio.get_running_loop(), asked.count))
            raise

    def _abandoned(self, loop: asyncio.AbstractEventLoop, count: int, future: Future[list[Answering]]) -> None:
        """Cancel answers that were begun for a client who is not there any more, and free their places."""
        with suppress(BaseException):
            for answering in future.result():
                answering.cancel()
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self.places.free, count)

    def _started(self, body: ChatRequest, asked: Asked) -> list[Answering]:
        """Read the media and begin all answers, or none."""
        answerings: list[Answering] = []
        try:
            messages = PartReader(self.inputs, self.settings, fetch).messages(body.messages)
            prompt = self._prepared(messages, asked)
            for number in range(asked.count):
                answerings.append(self._begin(prompt, asked, number))
        except BaseException as error:
            for answering in answerings:
                answering.cancel()
            if isinstance(error, Exception) and self.settings.media_root is not None:
                raise self._without_root(failure_of(error)) from error
            raise
        return answerings

    def _prepared(self, messages: Sequence[Message], asked: Asked) -> Prompt:
        has_media = any(True for turn in messages for _ in turn.media())
        # text does not wait for the media of others
        lock: AbstractContextManager[Any] = self._preparing if has_media else nullcontext()
        with lock, images_of_strangers():
            return self.assistant.prepare(messages, max_new_tokens=asked.max_tokens)

    def _begin(self, prompt: Prompt, asked: Asked, number: int) -> Answering:
        sampling = asked.sampling
        if sampling.seed is not None:  # the first answer is that of a request for one
            sampling = replace(sampling, seed=(sampling.seed + number) % 2**63)
        return self.assistant.begin(
            prompt, max_new_tokens=asked.max_tokens, sampling=sampling, stop=asked.stop, logprobs=asked.logprobs
        )

    def _without_root(self, error: ApiError) -> ApiError:
        """The same without the place of the media folder on this machine."""
        assert self.settings.media_root is not None
        root = str(self.settings.media_root.resolve())
        error.message = error.message.replace(f"{root}/", "").replace(root, "the media folder")
        return error

    async def _in_time(self, future: Future[T], request: Request, begun: float) -> T:
        """The result of some work in a thread.

        Raises:
            ApiError: it takes longer than a request may.
            _Gone: the client has left.
        """
        waiting = asyncio.wrap_future(future)
        while not (await asyncio.wait({waiting}, timeout=POLL))[0]:
            self.check_time(begun)
            if await request.is_disconnected():
                raise _Gone
        return waiting.result()

    def check_time(self, begun: float) -> None:
        """Raises ApiError where a request takes longer than it may."""
        if time.monotonic() - begun > self.settings.timeout_s:
            raise ApiError(
                f"The answer was not complete within {self.settings.timeout_s:g} seconds (--timeout). Ask for fewer "
                "tokens, or ask again later.",
                504,
                code="timeout",
            )


class _Running:
    """The answers to one request while they grow."""

    def __init__(
        self, server: Completions, asked: Asked, answerings: Sequence[Answering], request: Request, begun: float
    ) -> None:
        self.server, self.asked, self.answerings = server, asked, tuple(answerings)
        self.request, self.begun = request, begun
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._ended = False
        for number, answering in enumerate(self.answerings):
            server._readers.submit(self._read, number, answering)

    def end(self) -> None:
        """Cancel what still grows, and count."""
        if self._ended:
            return
        self._ended = True
        self.server.places.free(self.asked.count)
        for answering in self.answerings:
            cut_short = not answering.generation.done
            answering.cancel()
            count = 0
            with suppress(Exception):  # the error of a request that failed has been answered already
                count = len(answering.generated.ids) if not cut_short else 0
            seconds = time.monotonic() - self.begun
            self.server.metrics.generated(answering.prompt_tokens, answering.media_tokens, count, seconds, cut_short)

    async def complete(self) -> dict[str, Any]:
        """The body of a complete answer."""
        choices: dict[int, dict[str, Any]] = {}
        async for number, part in self._parts():
            if part is not None and part["final"]:
                choices[number] = part["final"]
        return {
            **self.head,
            "object": "chat.completion",
            "choices": [{"index": number, **choices[number]} for number in sorted(choices)],
            "usage": usage_of(self.answerings),
        }

    async def events(self) -> AsyncIterator[str]:
        """The frames of a streamed answer."""
        usage = {"usage": None} if self.asked.include_usage else {}
        try:
            for number in range(len(self.answerings)):
                yield self._frame(number, {"role": "assistant", "content": ""}, None, usage)
            async for number, part in self._parts():
                if part is None:
                    continue
                if part["text"] or part["logprobs"]:
                    yield self._frame(number, {"content": part["text"]}, part["logprobs"], usage)
                if final := part["final"]:
                    extra = {key: final[key] for key in ("finish_reason", "predictions", "boxes", "points")}
                    yield self._frame(number, {}, None, usage, extra)
            if self.asked.include_usage:
                total = {"choices": [], "usage": usage_of(self.answerings)}
                yield f"data: {json.dumps({**self.head, 'object': 'chat.completion.chunk', **total})}\n\n"
        except _Gone:
            return
        except Exception as error:  # the status is sent already; clients read errors in the stream, too
            yield f"data: {json.dumps(failure_of(error).body())}\n\n"
            return
        finally:
            self.end()
        yield "data: [DONE]\n\n"

    def _frame(
        self,
        number: int,
        delta: Mapping[str, Any],
        logprobs: Sequence[dict[str, Any]] | None,
        usage: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        content = {"content": logprobs, "refusal": None} if logprobs else None
        choice = {"index": number, "delta": delta, "logprobs": content, "finish_reason": None, **(extra or {})}
        chunk = {**self.head, "object": "chat.completion.chunk", "choices": [choice], **usage}
        return f"data: {json.dumps(chunk, allow_nan=False)}\n\n"

    async def _parts(self) -> AsyncIterator[Event]:
        """What the threads read, until all answers are complete."""
        left, first, looked = len(self.answerings), True, time.monotonic()
        while left:
            event: Event | BaseException | None = None
            with suppress(TimeoutError, asyncio.TimeoutError):
                event = await asyncio.wait_for(self._events.get(), POLL)
            if time.monotonic() - looked >= POLL:  # also while tokens come one after the other
                looked = time.monotonic()
                self.server.check_time(self.begun)
                if await self.request.is_disconnected():
                    raise _Gone
            if event is None:
                continue
            if isinstance(event, BaseException):
                raise event
            left -= event[1] is None
            if first:
                self.server.metrics.first_token(time.monotonic() - self.begun)
                first = False
            yield event

    def _read(self, number: int, answering: Answering) -> None:
        """The thread of an answer."""
        try:
            every: list[dict[str, Any]] = []
            for text, steps in answering.pieces():
                logprobs = self.server._tokens.logprobs(steps) if self.asked.logprobs is not None else []
                every += logprobs
                self._put((number, {"text": text, "logprobs": logprobs, "final": None}))
            if answering.generated.finish == "cancelled":
                raise ApiError("The server is stopping.", 503, code="stopping")
            with images_of_strangers():  # boxes in pixels need the size of an image
                final = choice_of(answering, every if self.asked.logprobs is not None else None)
            self._put((number, {"text": "", "logprobs": [], "final": final}))
            self._put((number, None))
        except BaseException as error:
            self._put(error)

    def _put(self, event: Event | BaseException) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
