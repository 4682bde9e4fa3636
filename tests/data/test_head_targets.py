"""Targets of heads on their way to the batch: places, tokens, labels, tensors, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omnivit_readers.messages import MessagesReader
from prepare_support import small_preparer
from small_tokenizers import byte_level, metaspace
from tests_support import write_jsonl
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from omnivit.contracts.batch import IGNORE, Batch
from omnivit.contracts.sample import Media, Message, Part, Sample, Target, Text
from omnivit.data.chat import Chat
from omnivit.data.collate import EncodedSample, collate
from omnivit.data.head_targets import HeadPreparer, Numbers
from omnivit.data.prepare import Preparer
from omnivit.data.records import typed_messages
from omnivit.errors import DataError, RecipeError
from omnivit.model.new_tokens import add_to_tokenizer
from omnivit.model.tokens import byte_tokenizer

BOX, POINT = 264, 265


def chat(template: str | None = None) -> Chat:
    tokenizer = byte_tokenizer()
    add_to_tokenizer(tokenizer, ["[BOX]", "[POINT]"])
    return Chat(tokenizer, template).with_heads({"box": "[BOX]", "point": "[POINT]"})


def preparer(**changes: Any) -> Preparer:
    heads = {
        "box": HeadPreparer("[BOX]", False, Numbers("boxes", (4,))),
        "point": HeadPreparer("[POINT]", True, Numbers("points", (2,))),
    }
    return small_preparer(chat=chat(), heads=heads, **changes)


def sample(*parts: str | Media | Target, question: tuple[str | Media | Target, ...] = ("Where?",)) -> Sample:
    def turned(found: tuple[str | Media | Target, ...]) -> tuple[Part, ...]:
        return tuple(Text(part) if isinstance(part, str) else part for part in found)

    return Sample("s", (Message("user", turned(question)), Message("assistant", turned(parts))), "f.jsonl:3")


def box(*numbers: float) -> Target:
    return Target("box", list(numbers or (0.1, 0.2, 0.3, 0.4)))


def test_tokens_places_and_labels() -> None:
    found = preparer()(
        sample("It is ", box(), " and\n", Target("point", [1, 2]), question=(Media("image", "a"), "Where?"))
    )
    text = "".join(chat().decode([int(id)]) for id in found.ids)
    assert text.endswith("assistant\nIt is [BOX] and\n[POINT]<|im_end|>\n".replace("<|im_end|>", ""))
    (first, second) = found.triggers
    assert (first.head, int(found.ids[first.place])) == ("box", BOX)
    assert (second.head, int(found.ids[second.place + 1])) == ("point", POINT), "it reads the state before"
    assert first.target["boxes"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    learnt = found.labels[found.labels != IGNORE].tolist()
    assert chat().decode(learnt) == "It is [BOX] and\n[POINT]" and learnt[-1] == 258
    assert len(found.spans) == len(found.items) == 1


@pytest.mark.parametrize("template", ["vicuna_v1", "llava_plain", "chatml", None])
def test_every_template_shows_them(template: str | None) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"})
    add_to_tokenizer(tokenizer, ["[BOX]"])
    made = Chat(tokenizer, template).with_heads({"box": "[BOX]"})
    for parts in ((box(),), ("at ", box()), (box(), " there"), (box(), box())):
        encoded = made.encode(sample(*parts).messages, ())
        count = sum(isinstance(part, Target) for part in parts)
        assert len(encoded.targets) == count == encoded.ids.tolist().count(BOX)
        assert all(encoded.labels[place] == BOX for place in encoded.targets)


@pytest.mark.parametrize("make", [byte_level, metaspace])
def test_ids_are_those_of_the_plain_tokenizer(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    """Of the text with the token written into it, which the tokenizer knows from then on."""
    tokenizer = make()
    (id,) = add_to_tokenizer(tokenizer, ["[BOX]"])
    jinja = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    made = Chat(tokenizer, jinja).with_heads({"box": "[BOX]"})
    encoded = made.encode(
        sample("the cat is ", box(), ", the mat", box(), " on", question=("What is a chat?",)).messages, ()
    )
    end = tokenizer.eos_token
    text = f"user: What is a chat?{end}assistant: the cat is [BOX], the mat[BOX] on{end}"
    assert encoded.ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encoded.ids[list(encoded.targets)].tolist() == [id, id]


@pytest.mark.parametrize("template", ["vicuna_v1", "chatml", None])
def test_white_space_between_them_is_learnt(template: str | None) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"})
    add_to_tokenizer(tokenizer, ["[BOX]"])
    made = Chat(tokenizer, template).with_heads({"box": "[BOX]"})
    encoded = made.encode(sample("a", " ", box(), " ", box(), "\n", " ", box(), " ", "b ", box()).messages, ())
    assert made.decode(encoded.labels[encoded.labels != IGNORE]).strip() == "a [BOX] [BOX]\n [BOX] b [BOX]"
    assert encoded.ids[list(encoded.targets)].tolist() == [BOX] * 4


def test_what_is_typed_is_no_token() -> None:
    found = preparer()(sample("No [BOX] here", question=("[BOX]?",)))
    assert found.triggers == () and BOX not in found.ids.tolist()
    assert chat().decode(found.labels[found.labels != IGNORE]) == "No [BOX] here"


def test_collation_finds_their_states_again() -> None:
    made = preparer()
    encoded = [
        made(sample("one ", box(1, 2, 3, 4))),
        made(sample("none")),
        made(sample(box(), "and a longer one", box(5, 6, 7, 8), Target("point", (8, 9)))),
    ]
    for left in (False, True):
        batch = collate(encoded, ("image", "audio"), 256, pad_left=left)
        found = batch.triggers["box"]
        assert found.samples.tolist() == [0, 2, 2]
        assert batch.input_ids[found.samples, found.places].tolist() == [BOX] * 3
        assert found.targets["boxes"][:, 0].tolist() == pytest.approx([1, 0.1, 5])
        point = batch.triggers["point"]
        assert batch.input_ids[point.samples, point.places + 1].tolist() == [POINT]
    moved = batch.to("meta")
    assert moved.triggers["box"].places.is_meta and moved.triggers["box"].targets["boxes"].is_meta
    assert not collate(encoded[1:2], ("image", "audio"), 256).triggers


def test_targets_of_varying_size_are_filled_up() -> None:
    class Many(Numbers):
        def __call__(self, target: Target) -> dict[str, Tensor]:
            return {"numbers": torch.tensor(target.source), "count": torch.tensor(len(target.source))}

    made = replace(preparer(), heads={"box": HeadPreparer("[BOX]", False, Many("numbers"))})
    batch: Batch = collate([made(sample(box(1, 2), box(3)))], (), 256)
    assert batch.triggers["box"].targets["numbers"].tolist() == [[1, 2], [3, 0]]


def test_a_cut_drops_those_behind_it() -> None:
    whole = preparer()(sample("at ", box(), " and then far away ", box()))
    limit = whole.triggers[1].place
    cut: EncodedSample = preparer(max_length=limit, truncate=True)(sample("at ", box(), " and then far away ", box()))
    assert len(cut.ids) == limit and [found.place for found in cut.triggers] == [whole.triggers[0].place]


def test_a_turn_that_is_not_learnt_has_no_targets_to_learn() -> None:
    first, second = (sample("at ", box()).messages for _ in range(2))
    wrong = (first[0], replace(first[1], learn=False), *second)
    (kept,) = preparer()(Sample("s", wrong)).triggers
    assert kept.place == preparer()(Sample("s", (*first, *second))).triggers[1].place
    (last,) = preparer()(Sample("s", (*first, *second)), supervise="last").triggers
    assert last.place == kept.place


def test_while_nothing_is_learnt_no_target_is_read() -> None:
    asked = (*sample("It was ", Target("box")).messages, Message("user", (Text("Sure?"),)))
    found = preparer(reads_targets=False)(Sample("s", asked), generate=True)
    assert found.ids.tolist().count(BOX) == 1 and found.triggers[0].target == {}


def test_seeds_depend_on_sample_and_place() -> None:
    seeds: list[int | None] = []

    class Seeing(Numbers):
        def __call__(self, target: Target) -> dict[str, Tensor]:
            seeds.append(target.seed)
            return {}

    made = replace(preparer(), heads={"box": HeadPreparer("[BOX]", False, Seeing("x"))})
    for seed in (None, 7, 7):
        made(sample(box(), box()), seed=seed)
    assert seeds[:2] == [None, None] and seeds[2:4] == seeds[4:] and seeds[2] != seeds[3]


@pytest.mark.parametrize(
    ("parts", "question", "message"),
    [
        ((Target("bax", [1]),), ("Where?",), r"sample 's' \(f.jsonl:3\): .*no head 'bax'; did you mean 'box'"),
        (
            ("x",),
            ("Here? ", box()),
            "a target of head 'box' is in a turn of the user; only answers of the assistant have",
        ),
        ((Target("box"),), ("Where?",), "head 'box' has no value"),
        (
            (box(1, 2, 3),),
            ("Where?",),
            r"head 'box': the target \[1, 2, 3\] does not fit; expected a list of 4 numbers",
        ),
    ],
)
def test_what_cannot_be_learnt_is_refused(
    parts: tuple[str | Target, ...], question: tuple[str | Target, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        preparer()(sample(*parts, question=question))


@pytest.mark.parametrize(
    ("sizes", "source", "problem"),
    [
        ((), 3, ""),
        ((), 0.5, ""),
        ((4,), (1, 2, 3, 4), ""),
        ((2, 2), [[1, 2], [3, 4]], ""),
        ((2, 2), np.eye(2), ""),
        ((), [3], "expected a number"),
        ((2, 2), [1, 2], "expected a list of 2 x 2 numbers"),
        ((2, 2), [[1, 2], [3]], "expected a list of 2 x 2 numbers"),
        ((2,), [True, False], "expected a list of 2 numbers"),
        ((2,), "12", "expected a list of 2 numbers"),
        ((2,), {"x": 1, "y": 2}, "expected a list of 2 numbers"),
        ((2,), [1, float("inf")], "contains a number that is not finite in float32"),
        ((1,), [10**400], "contains a number that is not finite in float32"),
        ((1,), [1e300], "contains a number that is not finite in float32"),
    ],
)
def test_numbers(sizes: tuple[int, ...], source: Any, problem: str) -> None:
    take = pickle.loads(pickle.dumps(Numbers("x", sizes)))
    if problem:
        with pytest.raises(DataError, match=problem):
            take(Target("box", source))
    else:
        found = take(Target("box", source))["x"]
        assert found.dtype == torch.float32 and found.shape == sizes


def test_a_token_that_the_tokenizer_lacks_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"token '\[SEG\]' of head 'mask' is not a token of the tokenizer"):
        Chat(byte_tokenizer()).with_heads({"mask": "[SEG]"})


def test_fingerprints_tell_heads_apart() -> None:
    plain, made = small_preparer(chat=chat()), preparer()
    other = replace(made, heads={"box": HeadPreparer("[BOX]", True, Numbers("boxes", (4,)))})
    assert len({plain.fingerprint(), made.fingerprint(), other.fingerprint()}) == 3
    assert Chat(byte_tokenizer()).fingerprint() != chat().fingerprint()
    assert pickle.loads(pickle.dumps(made)).fingerprint() == made.fingerprint()


def test_records_hold_them(tmp_path: Path) -> None:
    answer = [{"type": "text", "text": "at "}, {"type": "target", "head": "box", "target": [1, 2, 3, 4]}]
    record = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]}
    (_, said) = typed_messages(record, str(tmp_path))
    assert said.parts == (Text("at "), Target("box", [1, 2, 3, 4], str(tmp_path)))
    assert said.text == "at "
    answer[1] = {"type": "target", "target": [1]}
    with pytest.raises(DataError, match=r"messages\[1\].content\[1\].head is missing or null; expected a string"):
        typed_messages(record, None)


def test_readers_count_them_as_no_media(tmp_path: Path) -> None:
    answer = [{"type": "target", "head": "box", "target": [1, 2, 3, 4]}]
    question = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "?"}]
    record = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    reader = MessagesReader(write_jsonl(tmp_path / "a.jsonl", [record]), tmp_path)
    assert reader.lengths()[1].tolist() == [1] == [len(list(reader[0].media()))]
