"""A turn of a record in any form: the speaker, the content, whether it is trained on, and an answer's reasoning."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omnivit.contracts.sample import Role
from omnivit.data.records import values
from omnivit.errors import DataError, suggest

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "observation": "tool",
    "tool_response": "tool",
}
"""What a record may call a speaker: OpenAI's names, ShareGPT's, LLaMA-Factory's and ms-swift's."""

LEARN = ("weight", "train", "trainable", "loss", "loss_mask")
"""Keys that say whether a turn is trained on: true or 1, false or 0 (OpenAI, axolotl, ms-swift, verl)."""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of the reasoning that an answer begins with."""

_PAIRS = (("role", "content"), ("from", "value"))
_CALLS = (
    "tool calls are not supported yet. Write the call into the text of the assistant's answer, in the form that the "
    "model writes, and list its tokens in the stage's `markup`"
)
_REASONS: Mapping[str, str] = {
    "tool_calls": _CALLS,
    "function_call": _CALLS,
    "audio": "audio answers are not supported",
    "refusal": "this key is not read; write the refusal as the content",
}
"""Why a key that means something elsewhere is not read here."""


@dataclass(frozen=True)
class Turn:
    """A turn whose content is not parsed yet."""

    role: Role
    content: object
    place: str
    """Of the content, such as `messages[0].content`."""
    learn: bool = True
    """False: the record excludes the answer from training."""
    thought: str = ""


def turns_of(record: Mapping[str, Any], key: str, ignore: Collection[str]) -> list[Turn]:
    """The turns under a key of a record.

    Args:
        record: the parsed record, which has the key.
        key: of the list of turns.
        ignore: keys of turns to ignore.

    Raises:
        DataError: not a list, an unknown speaker, or a key that is not read.
    """
    listed = record[key]
    if not isinstance(listed, (list, tuple)):
        raise DataError(f"{key} is {values.spelled(listed)}; expected a list of turns.")
    if not listed:
        raise DataError(f"{key} is empty; expected at least one turn.")
    preferred = _PAIRS if key == "messages" else _PAIRS[::-1]
    return [_turn(turn, f"{key}[{k}]", preferred, ignore) for k, turn in enumerate(listed)]


def with_system(record: Mapping[str, Any], turns: Sequence[Turn]) -> list[Turn]:
    """The turns, with the record's `system` text as the first turn if it has one.

    Raises:
        DataError: the turns begin with a system turn too; or the record describes tools.
    """
    if not values.empty(record.get("tools")):
        raise DataError(
            "the key 'tools' is not read: the model does not receive tool descriptions yet. Write them into `system`."
        )
    system = record.get("system")
    if values.empty(system):
        return list(turns)
    if turns and turns[0].role == "system":
        raise DataError(f"the record has a key 'system', and {turns[0].place} is a system turn too. Keep one of them.")
    return [Turn("system", values.text(system, "system"), "system"), *turns]


def _turn(value: object, place: str, pairs: Sequence[tuple[str, str]], ignore: Collection[str]) -> Turn:
    turn = values.mapping(value, place)
    speaker, content = next((pair for pair in pairs if turn.get(pair[0]) is not None), pairs[0])
    role = _role(turn.get(speaker), f"{place}.{speaker}")
    read = {speaker, content, *LEARN, *THOUGHTS}
    check_keys(turn, read, place, ignore, _REASONS)
    learn = _learn(turn, role, place, ignore)
    return Turn(role, turn.get(content), f"{place}.{content}", learn, _thought(turn, role, place, ignore))


def check_keys(
    given: Mapping[str, Any],
    read: Collection[str],
    place: str,
    ignore: Collection[str],
    reasons: Mapping[str, str] = _REASONS,
) -> None:
    """Refuse keys that are not read, unless their value is empty or the recipe ignores them.

    Raises:
        DataError: names the first such key, and the remedies.
    """
    for key in given:
        if key in read or key in ignore or values.empty(given[key]):
            continue
        reason = reasons.get(key) or f"this key is not read, so its value would be lost; {suggest(str(key), read)}"
        raise DataError(
            f"{place}.{key}: {reason.rstrip('.')}. You can also remove the key, or ignore it: write "
            f"`ignore: [{key}]` next to the file's `path` in the recipe."
        )


def _role(value: object, key: str) -> Role:
    if isinstance(value, str) and value in ROLES:
        return ROLES[value]
    if value in ("function_call", "tool_call"):
        raise DataError(f"{key} is {values.spelled(value)}: {_CALLS}.")
    if isinstance(value, str):
        raise DataError(f"{key} is {values.spelled(value)}, which is not a known speaker; {suggest(value, ROLES)}")
    raise DataError(f"{key} is {values.spelled(value)}; expected one of {', '.join(ROLES)}.")


def _learn(turn: Mapping[str, Any], role: Role, place: str, ignore: Collection[str]) -> bool:
    weights = {key: turn[key] for key in LEARN if turn.get(key) is not None and key not in ignore}
    for key, weight in weights.items():
        if weight not in (0, 1) or isinstance(weight, str):
            raise DataError(
                f"{place}.{key} is {weight!r}; expected true or 1 (train on the answer), or false or 0 (do not). "
                "Weights between them are not supported."
            )
        if weight and role != "assistant":
            raise DataError(
                f"{place}.{key} is {weight!r} in a turn of the {role}, but only answers of the assistant are trained "
                "on. Remove the key."
            )
    if len({bool(weight) for weight in weights.values()}) > 1:
        raise DataError(f"{place}: {' and '.join(weights)} contradict each other. Keep one of them.")
    return all(weights.values())


def _thought(turn: Mapping[str, Any], role: Role, place: str, ignore: Collection[str]) -> str:
    given = [key for key in THOUGHTS if not values.empty(turn.get(key)) and key not in ignore]
    if not given:
        return ""
    if len(given) > 1:
        raise DataError(f"{place}: {' and '.join(given)} both give the reasoning of the answer. Keep one of them.")
    if role != "assistant":
        raise DataError(
            f"{place}.{given[0]} is in a turn of the {role}, but only answers of the assistant begin with reasoning. "
            "Remove the key."
        )
    return values.text(turn[given[0]], f"{place}.{given[0]}")
