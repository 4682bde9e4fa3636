"""What most records of a dataset share is rendered and encoded once, and stays what each record would give alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from small_tokenizers import byte_level

from omnivit.contracts.sample import Message, Text
from omnivit.data import guard
from omnivit.data.chat import Chat
from omnivit.data.guard import GuardedTokenizer
from omnivit.data.template import Template
from omnivit.data.text_span import TextSpan

OWN = ("<loc1>",)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def conversation(question: str, answer: str) -> Sequence[Message]:
    return [Message("user", (Text(question),)), Message("assistant", (Text(answer),))]


def test_chats_of_one_form_are_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    render = Template._render

    def counting(self: Template, *arguments: Any) -> str:
        calls.append(arguments)
        return render(self, *arguments)

    monkeypatch.setattr(Template, "_render", counting)
    chat = Chat(byte_level(*OWN), CHATML)
    calls.clear()
    records = [conversation(f"What is {k}?", "<|im_end|> typed" if k == 3 else f"It is {k % 2}.") for k in range(20)]
    records.append(conversation(" white space ", "stays"))
    encoded = [chat.encode(record, ()) for record in records]
    assert len(calls) <= 2  # the common form, and the one with white space, which the template sees
    for record, own in zip(records, encoded, strict=True):
        alone = Chat(byte_level(*OWN), CHATML).encode(record, ())
        assert own.ids.tolist() == alone.ids.tolist() and own.labels.tolist() == alone.labels.tolist()


def test_short_texts_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = GuardedTokenizer(byte_level(*OWN), OWN)
    written, typed = TextSpan("a <loc1>", typed=True, markup=True), TextSpan("a <loc1>", typed=True)
    calls = []
    plain = GuardedTokenizer._encode

    def counting(self: GuardedTokenizer, spans: Any, broken: bool) -> Any:
        calls.append(spans)
        return plain(self, spans, broken)

    monkeypatch.setattr(GuardedTokenizer, "_encode", counting)
    first = tokenizer.encode([written])
    first.append(first[0])  # what a caller does with its list is its own
    again, other = tokenizer.encode([written]), tokenizer.encode([typed])
    assert again == first[:-1] and len(other) > len(again)
    assert len(calls) == 2
    tokenizer.hold_back(OWN)  # now the token is no markup, so its text is plain
    assert tokenizer.encode([written]) == other

    monkeypatch.setattr(guard, "_KEPT", 4)
    texts = [f"text {k}" for k in range(9)]
    expected = [tokenizer.encode([TextSpan(text)]) for text in texts]
    assert len(tokenizer._short) <= 4
    assert [tokenizer.encode([TextSpan(text)]) for text in texts] == expected
    tokenizer.encode([TextSpan("long " * 100)])
    assert all(sum(len(span.text) for span in spans) <= guard._SHORT for spans in tokenizer._short)
