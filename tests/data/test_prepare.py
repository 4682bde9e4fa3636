"""The path from a sample to an encoded one: rows, seeds, truncation, refusals."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from prepare_support import NO_SEED, SeedProcessor, TellingProcessor, halved, sample, slot, small_preparer
from torch import Tensor

from omnivit.contracts.adapter import same_length
from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.data.chat import Chat
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.data.slot import SlotPreparer
from omnivit.errors import DataError, MediaError
from omnivit.model.tokens import byte_tokenizer
from omnivit.seeds import derive_seed

IMAGE, AUDIO = Media("image", "a.png"), Media("audio", "a.wav")
OPENING = len("#user\n")  # one control token, then bytes
PREFIX = OPENING + len("#\n#assistant\n")
"""Tokens of an empty question up to the answer."""


def seeds(encoded: EncodedSample) -> list[int]:
    return [int(item["seed"]) for item in encoded.items]


def refused(text: str) -> str:
    """The sample's name, then `text`."""
    return "^" + re.escape(f"sample 's' (f.jsonl:3): {text}")


def test_media_take_the_rows_that_the_adapter_gives() -> None:
    encoded = small_preparer()(sample("ab", IMAGE, "cde", AUDIO))
    first = OPENING + 2
    assert encoded.spans == (Span("image", first, 3), Span("audio", first + 3 + 3, 4))
    assert len(encoded.ids) == len(encoded.labels) == PREFIX + 5 + 3 + 4 + len("yes#\n")
    assert encoded.name == "sample 's' (f.jsonl:3)" and len(encoded.items) == 2
    assert encoded.labels.tolist()[-5:] == [*b"yes", 258, IGNORE]
    assert all(label == IGNORE for label in encoded.labels.tolist()[:-5])


def test_what_a_file_says_is_read_before_its_medium_and_not_learnt() -> None:
    plain = small_preparer()(sample("ab", IMAGE, "cde", AUDIO))
    telling = SlotPreparer((TellingProcessor(6),), ((0, halved),))
    encoded = small_preparer(slots={"image": telling, "audio": slot(4)})(sample("ab", IMAGE, "cde", AUDIO))
    told = TellingProcessor.told.encode()  # in plain bytes: no word of a file becomes a control token
    first, *_ = plain.spans
    assert encoded.ids.tolist() == [*plain.ids[: first.start].tolist(), *told, *plain.ids[first.start :].tolist()]
    assert [span.start for span in encoded.spans] == [span.start + len(told) for span in plain.spans]
    assert encoded.labels[encoded.labels != IGNORE].tolist() == plain.labels[plain.labels != IGNORE].tolist()


def test_no_seed_outside_training() -> None:
    assert seeds(small_preparer()(sample(IMAGE, AUDIO))) == [NO_SEED, NO_SEED]


def test_seeds_follow_from_run_epoch_sample_and_position() -> None:
    two = sample(IMAGE, replace(IMAGE, source="b.png"))
    encoded = small_preparer()(two, seed=11)
    assert seeds(encoded) == [derive_seed(11, "s", position) % 2**62 for position in (0, 1)]
    assert seeds(small_preparer()(two, seed=11)) == seeds(encoded)
    others = (small_preparer()(two, seed=12), small_preparer()(replace(two, id="t"), seed=11))
    assert len({seed for e in (encoded, *others) for seed in seeds(e)}) == 6


def test_generation_ends_with_the_opening_of_the_answer() -> None:
    question = Sample("q", (Message("user", (IMAGE, Text("?"))),))
    encoded = small_preparer()(question, generate=True)
    assert encoded.ids.tolist()[-10:] == list(b"assistant\n") and bool((encoded.labels == IGNORE).all())


def test_the_last_answer_alone() -> None:
    turns = sample("a", answer="one").messages + sample("b", answer="two").messages
    encoded = small_preparer()(Sample("s", turns), supervise="last")
    assert encoded.labels[encoded.labels != IGNORE].tolist() == [*b"two", 258]


@pytest.mark.parametrize(("slot", "hint"), [("imge", "did you mean 'image'?"), ("video", "Available: audio, image.")])
def test_unknown_slot(slot: str, hint: str) -> None:
    with pytest.raises(DataError, match=refused(f"the recipe has no input slot {slot!r}; {hint}")):
        small_preparer()(sample(Media(slot, "a.png")))


def test_a_medium_that_cannot_be_read_keeps_its_kind_of_error() -> None:
    with pytest.raises(MediaError, match=refused("broken.png: is broken")):
        small_preparer()(sample(Media("image", "broken.png")))


def test_nothing_supervised() -> None:
    with pytest.raises(DataError, match=refused("No token is supervised")):
        small_preparer()(Sample("s", (Message("user", (Text("?"),)),), "f.jsonl:3"))


def test_a_sample_of_just_the_limit_fits_and_one_token_more_does_not() -> None:
    one = sample("abc", IMAGE)
    size = len(small_preparer()(one).ids)
    assert len(small_preparer(max_length=size)(one).ids) == size
    said = f"the sample has {size} tokens, 3 of them for media, but `data.max_length` is {size - 1}. Raise it, set"
    with pytest.raises(DataError, match=refused(said)):
        small_preparer(max_length=size - 1)(one)


def test_truncation_cuts_the_end_and_nothing_else() -> None:
    one = sample("abc", IMAGE, answer="a long answer")
    whole = small_preparer()(one)
    limit = len(whole.ids) - 9
    cut = small_preparer(max_length=limit, truncate=True)(one)
    assert cut.ids.equal(whole.ids[:limit]) and cut.labels.equal(whole.labels[:limit])
    assert cut.spans == whole.spans and seeds(cut) == seeds(whole)
    assert bytes(cut.labels[cut.labels != IGNORE].tolist()) == b"a long"


def test_truncation_never_cuts_through_a_medium() -> None:
    late = Sample("s", (*sample("?").messages, Message("user", (IMAGE,))), "f.jsonl:3")
    span = small_preparer()(late).spans[0]
    end = span.start + span.length
    assert small_preparer(max_length=end, truncate=True)(late).spans == (span,)
    for limit in (end - 1, span.start + 1, span.start):
        with pytest.raises(DataError, match=rf"f.jsonl:3.*through the 'image' medium at tokens {span.start} to {end}"):
            small_preparer(max_length=limit, truncate=True)(late)


def test_truncation_leaves_something_to_learn() -> None:
    one = sample("abc")
    first = PREFIX + 3
    assert small_preparer(max_length=first + 1, truncate=True)(one).labels[-1] == ord("y")
    with pytest.raises(DataError, match=refused("no supervised token is left when its 27 tokens are cut to")):
        small_preparer(max_length=first, truncate=True)(one)


def test_a_prompt_is_never_truncated() -> None:
    """What is asked would lose its end: the opening of the answer."""
    with pytest.raises(DataError, match=r"data.max_length` is 10\."):
        small_preparer(max_length=10, truncate=True)(sample("a"), generate=True)


def test_the_fingerprint_changes_with_whatever_changes_the_tokens() -> None:
    plain = small_preparer()
    template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    others = [
        small_preparer(max_length=201),
        small_preparer(truncate=True),
        small_preparer(chat=Chat(byte_tokenizer(), template)),
        small_preparer(slots={"image": slot(8), "audio": slot(4)}),
        small_preparer(slots={"image": slot(6)}),
    ]
    assert plain.fingerprint() == small_preparer().fingerprint()
    assert len({plain.fingerprint(), *(other.fingerprint() for other in others)}) == 6


def test_a_pickled_preparer_prepares_alike() -> None:
    plain = small_preparer()
    copy = pickle.loads(pickle.dumps(plain))
    assert copy(sample("abc")).ids.equal(plain(sample("abc")).ids) and copy.fingerprint() == plain.fingerprint()
    assert len(pickle.dumps(plain)) < 100_000


def test_an_adapter_may_count_the_positions_of_its_rows() -> None:
    """CogVLM: the rows between the first and the last share one position; what follows goes on from the last."""
    slots = {"image": replace(slot(5), positions=shared_inside), "audio": slot(2)}
    found = small_preparer(slots=slots)(sample("ab", Media("image", "x.png"), "c", Media("audio", "y.wav")))
    image, audio = found.spans
    first = image.start
    assert found.positions[: first + 5].tolist() == [*range(first), first, first + 1, first + 1, first + 1, first + 2]
    assert found.positions[first + 5 :].diff().unique().tolist() == [1]
    assert found.positions[first + 5] == first + 3 and found.positions[-1] == len(found.ids) - 1 - 2
    assert audio.length == 2
    assert collate([found], ("image", "audio"), 0).positions[0].tolist() == found.positions.tolist()


def shared_inside(rows: int) -> Tensor:
    return torch.arange(rows).clamp(max=1) + (torch.arange(rows) == rows - 1).long()


@dataclass(frozen=True)
class Describing(SeedProcessor):
    """Describes the medium that it has prepared."""

    def description(self, item: Mapping[str, Tensor]) -> str:
        return f" seed {int(item['seed'])}."


def test_a_description_follows_its_medium_and_is_of_its_item() -> None:
    slots = {"image": SlotPreparer((Describing(3),), ((0, same_length),)), "audio": slot(2)}
    preparer = small_preparer(slots=slots)
    images = Media("image", "a.png"), Media("image", "b.png")
    encoded = preparer(sample("See ", images[0], " and ", images[1], " hm ", Media("audio", "c.wav"), "!"), seed=5)
    seeds = [int(item["seed"]) for item in encoded.items]
    text = preparer.chat.decode([id for id, kept in zip(encoded.ids.tolist(), _outside(encoded), strict=True) if kept])
    assert f"See  seed {seeds[0]}. and  seed {seeds[1]}. hm !" in text
    assert seeds[0] != seeds[1]


def _outside(encoded: EncodedSample) -> list[bool]:
    inside = {place for span in encoded.spans for place in range(span.start, span.start + span.length)}
    return [place not in inside for place in range(len(encoded.ids))]
