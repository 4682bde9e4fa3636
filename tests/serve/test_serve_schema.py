"""Requests that schemathesis makes up from the published schema: none is a server error, and every answer is declared.

What is not checked is that every request which fits the schema is accepted: JSON Schema cannot say that a slot is one
of the model's, that a base64 text is an image, or that a prompt fits into the context.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serve_support import Server, another

from omnivit.serve.schema import REFUSED

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 20
KEY = "secret"
TURNS = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def small(server: Server) -> Iterator[Server]:
    """A server whose answers are short, and that asks for its key."""
    with another(server, api_key=KEY, default_tokens=2, max_choices=2, slots=4, queue=8) as short:
        yield short


def shortened(case: schemathesis.Case) -> None:
    """Keep answers short."""
    if isinstance(case.body, dict):
        for name, most in (("max_tokens", 2), ("max_completion_tokens", 2), ("n", 3)):
            if isinstance(case.body.get(name), int):
                case.body[name] = min(case.body[name], most)


def addressed(case: schemathesis.Case, number: int) -> None:
    """Ask the model that is there; every second time so that nothing of what is refused by name is in the request."""
    assert isinstance(case.body, dict)
    case.body |= {"model": "any", "messages": [*(case.body["messages"][:2] if number % 2 else ()), *TURNS]}
    if number % 2 == 0:
        case.body = {name: value for name, value in case.body.items() if name not in REFUSED}


def test_no_request_is_a_server_error(small: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{small.url}/openapi.json", headers={"Authorization": f"Bearer {KEY}"})
    seen: Counter[int] = Counter()

    def asks(operation: schemathesis.schemas.APIOperation, mode: GenerationMode) -> Callable[[], None]:
        post = operation.method == "post"

        @settings(
            max_examples=EXAMPLES if post else 3,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def asked(case: schemathesis.Case) -> None:
            shortened(case)
            if post and mode == GenerationMode.POSITIVE:
                addressed(case, sum(seen.values()))
            response = case.call(headers={"Authorization": f"Bearer {KEY}"}, timeout=30)
            seen[response.status_code] += 1
            case.validate_response(response, checks=CHECKS)

        return asked

    for operation in (result.ok() for result in schema.get_all_operations()):
        asks(operation, GenerationMode.POSITIVE)()
        if operation.body:  # else there is nothing that can be wrong: any text may be the name of a model
            asks(operation, GenerationMode.NEGATIVE)()
    assert {200, 400, 404} <= seen.keys() and max(seen) < 500, seen
    assert seen[200] >= 10, "else hardly a request has reached the model"
