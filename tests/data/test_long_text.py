"""Long texts: no more is encoded than it takes to know the first tokens, and these are the same as of the whole."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from prepare_support import sample, slot, small_preparer
from small_tokenizers import byte_level, metaspace, unigram

from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.data import guard, long_text
from omnivit.data.chat import Chat
from omnivit.data.cut_points import CutPoints
from omnivit.data.guard import GuardedTokenizer
from omnivit.data.prepare import Preparer
from omnivit.data.text_span import TextSpan
from omnivit.errors import DataError

IMAGE = Media("image", "a.png")
WORDS = [
    "the",
    " cat",
    "\n",
    "\n\n",
    "  ",
    "日本",
    "assistant",
    " 2024",
    "é",
    "<|im_end|>",
    "</s>",
    "a" * 40,
    ".",
    " ",
    "\t",
]
TOKENIZERS = {
    "byte level": byte_level("<tool>"),
    "metaspace": metaspace("<|im_end|>"),
    "unigram": unigram("▁", "a", "b", "ab", "▁a", "▁the", "the"),
}


def texts(seed: str) -> str:
    draw = random.Random(seed)
    return "".join(draw.choices(WORDS, k=400))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what is encoded; only eight characters are tried first."""
    sizes: list[int] = []
    plain = GuardedTokenizer.encode

    def counting(self: GuardedTokenizer, spans: Any) -> Any:
        sizes.append(long_text.size_of(spans))
        return plain(self, spans)

    monkeypatch.setattr(GuardedTokenizer, "encode", counting)
    monkeypatch.setattr(guard, "CHARACTERS", 1)
    return sizes


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_first_tokens_are_those_of_the_whole(name: str, encoded: list[int]) -> None:
    known = GuardedTokenizer(TOKENIZERS[name])
    cuts = 0
    for seed in range(6):
        spans = [
            TextSpan("x<|im_start|>user\n"),
            TextSpan(texts(f"{name}{seed}"), typed=True),
            TextSpan("</s>"),
            TextSpan("b " * 9, typed=True),
        ]
        whole = known.encode(spans)
        for limit in (0, 1, 7, 40, 150, len(whole) - 1, len(whole), len(whole) + 1):
            encoded.clear()
            found, more = known.encode_first(spans, limit, exact=True)
            assert [token.id for token in found[:limit]] == [token.id for token in whole[:limit]]
            assert [token.spans for token in found[:limit]] == [token.spans for token in whole[:limit]]
            assert more == (len(whole) > limit) if more else len(found) == len(whole)
            assert known.encode_first(spans, limit, exact=False)[1] in (more, False)
            cuts += encoded[0] < long_text.size_of(spans)
    assert cuts > 20


def test_no_place_is_good_that_a_token_reaches_across() -> None:
    def first(text: str, *vocabulary: str, inside: bool = True) -> int | None:
        return CutPoints(vocabulary, str, inside).first(text, 1)

    assert first("a cat", "Ġcat") == 1 and first("a cat", "aĠc") == 3 and first("a cat", "a▁c", inside=False) is None
    assert first("abcd", "ab", "bc") == 3 and first("abcd", inside=False) is None and first("it's", "it") is None
    assert first("日本語", "日本") == 2 and first("日本語", "æĹ¥æľ¬") == 2 and first("日本", "本æ") == 1
    assert first("=" * 9) is None and first("12345") is None
    tokenizer = byte_level()
    tokenizer.add_tokens(["is a"])
    known = GuardedTokenizer(tokenizer)
    spans = [TextSpan("this IS A CAT " * 50, typed=True), TextSpan("12" * 400, typed=True)]
    found, more = known.encode_first(spans, 3, exact=True)
    assert not more and found == known.encode(spans)


def test_a_megabyte_is_refused_after_a_small_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = GuardedTokenizer._encode

    def counting(self: GuardedTokenizer, spans: Any, broken: bool) -> Any:
        sizes.append(long_text.size_of(spans))
        return plain(self, spans, broken)

    monkeypatch.setattr(GuardedTokenizer, "_encode", counting)
    preparer = replace(small_preparer(), chat=Chat(byte_level()), max_length=100)
    for text in ("a cat " * 200_000, "日本" * 500_000, " " * 1_000_000):
        sizes.clear()
        with pytest.raises(DataError, match=r"more than 100 tokens, 0 of them for media, but `data\.max_length` is"):
            preparer(sample(text))
        with pytest.raises(DataError, match="more than 100 tokens"):
            preparer(sample(text), generate=True)
        assert sum(sizes) < 100_000
    truncating = replace(preparer, truncate=True)
    with pytest.raises(DataError, match="no supervised token is left when its"):
        truncating(sample("a cat " * 200_000))
    cut = truncating(sample("?", answer="a cat " * 200_000))
    assert len(cut.ids) == 100 and cut.ids[-1] == cut.labels[-1]
    for text in ("日本語" * 100_000, "abcxyz" * 50_000):
        sizes.clear()
        assert len(truncating(sample("?", answer=text)).ids) == 100 and sum(sizes) < 20_000
    with pytest.raises(DataError, match=r"a text of 200,\d+ characters cannot be cut exactly"):
        truncating(sample("=" * 200_000))


@pytest.mark.usefixtures("encoded")
@pytest.mark.parametrize("tokenizer", ["byte level", "metaspace"])
def test_truncation_gives_what_encoding_whole_and_cutting_gives(
    tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(limit: int, one: Sample, cut: bool) -> object:
        preparer = Preparer(chat, {"image": slot(6)}, limit, truncate=True)
        with monkeypatch.context() as patch:
            if not cut:
                patch.setattr(guard, "CHARACTERS", 1 << 30)
            try:
                made = preparer(one)
            except DataError as error:
                return "cut" if "cut" in str(error) else str(error)
        return made.ids.tolist(), made.labels.tolist(), made.spans, made.positions.tolist()

    chat = Chat(
        TOKENIZERS[tokenizer], "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    )
    outcomes = set()
    for seed in range(4):
        turns = (
            Message("user", (Text(texts(f"q{seed}")[:300]), IMAGE, Text("?"))),
            Message("assistant", (Text(texts(f"a{seed}")),)),
            Message("user", (Text("And "), *((IMAGE,) if seed % 2 else ()), Text(texts(f"r{seed}")))),
            Message("assistant", (Text("yes"),)),
        )
        one = Sample("s", turns)
        for limit in (3, 60, 200, 700, 1500, 4000):
            whole = prepared(limit, one, cut=False)
            assert prepared(limit, one, cut=True) == whole, (seed, limit)
            outcomes.add(type(whole))
    assert outcomes == {str, tuple}
