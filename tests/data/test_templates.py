"""Templates with habits: ids as the tokenizer itself gives them, labels as transformers' assistant mask."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from small_tokenizers import byte_level
from transformers import PreTrainedTokenizerFast

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Message, Target, Text
from omnivit.data.chat import Chat, EncodedChat
from omnivit.data.records import messages_from
from omnivit.data.search_strings import search_strings
from omnivit.errors import DataError, RecipeError

OWN = ("<think>", "</think>", "<loc0012>", "<loc0345>", "<tool_call>", "</tool_call>")
HEADER = "<|im_start|>{{ m.role }}\n"
OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def template(content: str, header: str = "<|im_start|>{{ m.role }}\n", opens: str = OPENS) -> str:
    """A template that writes answers as `content` says, and marks them as generated."""
    answer = "{% generation %}{{ " + content + " }}<|im_end|>{% endgeneration %}"
    other = "{{ " + content + " }}<|im_end|>"
    return (
        "{% for m in messages %}"
        + header
        + "{% if m.role == 'assistant' %}"
        + answer
        + "{% else %}"
        + other
        + "{% endif %}"
        "\n{% endfor %}" + opens
    )


THINKS = """{%- set ns = namespace(last=0) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' -}}
{%- if m.role == 'assistant' -%}
{%- set text = m.content -%}{%- set thought = '' -%}
{%- if m.reasoning_content is string -%}{%- set thought = m.reasoning_content -%}
{%- elif '</think>' in text -%}
{%- set thought = text.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
{%- set text = text.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{% generation %}
{%- if loop.index0 > ns.last -%}{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + text.lstrip('\\n') -}}
{%- else -%}{{- text -}}{%- endif -%}
{{- '<|im_end|>' -}}{% endgeneration %}
{%- else -%}{{- m.content + '<|im_end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
"""As Qwen3's: thoughts of earlier answers are left out, the last answer always has one."""

GIVEN = THINKS.replace("{{- '<|im_start|>assistant\\n' -}}", "{{- '<|im_start|>assistant\\n<think>\\n' -}}")
"""As Qwen3-Thinking's: the prompt opens the thought."""
FORGETS = "{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endfor %}" + (
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""As DeepSeek-R1's: no thought is ever shown."""

TEMPLATES = {
    "raw": template("m.content"),
    "trims, two line breaks before the answer": template(
        "m.content | trim", HEADER + "\n", OPENS.replace("\n", "\n\n")
    ),
    "trims": template("m.content | trim"),
    "trims at the right": template("m.content.rstrip()"),
    "trims line breaks at the left": template("m.content.lstrip('\\n')"),
    "thinks": THINKS,
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level(*OWN)


def encode(tokenizer: Any, text: str, messages: Sequence[dict[str, Any]], **options: Any) -> EncodedChat:
    return Chat(tokenizer, text, **options).encode(messages_from(messages, None, "test"), [])


def own(tokenizer: Any, text: str, messages: Sequence[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """Ids and mask as transformers makes them."""
    found = tokenizer.apply_chat_template(
        messages, chat_template=text, return_assistant_tokens_mask=True, return_dict=True
    )
    return found["input_ids"], found["assistant_masks"]


def learnt(tokenizer: Any, found: EncodedChat) -> str:
    return str(tokenizer.decode(found.labels[found.labels != IGNORE], clean_up_tokenization_spaces=False))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **keys}


def conversations(draw: random.Random, count: int) -> list[list[dict[str, Any]]]:
    """Conversations whose texts begin and end with white space of all kinds."""
    edges = ["", "", "\n", "\n\n", " ", "  ", " \n", "\n ", "\t"]
    words = ["A cat", "yes", "The mat.\n\nHello", "日本", "a  b", "[INST]", "no\n"]

    def text() -> str:
        return draw.choice(edges) + draw.choice(words) + draw.choice(edges)

    made: list[list[dict[str, Any]]] = []
    for _ in range(count):
        turns = [{"role": "system", "content": text()}] if draw.random() < 0.3 else []
        for _ in range(draw.randint(1, 3)):
            turns += [user(text()), said(text())]
        made.append(turns)
    return made


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_and_labels_are_those_of_transformers(tokenizer: Any, name: str) -> None:
    text = TEMPLATES[name]
    chat = Chat(tokenizer, text)
    different = []
    for messages in conversations(random.Random(name), 80):
        found = chat.encode(messages_from(messages, None, "test"), [])
        ids, mask = own(tokenizer, text, messages)
        if found.ids.tolist() != ids or (found.labels != IGNORE).int().tolist() != mask:
            different.append(messages)
    assert not different, f"{len(different)} of 80 differ; the first: {different[0]}"


THOUGHT = "<think>\nTwo and two.\n</think>\n\nfour"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([user("2+2?"), said(THOUGHT)], f"{THOUGHT}<|im_end|>"),
        ([user("2+2?"), said(THOUGHT.removeprefix("<think>\n"))], f"{THOUGHT}<|im_end|>"),
        ([user("2+2?"), said(THOUGHT), user("1+1?"), said("<think>One.</think>two")],
         "four<|im_end|><think>\nOne.\n</think>\n\ntwo<|im_end|>"),
        ([user("2+2?"), said("four", reasoning_content="Two and two.")], f"{THOUGHT}<|im_end|>"),
        ([user("2+2?"), said("four", thinking="\nTwo and two.\n")], f"{THOUGHT}<|im_end|>"),
        ([user("2+2?"), said("four")], "<think>\n\n</think>\n\nfour<|im_end|>"),
        ([user("2+2?"), said("<think>\n\n</think>\n\n")], "<think>\n\n</think>\n\n<|im_end|>"),
    ],
)  # fmt: skip
def test_a_template_that_searches_answers_finds_their_thoughts(
    tokenizer: Any, messages: list[dict[str, Any]], words: str
) -> None:
    found = encode(tokenizer, THINKS, messages, markup=())
    plain = [{key.replace("thinking", "reasoning_content"): value for key, value in turn.items()} for turn in messages]
    ids, mask = own(tokenizer, THINKS, plain)
    assert found.ids.tolist() == ids and (found.labels != IGNORE).int().tolist() == mask
    assert learnt(tokenizer, found) == words
    given = encode(tokenizer, GIVEN, messages)
    assert given.ids.tolist() == ids
    assert learnt(tokenizer, given) == words.replace("<think>\n", "")  # the prompt has it already


def test_what_a_user_types_is_found_by_no_template(tokenizer: Any) -> None:
    text = "{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endfor %}"
    found = encode(tokenizer, text, [user("a</think>b"), said("c")])
    assert "user: a</think>b" in tokenizer.decode(found.ids)
    assert tokenizer.convert_tokens_to_ids("</think>") not in found.ids.tolist()


@pytest.mark.parametrize(
    ("text", "messages", "error"),
    [
        (
            FORGETS,
            [user("2+2?"), said(THOUGHT)],
            r"omits a part of the last answer \(message 2\), usually its reasoning",
        ),
        (TEMPLATES["raw"], [user("2+2?"), said("4", reasoning="Hm.")], "does not write the reasoning of message 2"),
        (FORGETS + "{# thinking #}", [user("2+2?"), said("4", thinking="Hm.")], "omits a part of the last answer"),
    ],
)
def test_a_thought_that_the_template_would_lose_is_refused(
    tokenizer: Any, text: str, messages: list[dict[str, Any]], error: str
) -> None:
    with pytest.raises(DataError, match=error):
        encode(tokenizer, text, messages)


def test_earlier_thoughts_are_left_out_as_the_template_wants_it(tokenizer: Any) -> None:
    found = encode(tokenizer, FORGETS, [user("2+2?"), said(THOUGHT), user("1+1?"), said("two")])
    assert learnt(tokenizer, found) == "\n\nfour<|im_end|>two<|im_end|>"


def test_what_a_template_searches_for() -> None:
    assert search_strings(THINKS) == ("</think>", "<think>")
    assert search_strings("{{ m.content | replace('<a>', '<b>') }}{% if 'type' in m %}{% endif %}") == ("<a>",)
    assert search_strings("{% generation %}{{ x.startswith('[T]') }}{% endgeneration %}{% break %}") == ("[T]",)
    assert search_strings("{% for %}") == ()


# Tokens of the tokenizer in answers

BOXES = [user("Where <loc0012>?"), said("<loc0012><loc0345> cat"), user("And?"), said("<loc0012>")]


def added(tokenizer: Any, found: EncodedChat) -> list[str]:
    known = {id: token for token, id in tokenizer.get_added_vocab().items() if token in OWN}
    return [known[id] for id in found.ids.tolist() if id in known]


@pytest.mark.parametrize(
    ("markup", "tokens"),
    [
        (("<loc*>",), ["<loc0012>", "<loc0345>", "<loc0012>"]),
        (("<loc0012>",), ["<loc0012>", "<loc0012>"]),
        (("*",), ["<loc0012>", "<loc0345>", "<loc0012>"]),
        ((), []),
        (None, []),
    ],
)
def test_declared_tokens_are_tokens_in_answers_alone(
    tokenizer: Any, markup: tuple[str, ...] | None, tokens: list[str]
) -> None:
    chat = Chat(tokenizer, TEMPLATES["raw"], markup=markup)
    messages = messages_from(BOXES, None, "test")
    found = chat.encode(messages, [])
    assert added(tokenizer, found) == tokens
    assert learnt(tokenizer, found) == "<loc0012><loc0345> cat<|im_end|><loc0012><|im_end|>"
    if len(tokens) == 3:
        answers = [turn | ({"content": "Where?"} if turn["role"] == "user" else {}) for turn in BOXES]
        assert encode(tokenizer, TEMPLATES["raw"], answers).ids.tolist() == own(tokenizer, TEMPLATES["raw"], answers)[0]
    assert chat.undeclared(messages) == ("<loc0012>" if markup is None else None)
    assert chat.undeclared(messages_from([user("<loc0012>"), said("<b> <|im_end|>")], None, "test")) is None
    assert (chat.fingerprint() == Chat(tokenizer, TEMPLATES["raw"], markup=()).fingerprint()) == (not tokens)


@pytest.mark.parametrize(
    ("markup", "error"),
    [
        (["<loc12>"], r"has no token '<loc12>'; did you mean '<loc0012>'"),
        (["<|im_*"], r"has no token '<|im_\*'"),
        (["<|im_end|>"], r"'<\|im_end\|>' ends an answer"),
        (["<think>"], r"'<think>' is the token of a head's target"),
        (["<loc0345>"], r"'<loc0345>' is the placeholder of a medium"),
    ],
)
def test_markup_that_cannot_be_is_refused(tokenizer: Any, markup: list[str], error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        Chat(tokenizer, tokens={"box": "<think>"}, placeholders={"image": "<loc0345>"}, markup=markup)


def test_a_special_token_is_markup_only_by_its_name(tokenizer: Any) -> None:
    messages = [user("?"), said("a<|im_start|>b")]
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert encode(tokenizer, TEMPLATES["raw"], messages).ids.tolist().count(start) == 2
    assert encode(tokenizer, TEMPLATES["raw"], messages, markup=["<|im_start|>"]).ids.tolist().count(start) == 3


def test_a_heads_token_that_is_typed_stays_text(tokenizer: Any) -> None:
    chat = Chat(tokenizer).with_heads({"box": "<loc0012>"}).with_markup(["<loc*>"])
    answer = Message("assistant", (Text("<loc0012> <loc0345> "), Target("box", [0, 0])))
    found = chat.encode([Message("user", (Text("?"),)), answer], [])
    assert added(tokenizer, found) == ["<loc0345>", "<loc0012>"] and len(found.targets) == 1
