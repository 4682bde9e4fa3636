"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}} with the status that clients expect."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from omnivit.errors import DataError, OmniVitError, RecipeError, suggest
from omnivit.serve.vllm.client import BackendError

RETRY_AFTER = "1"
"""Seconds after which a client that was refused because of load may ask again."""
KINDS: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request_error", "The request is wrong: a field, a content part, or a medium."),
    401: ("authentication_error", "The API key is missing or wrong."),
    403: ("permission_error", "The request comes from a web page of another origin."),
    404: ("not_found_error", "There is no such model or path."),
    405: ("invalid_request_error", "The path does not take this method."),
    408: ("timeout_error", "The body of the request did not arrive in time."),
    413: ("request_too_large", "The body, or a medium in it, is larger than the server's limit."),
    429: ("rate_limit_error", "The queue is full. Ask again after the seconds in `Retry-After`."),
    499: ("invalid_request_error", "The client has left before the answer. Only a client that reads on sees it."),
    500: ("server_error", "A defect of the model, of a plugin or of OmniViT. The server's log has the details."),
    503: ("server_error", "The server is stopping, or the LLM's server behind it (`--backend`) does not answer."),
    504: ("timeout_error", "The answer was not complete in time."),
}
"""Status -> the type of its errors, and what it means."""
UNREADABLE = "There was an error parsing the body"
"""What FastAPI says of a body that Python's parser fails on."""
_log = logging.getLogger("omnivit.serve")


class Failure(BaseModel):
    """What failed."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class FailureResponse(BaseModel):
    """The body of every response that is not successful."""

    error: Failure


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        message: what is wrong, and what to do.
        status: of the response; see `KINDS`.
        param: the field of the request that is wrong.
        code: a short name of the reason, for programs.
    """

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code

    def body(self) -> dict[str, Any]:
        """The error as clients read it."""
        kind = KINDS.get(self.status, KINDS[500 if self.status >= 500 else 400])[0]
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The error as a response."""
        headers = {"Retry-After": RETRY_AFTER} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return json_response(self.body(), self.status, headers)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: a text with half a surrogate pair cannot make the response itself fail."""
    return Response(json.dumps(content, allow_nan=False), status, dict(headers or {}), "application/json")


def failure_of(error: BaseException) -> ApiError:
    """The error that a client is answered with; what is no fault of the request goes to the log."""
    if isinstance(error, ApiError):
        return error
    from omnivit.engine.request import EngineBusy, EngineClosed  # imports torch, which the desk does without

    text = str(error).removeprefix("sample 'question': ")
    if isinstance(error, EngineBusy):
        return ApiError(text, 429, code="queue_full")
    if isinstance(error, BackendError):  # its text names addresses that are no business of the client's
        _log.error("the backend failed: %s", error)
        return ApiError(
            "The LLM's server behind this one does not answer, or refused the prompt. The log of this server has the "
            "reason, under the request id.",
            503,
            code="backend",
        )
    if isinstance(error, (DataError, RecipeError)):
        too_long = "context" in text and "tokens" in text
        return ApiError(text, 400, "messages", "context_length_exceeded" if too_long else "invalid_content")
    if isinstance(error, EngineClosed):
        return ApiError("The server is stopping.", 503, code="stopping")
    _log.error("a request failed", exc_info=error)
    return ApiError("The server could not answer. Its log has the reason, under the request id.", 500, code="internal")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for the schema."""
    return {status: {"model": FailureResponse, "description": KINDS[status][1]} for status in statuses}


def install(app: FastAPI) -> None:
    """Let the app answer all errors in this form."""

    async def refused(_: Request, error: Exception) -> Response:
        return failure_of(error).response()

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _explained(error.errors()).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = _of_routing(error, request).response()
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(OmniVitError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _of_routing(error: HTTPException, request: Request) -> ApiError:
    """An error of FastAPI or of a route, with more to it than the name of the status."""
    status, text, path = error.status_code, str(error.detail), request.url.path
    if text != HTTPStatus(status).phrase and text != UNREADABLE:
        return ApiError(text, status)
    if status == 404:
        return ApiError(f"There is no path {path[:100]!r}; /docs lists the paths.", 404, code="path_not_found")
    if status == 405:
        allowed = (error.headers or {}).get("Allow", "other methods")
        return ApiError(f"{path[:100]} takes {allowed}, not {request.method}.", 405, code="method_not_allowed")
    if text == UNREADABLE:
        return ApiError(
            "The body cannot be read as JSON: it is nested too deeply, or has a number of too many digits.",
            code="invalid_json",
        )
    return ApiError(text, status)


def _explained(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first error of a validation, in words."""
    first = errors[0]
    steps = [step for step in first.get("loc", ()) if step not in ("body", "query", "path", "header")]
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", first["msg"])
        return ApiError(f"The body is not JSON: {reason}.", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return ApiError(
            f"There is no field {param!r}; {suggest(str(steps[-1]), known_fields(steps))}", 400, param, "unknown_field"
        )
    where = f"{param}: " if param else "The body: "
    return ApiError(f"{where}{first['msg']}.", 400, param or None, "invalid_value")


def known_fields(steps: Sequence[Any]) -> list[str]:
    """The fields of the object that an unknown one stands in."""
    from omnivit.serve.schema import ChatRequest, StreamOptions, Turn

    models: dict[str, type[BaseModel]] = {"messages": Turn, "stream_options": StreamOptions}
    model = models.get(str(steps[0]), ChatRequest) if len(steps) > 1 else ChatRequest
    return list(model.model_fields)
