from __future__ import annotations

import pytest

from omnivit.contracts.sample import Media, Message, Part, Sample, Text
from omnivit.errors import DataError, RecipeError
from omnivit.evaluate.conditions import CONDITIONS, check_conditions, none, question, reference, shuffled, true


def asked(name: str, *pictures: str, slot: str = "image") -> Sample:
    parts: list[Part] = [Media(slot, picture, root="/data") for picture in pictures]
    return Sample(name, (Message("user", (Text("Look: "), *parts, Text("what?"))),), f"f.jsonl:{name}")


def sources(sample: Sample) -> list[str]:
    return [media.source for media in sample.media()]


def test_question_and_reference_are_cut_at_the_last_answer() -> None:
    turns = [("user", "one?"), ("assistant", "1"), ("user", "two?"), ("assistant", "2"), ("user", "never asked")]
    sample = Sample("s", tuple(Message(role, (Text(text),)) for role, text in turns))  # type: ignore[arg-type]
    assert [message.text for message in question(sample).messages] == ["one?", "1", "two?"]
    assert reference(sample) == "2"


@pytest.mark.parametrize(
    ("roles", "message"), [((), "no assistant"), (("user",), "no assistant"), (("assistant",), "nothing is asked")]
)
def test_a_sample_without_question_or_answer(roles: tuple[str, ...], message: str) -> None:
    sample = Sample("s7", tuple(Message(role, (Text("x"),)) for role in roles), "file.jsonl:3")  # type: ignore[arg-type]
    for function in (question, reference):
        with pytest.raises(DataError, match=rf"sample 's7' \(file.jsonl:3\).*{message}"):
            function(sample)


def test_true_and_none() -> None:
    samples = [asked("0", "a", "b"), asked("1")]
    assert true(samples, 3) == samples
    blind = none(samples, 3)
    assert [sources(sample) for sample in blind] == [[], []]
    assert [sample.messages[0].text for sample in blind] == ["Look: what?"] * 2
    assert [sample.id for sample in blind] == ["0", "1"]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [2, 3, 5, 40])
def test_shuffled_is_a_derangement(size: int, seed: int) -> None:
    samples = [asked(str(i), f"{i}.png") for i in range(size)]
    result = shuffled(samples, seed)
    assert sorted(source for sample in result for source in sources(sample)) == sorted(f"{i}.png" for i in range(size))
    assert all(sources(old) != sources(new) for old, new in zip(samples, result, strict=True))
    assert [s.id for s in result] == [s.id for s in samples]
    assert [s.messages[0].text for s in result] == [s.messages[0].text for s in samples]


@pytest.mark.parametrize("seed", range(8))
def test_shuffled_never_shows_the_same_picture(seed: int) -> None:
    """Half of the questions show one picture: the tightest case in which each medium can be used once."""
    names = ["x"] * 10 + [f"y{i // 2}" for i in range(10)]
    samples = [asked(str(i), name) for i, name in enumerate(names)]
    shown = [sources(sample)[0] for sample in shuffled(samples, seed)]
    assert sorted(shown) == sorted(names)
    assert all(old != new for old, new in zip(names, shown, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_a_picture_in_most_questions_is_replaced_by_repeats(seed: int) -> None:
    names = ["x"] * 9 + ["y"]
    shown = [sources(sample)[0] for sample in shuffled([asked(str(i), n) for i, n in enumerate(names)], seed)]
    assert shown == ["y"] * 9 + ["x"]


@pytest.mark.parametrize("seed", range(6))
def test_shuffled_keeps_slots_and_counts_and_shares_no_medium(seed: int) -> None:
    pairs = [asked(f"p{i}", f"{i}", f"{(i + 1) % 6}") for i in range(6)]
    sounds = [asked(f"s{i}", f"{i}.wav", slot="audio") for i in range(3)]
    text = asked("t")
    samples = [pairs[0], sounds[0], text, *pairs[1:], *sounds[1:]]
    for old, new in zip(samples, shuffled(samples, seed), strict=True):
        assert [m.slot for m in new.media()] == [m.slot for m in old.media()]
        assert set(sources(old)).isdisjoint(sources(new))
    assert shuffled(samples, seed)[2] == text


def test_another_spelling_of_a_path_is_the_same_picture() -> None:
    samples = [asked("0", "a.png"), asked("1", "./a.png"), asked("2", "b.png"), asked("3", "c.png")]
    for seed in range(6):
        assert not {sources(s)[0] for s in shuffled(samples, seed)[:2]} & {"a.png", "./a.png"}


def test_objects_in_memory_are_told_apart() -> None:
    one, two = object(), object()
    samples = [Sample(str(i), (Message("user", (Media("image", o),)),)) for i, o in enumerate((one, two, one, two))]
    assert [next(s.media()).source for s in shuffled(samples, 0)] == [two, one, two, one]


def test_shuffled_depends_on_the_seed_alone() -> None:
    samples = [asked(str(i), f"{i}.png") for i in range(30)]
    assert shuffled(samples, 1) == shuffled(samples, 1) != shuffled(samples, 2)


def test_nothing_to_shuffle_with() -> None:
    with pytest.raises(DataError, match=r"sample '1' \(f.jsonl:1\): no other sample .*\(image, image\)"):
        shuffled([asked("0", "a"), asked("1", "b", "c"), asked("2", "d")])


def test_check_conditions() -> None:
    check_conditions(CONDITIONS)
    with pytest.raises(RecipeError, match=r"no condition 'shufled'; did you mean 'shuffled'.*none, shuffled, true"):
        check_conditions(["true", "shufled"])
