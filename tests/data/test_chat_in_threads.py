"""A server prepares prompts in several threads: what chats keep for the next conversation must not break there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from small_tokenizers import byte_level

from omnivit.contracts.sample import Message, Text
from omnivit.data import guard, template
from omnivit.data.chat import Chat


class Emptied(dict[Any, Any]):
    """Another thread empties it each time somebody has looked whether a key is there, or which key is the oldest."""

    def __contains__(self, key: object) -> bool:
        answer = super().__contains__(key)
        self.clear()
        return answer

    def __iter__(self) -> Any:
        oldest = next(super().__iter__())
        self.clear()
        return iter([oldest])


def ids(chat: Chat, number: int) -> list[int]:
    user, answer = Message("user", (Text(f"Question {number % 5}?"),)), Message("assistant", (Text("Yes."),))
    turns = [user, answer] * (number % 3) + [user]
    return [int(id) for id in chat.encode(turns, [], generate=True).ids]


def test_threads_encode_as_a_single_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_KEPT", 2)
    monkeypatch.setattr(template, "_RENDERED", 1)
    chat = Chat(byte_level(), "chatml")
    expected = [ids(chat, number) for number in range(30)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda number: ids(chat, number), range(30))) == expected
    chat._template._rendered = Emptied()
    chat._guard._short = Emptied()
    repeated = [(ids(chat, number), ids(chat, number)) for number in range(30)]
    assert repeated == [(same, same) for same in expected]
