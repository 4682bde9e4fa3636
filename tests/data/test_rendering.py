"""A chat template that does not end, or makes too much, is stopped; ordinary ones write what transformers writes."""

from __future__ import annotations

import threading
from multiprocessing import get_context
from typing import Any

import pytest
from small_tokenizers import CHATML, byte_level

from omnivit.contracts.sample import Message, Text
from omnivit.data.rendering import bounded
from omnivit.data.template import Template
from omnivit.errors import RecipeError

MESSAGES = [Message("user", (Text("Hello"),)), Message("assistant", (Text("a cat"),))]
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{%% set n = namespace(x='ab') %%}{%% for i in range(60) %%}%s{%% endfor %%}"


def fault(text: str) -> str:
    with pytest.raises(RecipeError) as found:
        Template(byte_level(), text, {}, {}).render(MESSAGES)
    return str(found.value)


@pytest.mark.parametrize(
    "text",
    [
        LOOP,
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% for i in range(99999) %}{% set x = range(99999) | map('upper') | list %}{% endfor %}",
    ],
    ids=["loops in loops", "a macro that calls itself twice", "a long filter in a loop"],
)
def test_a_template_that_does_not_end_is_stopped_after_a_second(text: str) -> None:
    assert "stopped after 1 s" in fault(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ 9 ** 9999 ** 9999 }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=1000000000) }}",
        "{{ lipsum(n=100000000) }}",
        DOUBLED % "{% set n.x = n.x + n.x %}",
        DOUBLED % "{% set n.x = n.x ~ n.x %}",
        DOUBLED % "{% set n.x = [n.x, n.x] | join %}",
        DOUBLED % "{% set n.x = n.x | replace('a', 'aa') %}",
        DOUBLED % "{% set n.x = n.x.replace('a', 'aa') %}",
        DOUBLED % "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}",
    ],
)
def test_a_template_that_fills_the_memory_is_stopped(text: str) -> None:
    assert "larger than" in fault(text) or "too wide" in fault(text)


def _stopped_in_worker(queue: Any) -> None:
    queue.put(fault(LOOP))


def test_the_bound_holds_outside_the_main_thread_and_in_loader_workers() -> None:
    heard: list[str] = []
    thread = threading.Thread(target=lambda: heard.append(fault(LOOP)))
    thread.start()
    thread.join(60)
    context = get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_stopped_in_worker, args=(queue,))
    worker.start()
    heard.append(queue.get(timeout=60))
    worker.join(60)
    assert len(heard) == 2 and all("stopped after 1 s" in text for text in heard)


def test_ordinary_templates_write_what_transformers_writes() -> None:
    tokenizer = byte_level()
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": " a cat\n"}] * 3
    texts = (
        CHATML,
        "{% for m in messages recursive %}{{ loop.index ~ '/' ~ loop.length ~ m.role | upper }}"
        "{% if not loop.last %}{{ m.content + '\n' }}{% else %}{{ '%-9s|' % m.content | trim }}{% endif %}{% endfor %}",
        "{% macro say(m, n=1700000000) %}{{ [m.role, n, 1.5] | join(' ') ~ m | tojson(indent=2) }}{% endmacro %}"
        "{% for m in messages[::-1] if m.role == 'user' %}{{ say(m) }}{{ '{}:{:>5}'.format(1700000000, 'x') }}"
        "{% set x %}{{ m.content.replace('l', 'L') }}{% endset %}{{ x }}"
        "{{ 1700000000 * 1000 }}{{ 2 ** 40 }}{% endfor %}",
    )
    for text in texts:
        plain = tokenizer.apply_chat_template(chat, chat_template=text, tokenize=False)
        with bounded():
            assert tokenizer.apply_chat_template(chat, chat_template=text, tokenize=False) == plain
