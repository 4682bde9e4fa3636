"""The named templates: ids and labels of the original implementations, which golden/ends.json holds.

Its ids are those that the code of each system's repository (`source`, run outside of this project) makes of the twenty
conversations of ends_support with its tokenizer; -200 stands for a medium. Where a system encodes the pieces of a
conversation apart, its ids have a `▁` of their own at the end of a piece that ends with a space, and nothing else
differs: those are left out on both sides (`SEAMS`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ends_support import ROUNDS, llama_like

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Media, Message, Text
from omnivit.data.chat import Chat
from omnivit.data.styles import NAMED
from omnivit.errors import DataError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/ends.json").read_text(encoding="utf-8"))
IMAGE = Media("image", "a.png")
PLACE = -200
TOKENS = {
    "otter": ("<answer>", "<image>", "<|endofchunk|>"),
    "clever_flamingo": ("<|endofchunk|>",),
    "multimodal_gpt": ("<image>",),
    "internlm": ("<TOKENS_UNUSED_0>", "<TOKENS_UNUSED_1>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
}
"""Special tokens that the tokenizer of a system has."""
PICTURED = ("pandagpt", "minigpt_4", "minigpt_v2", "otter", "mplug_owl", "multimodal_gpt")
"""Systems whose golden conversations begin with an image; in those of CogVLM it is before the last question."""
SEAMS = ("minigpt_4", "clever_flamingo", "cogvlm_chat")
ROLES = ("vicuna_v0", "video_llama")
"""Systems that train on the names of roles, too."""


def conversation(name: str, number: int) -> list[Message]:
    rounds = ROUNDS[number][-1:] if name in ("cogvlm_base", "cogvlm_vqa") else ROUNDS[number]
    rounds = rounds[:1] if name == "minigpt_4" else rounds
    turns: list[Message] = []
    for question, answer in rounds:
        text = question.replace("\n", "") if name == "multimodal_gpt" else question
        pictured = name in PICTURED or name.startswith("cogvlm") or (name == "vicuna_v0" and number % 2 == 1)
        first = (IMAGE,) if pictured and not turns else ()
        turns += [Message("user", (*first, Text(text))), Message("assistant", (Text(answer),))]
    return turns


def encoded(chat: Chat, name: str, number: int) -> tuple[list[int], list[bool]]:
    """Ids with the place of a medium marked, and which of them are supervised."""
    messages = conversation(name, number)
    media = [part for turn in messages for part in turn.parts if isinstance(part, Media)]
    last = name in ("sparkles", "cogvlm_chat")
    found = chat.encode(messages, [1] * len(media), supervise="last" if last else "all")
    ids = found.ids.tolist()
    for span in found.spans:
        ids[span.start] = PLACE
    return ids, (found.labels != IGNORE).tolist()


def original(name: str, number: int) -> tuple[list[int], list[bool]]:
    row = GOLDEN[name]["rows"][number]
    return row["ids"], [label == "1" for label in row["labels"]]


@pytest.mark.parametrize(
    "name", [name for name in GOLDEN if "rows" in GOLDEN[name] and name not in ("mplug_owl", "qwen_vl")]
)
def test_ids_and_labels_are_those_of_the_original(name: str) -> None:
    tokenizer = llama_like(*TOKENS.get(name, ()))
    chat, space = Chat(tokenizer, name), tokenizer.convert_tokens_to_ids("▁")
    for number in range(len(ROUNDS)):
        (ids, learnt), (expected, labels) = encoded(chat, name, number), original(name, number)
        if name in SEAMS:
            ids, learnt = apart(ids, learnt, space)
            expected, labels = apart(expected, labels, space)
        assert ids == expected, (number, tokenizer.convert_ids_to_tokens([max(id, 0) for id in ids]))
        assert learnt == labels, (number, [tokenizer.decode(id) for id, one in zip(ids, learnt, strict=True) if one])


def apart(ids: list[int], learnt: list[bool], space: int) -> tuple[list[int], list[bool]]:
    pairs = [(id, one) for id, one in zip(ids, learnt, strict=True) if id != space]
    return [id for id, _ in pairs], [one for _, one in pairs]


@pytest.mark.parametrize("name", ROLES)
def test_the_original_learns_the_names_of_roles_and_a_model_in_use_does_not(name: str) -> None:
    tokenizer = llama_like()
    chat = Chat(tokenizer, name)
    for number in range(len(ROUNDS)):
        (ids, learnt), (expected, labels) = encoded(chat, name, number), original(name, number)
        assert ids == expected
        assert learnt == labels
        _, scored = encoded(chat.in_use(), name, number)
        more = [id for id, training, using in zip(ids, learnt, scored, strict=True) if training and not using]
        # the first ### begins the first question; all others end an answer, and are part of it
        assert tokenizer.decode(more).replace(" ", "") == "###" + "###Assistant:" * len(ROUNDS[number])
        said = "".join(f"{answer}\n###" for _, answer in ROUNDS[number])
        answers = tokenizer.decode([id for id, one in zip(ids, scored, strict=True) if one])
        assert answers.replace(" ", "") == said.replace(" ", "")
    assert chat.fingerprint() != chat.in_use().fingerprint()
    turns = conversation(name, 4)
    last = chat.encode(turns, [], supervise="last")
    once = tokenizer.decode(last.labels[last.labels != IGNORE])
    assert once.replace(" ", "").count("Assistant:") == 1 and "helpful" not in once


def test_docowl_encodes_its_pieces_apart() -> None:
    """There each piece begins with a space, so `AI` behind a line feed is another token; words and answers agree."""
    tokenizer = llama_like()
    chat, space = Chat(tokenizer, "mplug_owl"), tokenizer.convert_tokens_to_ids("▁")
    for number in range(len(ROUNDS)):
        (ids, learnt), (expected, labels) = encoded(chat, "mplug_owl", number), original("mplug_owl", number)
        ours, theirs = (tokenizer.decode([max(id, 0) for id in each]).replace(" ", "") for each in (ids, expected))
        assert ours == theirs
        answers = [id for id, one in zip(ids, learnt, strict=True) if one and id != space]
        assert answers == [id for id, one in zip(expected, labels, strict=True) if one and id != space]


@pytest.mark.parametrize("name", [name for name in GOLDEN if "texts" in GOLDEN[name]])
def test_the_text_is_that_of_the_original(name: str) -> None:
    tokenizer = llama_like(*TOKENS.get(name, ()))
    chat = Chat(tokenizer, name)
    end = {"internlm": "<TOKENS_UNUSED_1>"}.get(name, "</s>")
    for number, text in enumerate(GOLDEN[name]["texts"]):
        ids, learnt = encoded(chat, name, number)
        assert ids == tokenizer(text)["input_ids"]
        answers = "".join(f"{answer}{end}" for _, answer in ROUNDS[number])
        said = tokenizer.decode([id for id, one in zip(ids, learnt, strict=True) if one])
        assert said.replace(" ", "") == answers.replace(" ", "")


ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [
        # Stanford Alpaca, train.py: prompt_no_input, and output + eos
        ("alpaca", False, "<s>" + ALPACA + "### Instruction:\nWhy?\n\n### Response:Because.</s>"),
        # LaVIN, engine.py and model.py: "Image: " and the features, or "Image: N/A", each encoded alone
        ("lavin", True, "<s>Image: @ Why?Because.</s>"),
        ("lavin", False, "<s>Image: N/A Why?Because.</s>"),
        # LAVIS, blip2_vicuna_instruct.py: the features before BOS, input and output encoded apart
        ("plain_text", True, "@<s> Why? Because.</s>"),
        # Otter, mimicit_dataset.py, format fuyu
        ("fuyu", False, "<s>User:Why? Assistant:\x04 Because.</s>"),
    ],
)
def test_forms_that_are_given_by_a_formula(name: str, image: bool, text: str) -> None:
    tokenizer = llama_like()
    parts = (IMAGE, Text("Why?")) if image else (Text("Why?"),)
    messages = [Message("user", parts), Message("assistant", (Text("Because."),))]
    found = Chat(tokenizer, name).encode(messages, [1] * image)
    pieces = [piece for piece in text.removeprefix("<s>").split("@") if piece]
    expected = [tokenizer.bos_token_id] if text.startswith("<s>") else []
    for number, piece in enumerate(pieces):
        expected += [PLACE] if (number or text.startswith("@")) else []
        expected += tokenizer(piece, add_special_tokens=False)["input_ids"]
    ids = found.ids.tolist()
    for span in found.spans:
        ids[span.start] = PLACE
    assert [id for id in ids if id != tokenizer.convert_tokens_to_ids("▁")] == [
        id for id in expected if id != tokenizer.convert_tokens_to_ids("▁")
    ]
    assert tokenizer.decode(found.labels[found.labels != IGNORE]).strip() == "Because.</s>"


@pytest.mark.parametrize("name", NAMED)
def test_every_template_teaches_an_end_and_stops_there(name: str) -> None:
    chat = Chat(llama_like(*TOKENS.get(name, ())), name)
    assert chat.open_end is None
    stops = {"pandagpt", "minigpt_4", "sparkles", "vicuna_v0", "video_llama"}
    assert chat.stop_texts == (("###",) if name in stops else ())
    turns = [Message("user", (IMAGE, Text("a"))), Message("assistant", (Text("b"),))]
    found = chat.in_use().encode(turns, [2])
    learnt = found.labels[found.labels != IGNORE].tolist()
    assert chat.decode(learnt).strip() in ("b", "b\n###", "b###")
    assert chat.stop_texts or learnt[-1] in chat.stop_ids


def test_what_a_template_needs_is_named() -> None:
    with pytest.raises(RecipeError, match=r"needs '<answer>', .* or add the token: `llm.tokens: \['<answer>'\]`"):
        Chat(llama_like(), "otter")
    with pytest.raises(DataError, match="roles must alternate"):
        Chat(llama_like(), "vicuna_v0").encode([Message("assistant", (Text("a"),))], [])
    with pytest.raises(DataError, match="only one user message and one assistant message"):
        turns: list[Any] = [Message("user", (Text("a"),)), Message("assistant", (Text("b"),))]
        Chat(llama_like(), "plain_text").encode(turns * 2, [])
