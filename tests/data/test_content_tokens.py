"""Tokens that data write: as parts, and as text that a stage declares; what a person types stays plain."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ends_support import GROUNDED, QWEN, llama_like, qwen_like
from small_tokenizers import byte_level, metaspace

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Message, Part, Sample, Target, Text, Token
from omnivit.data.chat import Chat
from omnivit.data.content import with_tokens
from omnivit.data.prepare import Preparer
from omnivit.data.records import messages_from
from omnivit.errors import DataError, RecipeError
from omnivit.run.reply import message_of
from omnivit.run.stopping import cut

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/ends.json").read_text(encoding="utf-8"))
CHATML = "chatml"


def user(*parts: str | Part) -> Message:
    return Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def said(*parts: str | Part) -> Message:
    return Message("assistant", user(*parts).parts)


def test_ids_are_those_of_qwen_vl() -> None:
    """QwenLM/Qwen-VL finetune.py `preprocess` learns the control tokens of every turn, too; here answers are learnt."""
    tokenizer = qwen_like()
    preparer = Preparer(Chat(tokenizer, CHATML, markup=QWEN), {}, 4096, question_tokens=frozenset(QWEN))
    for rounds, row in zip(GROUNDED, GOLDEN["qwen_vl"]["rows"], strict=True):
        turns = [Message("system", (Text("You are a helpful assistant."),))]
        for question, answer in rounds:
            turns += [user(question), said(answer)]
        found = preparer(Sample("s", tuple(turns), "file:1"))
        assert found.ids.tolist() == row["ids"]
        learnt = (found.labels != IGNORE).tolist()
        theirs = [label == "1" for label in row["labels"]]
        controls = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>")}
        line = tokenizer("\n")["input_ids"]
        for id, mine, other in zip(row["ids"], learnt, theirs, strict=True):
            assert mine == other or (other and (id in controls or [id] == line))
        assert tokenizer.decode(found.labels[found.labels != IGNORE]) == "".join(f"{a}<|im_end|>" for _, a in rounds)


def test_what_a_person_types_stays_plain_text() -> None:
    """Law 4: the same question is split where it comes from a file, and only where the stage declares it."""
    tokenizer = qwen_like()
    chat, added = Chat(tokenizer, CHATML, markup=QWEN), set(map(qwen_like().convert_tokens_to_ids, QWEN))
    question = user("Where is <ref>the cat</ref>?")
    for tokens, origin, count in ((QWEN, "file:1", 2), (QWEN, "", 0), ((), "file:1", 0)):
        preparer = Preparer(chat, {}, 4096, question_tokens=frozenset(tokens))
        ids = preparer(Sample("s", (question,), origin), generate=True).ids.tolist()
        assert sum(id in added for id in ids) == count
        assert ("question_tokens" in preparer.fingerprint()) == bool(tokens)
    assert with_tokens(question, QWEN).parts == (
        Text("Where is "), Token("<ref>"), Text("the cat"), Token("</ref>"), Text("?")
    )  # fmt: skip
    assert with_tokens(said("<ref>"), QWEN) == said("<ref>")


def own(tokenizer: Any, *tokens: str, **options: Any) -> Chat:
    """A chat whose recipe adds tokens."""
    tokenizer.add_tokens(list(tokens))
    return Chat(tokenizer, "vicuna_v1", markup=None, content=tokens, **options)


def test_parts_are_tokens_and_their_characters_are_not() -> None:
    tokenizer = llama_like()
    chat = own(tokenizer, "<p>", "</p>")
    record = [
        {"role": "user", "content": [{"type": "token", "token": "<p>"}, {"type": "text", "text": "a cat"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "It "}, {"type": "token", "token": "<p>"},
                                          {"type": "text", "text": " <p> "}, {"type": "token", "token": "</p>"}]},
    ]  # fmt: skip
    messages = messages_from(record, None, "test")
    assert messages[0].parts == (Token("<p>"), Text("a cat"))
    found = chat.encode(messages, [])
    opening, closing = (tokenizer.convert_tokens_to_ids(token) for token in ("<p>", "</p>"))
    assert [id for id in found.ids.tolist() if id in (opening, closing)] == [opening, opening, closing]
    learnt = found.labels[found.labels != IGNORE]
    assert [id for id in learnt.tolist() if id in (opening, closing)] == [opening, closing]
    assert tokenizer.decode(learnt).replace(" ", "") == "It<p><p></p></s>"
    assert chat.undeclared(messages) == "<p>", "its characters in a text are learnt one by one, with a warning"
    assert chat.fingerprint() != Chat(tokenizer, "vicuna_v1", markup=None).fingerprint()


def test_tokens_that_nobody_declared_are_refused() -> None:
    chat = own(llama_like(), "<p>", "<box>").with_heads({"box": "<box>"})
    for token, reason in (
        ("<q>", r"does not declare in `llm.tokens` or in the stage's `markup`; did you mean '<p>'"),
        ("</s>", "ends an answer, so that data cannot write it"),
        ("<s>", "does not declare"),
        ("<box>", "is the token of a head's target"),
    ):
        with pytest.raises(DataError, match=f"message 2 contains the token '{token}', which .*{reason}"):
            chat.encode([user("?"), said(Token(token))], [])
    assert chat.encode([user("?"), said(Token("<p>"), Target("box", [0]))], []).targets
    with pytest.raises(RecipeError, match=r"llm.ends: the tokenizer has no token '<e>'; .*`llm.tokens` adds new ones"):
        Chat(llama_like(), "vicuna_v1", ends=["<e>"])


def test_tokens_of_content_are_shown_and_ends_are_hidden() -> None:
    tokenizer = llama_like("<|endofchunk|>")
    chat = own(tokenizer, "<p>", "<answer>", ends=["<|endofchunk|>"])
    end = tokenizer.convert_tokens_to_ids("<|endofchunk|>")
    assert chat.stop_ids == (tokenizer.eos_token_id, end)
    ids = [*tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer.convert_tokens_to_ids("<p>"), end, 5]
    answer = cut(ids, chat)
    assert answer.text.replace(" ", "") == "a<p>"
    message = message_of(answer, chat)
    assert message.parts == (Text("a"), Token("<p>"))
    again = chat.encode([user("?"), message], []).ids.tolist()
    assert tokenizer.convert_tokens_to_ids("<p>") in again, "in the history of the next question it is a token still"
    # tokens of the tokenizer that are special are hidden, except where they are declared
    qwen = qwen_like()
    box = qwen("<box>(1,2)</box><|im_start|>")["input_ids"]
    assert Chat(qwen, CHATML, markup=QWEN).decode(box) == "<box>(1,2)</box>"
    assert Chat(qwen, CHATML).decode(box) == "(1,2)"
    copy = pickle.loads(pickle.dumps(chat))
    assert (copy.stop_ids, copy.content_ids(), copy.fingerprint()) == (
        chat.stop_ids,
        chat.content_ids(),
        chat.fingerprint(),
    )


@pytest.mark.parametrize("make", [llama_like, metaspace, byte_level])
def test_an_answer_is_the_same_tokens_in_the_history_of_the_next_question(make: Callable[[], Any]) -> None:
    """Also behind a token, where the space before a word is part of the word's token, or inserted by the tokenizer."""
    tokenizer = make()
    chat = own(tokenizer, "<p>", "</p>")
    answer = said("It is ", Token("<p>"), " the cat", Token("</p>"), " and ", Token("<p>"), "a dog", Token("</p>"), ".")
    found = chat.encode([user("?"), answer], [])
    ids = found.labels[found.labels != IGNORE].tolist()
    again = message_of(cut(ids, chat), chat)
    assert again.parts == answer.parts
    assert chat.encode([user("?"), again], []).ids.tolist() == found.ids.tolist()


def test_a_part_that_is_no_token_of_the_stage_is_refused_with_its_sample() -> None:
    preparer = Preparer(own(llama_like(), "<p>"), {}, 100)
    with pytest.raises(DataError, match=r"sample 's' \(a.jsonl:3\): message 1 contains the token '<q>'"):
        preparer(Sample("s", (user(Token("<q>")), said("b")), "a.jsonl:3"))
    with pytest.raises(DataError, match=r"content\[0\].token is a number"):
        messages_from([{"role": "user", "content": [{"type": "token", "token": 3}]}], None, "x")
