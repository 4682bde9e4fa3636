"""What requests and answers contain, as OpenAI's API has it; FastAPI writes the published schema from it.

All official fields of a request are known by name. `REFUSED` has those that would change the answer and are not
supported; a request that sets one is refused, unless to a value of `NEUTRAL`. Those after "these change nothing here"
are ignored. Any other field is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

REFUSED: Mapping[str, str] = {
    "audio": "the model answers with text alone",
    "frequency_penalty": "tokens are chosen by temperature and top_p",
    "function_call": "the model calls no functions",
    "functions": "the model calls no functions",
    "logit_bias": "tokens are chosen by temperature and top_p",
    "modalities": "the model answers with text alone",
    "prediction": "no predicted output is used",
    "presence_penalty": "tokens are chosen by temperature and top_p",
    "reasoning_effort": "how long a model reasons cannot be set",
    "response_format": "the model answers with free text",
    "tool_choice": "the model calls no tools",
    "tools": "the model calls no tools",
    "verbosity": "how long an answer is cannot be set but by max_tokens",
    "web_search_options": "nothing is searched",
}
"""Field -> why it is not supported."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
}
"""Values of those that change nothing, as clients send them."""
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


class Strict(BaseModel):
    """Unknown fields are errors, and no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Turn(Strict):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]] | None = Field(
        None,
        description="Text, or parts: `text`, the types of `GET /v1/models` (`data[0].inputs[].types`), and `refusal`.",
        examples=["Which colour?", [{"type": "text", "text": "Which colour?"}]],
    )
    name: str | None = Field(None, description="Ignored.")
    refusal: str | None = Field(
        None, description="Of an assistant's earlier turn without content: it becomes the text."
    )
    tool_calls: list[Any] | None = Field(None, description="Not supported, unless it is empty.")
    function_call: Any | None = Field(None, description="Not supported.")
    audio: Any | None = Field(None, description="Not supported.")
    annotations: list[Any] | None = Field(None, description="Ignored.")


class StreamOptions(Strict):
    """Options of streamed answers."""

    include_usage: bool | None = Field(None, description="End the stream with a chunk that has `usage`.")
    include_obfuscation: bool | None = Field(None, description="Ignored.")


class ChatRequest(Strict):
    """A request for the next turn of a conversation."""

    model: str = Field(description="The `id` of `GET /v1/models`.")
    messages: list[Turn] = Field(min_length=1, description="The conversation; it ends with a turn of the user.")
    max_tokens: int | None = Field(None, ge=1, description="Maximum length of the answer; default: 256.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of `max_tokens`.")
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, takes the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1, description="Sample from the likeliest tokens of this probability.")
    seed: Seed | None = Field(None, description="Of the draws, to repeat an answer.")
    n: int | None = Field(None, ge=1, le=128, description="The number of answers.")
    stop: str | list[str] | None = Field(None, description="Up to 4 texts that end the answer; they are no part of it.")
    stream: bool | None = Field(None, description="Answer with events while the text grows.")
    stream_options: StreamOptions | None = None
    logprobs: bool | None = Field(None, description="Return the log-probabilities of the tokens.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="Alternatives for each token; needs `logprobs`.")
    # refused where they would change the answer
    audio: Any | None = None
    frequency_penalty: float | None = None
    function_call: Any | None = None
    functions: list[Any] | None = None
    logit_bias: dict[str, Any] | None = None
    modalities: list[str] | None = None
    prediction: Any | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None
    response_format: dict[str, Any] | None = None
    tool_choice: Any | None = None
    tools: list[Any] | None = None
    verbosity: str | None = None
    web_search_options: Any | None = None
    # these change nothing here
    metadata: Any | None = None
    moderation: Any | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    user: str | None = None


class Alternative(BaseModel):
    """A token with its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(Alternative):
    """A token of the answer."""

    top_logprobs: list[Alternative]


class Logprobs(BaseModel):
    """The log-probabilities of an answer."""

    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Prediction(BaseModel):
    """What a head of the model gives at its token in the answer."""

    head: str
    value: Any = Field(description="Numbers, lists and objects; null stands for a number that is not finite.")


class Choice(BaseModel):
    """One of `n` answers."""

    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: Logprobs | None = None
    predictions: list[Prediction] = []
    boxes: list[list[float]] = Field([], description="(x0, y0, x1, y1), in pixels of the last image.")
    points: list[list[float]] = Field([], description="(x, y), in pixels of the last image.")


class Usage(BaseModel):
    """Tokens. Those of media are part of `prompt_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] = Field(description="`SLOT_tokens` for each input: the tokens of its media.")


class ChatResponse(BaseModel):
    """A complete answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class InputRecord(BaseModel):
    """An input of the model."""

    slot: str
    modality: str
    types: list[str]
    suffixes: list[str]
    tokens: int | None


class ModelRecord(BaseModel):
    """The model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "omnivit"
    inputs: list[InputRecord]
    context: int
    heads: list[str]
    boxes: bool


class ModelList(BaseModel):
    """All models: one."""

    object: Literal["list"] = "list"
    data: list[ModelRecord]


class Health(BaseModel):
    """Whether the server can answer."""

    status: Literal["ok"] = "ok"
