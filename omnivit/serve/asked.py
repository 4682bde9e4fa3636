"""What a request asks for, checked: fields that are refused, limits, and the defaults."""

from __future__ import annotations

from dataclasses import dataclass

from omnivit.engine import Sampling
from omnivit.errors import suggest
from omnivit.serve.failures import ApiError
from omnivit.serve.schema import NEUTRAL, REFUSED, ChatRequest
from omnivit.serve.settings import Settings

MAX_STOPS = 4
"""Most texts that end an answer, as in OpenAI's API."""
MAX_STOP_LENGTH = 256


@dataclass(frozen=True)
class Asked:
    """A request besides its messages."""

    model: str
    count: int
    """The number of answers."""
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    logprobs: int | None
    """The number of alternatives to each token; None: no log-probabilities."""
    stream: bool
    include_usage: bool


def asked_of(body: ChatRequest, settings: Settings) -> Asked:
    """What a request asks for.

    Raises:
        ApiError: another model, a field that is not supported, or values that are too large or contradict each other.
    """
    if body.model != settings.name:
        raise ApiError(
            f"There is no model {body.model[:100]!r}; {suggest(body.model[:100], [settings.name])}",
            404,
            "model",
            "model_not_found",
        )
    _refuse_unsupported(body)
    count = body.n or 1
    most = min(settings.max_choices, settings.places)  # for more there is never a place
    if count > most:
        raise ApiError(f"n is {count}, but the server gives at most {most} answers.", param="n")
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        raise ApiError("max_tokens and max_completion_tokens differ. Keep one of them.", param="max_tokens")
    if body.top_logprobs and not body.logprobs:
        raise ApiError("top_logprobs needs `logprobs: true`.", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise ApiError("stream_options needs `stream: true`.", param="stream_options")
    return Asked(
        model=settings.name,
        count=count,
        max_tokens=body.max_completion_tokens or body.max_tokens or settings.default_tokens,
        sampling=Sampling(body.temperature or 0.0, 1.0 if body.top_p is None else body.top_p, body.seed),
        stop=_stops(body.stop),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )


def _refuse_unsupported(body: ChatRequest) -> None:
    for name, reason in REFUSED.items():
        value = getattr(body, name)
        if value is not None and value not in NEUTRAL.get(name, ()):
            raise ApiError(
                f"{name} is not supported: {reason}. Remove the field.", param=name, code="unsupported_parameter"
            )


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS:
        raise ApiError(f"stop has {len(stops)} texts, but may have at most {MAX_STOPS}.", param="stop")
    if not all(0 < len(text) <= MAX_STOP_LENGTH for text in stops):
        raise ApiError(f"stop has a text that is empty or longer than {MAX_STOP_LENGTH} characters.", param="stop")
    return stops
