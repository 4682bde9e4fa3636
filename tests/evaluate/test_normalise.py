from __future__ import annotations

import pytest

from omnivit.evaluate.metrics import exact_match
from omnivit.evaluate.normalise import normalise, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat!", "cat"),
        ("a dog,an owl", "dog, an owl"),
        ("U.S.A.", "usa"),
        ("3.10.2024", "3.10.2024"),
        ("costs 1,234,567.50 in all", "costs 1234567.5 in all"),
        (".50", "0.5"),
        ("", ""),
        ("A", "a"),
        ("?", "?"),
        ("f(x)", "f(x)"),
        ("**B**.", "b"),
        ("(A) and (B)", "(a) and (b)"),
        ("((A) and (B)).", "(a) and (b)"),
        ('"yes" or "no"', '"yes" or "no"'),
        ("'it's'", "its"),
        ("**B** or **C**", "**b** or **c**"),
        ("Überraschung — ja", "überraschung — ja"),
    ],
)
def test_normalising_twice_changes_nothing_more(text: str, expected: str) -> None:
    assert normalise(text) == expected
    assert normalise(expected) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A", "B"), ("A", "The"), ("A, B", "B"), ("A and C", "and C"), ("B and A", "B and"), ("vitamin A", "vitamin"),
        ("hepatitis A", "hepatitis"), ("influenza A", "influenza"), ("blood group A", "blood group"), ("1.5", "15"),
        ("3.14", "314"), ("10", "1.0"), ("0.5", "05"), ("-5", "5"), ("-3 dB", "3 dB"), ("\u22125", "5"), ("1/2", "12"),
        ("3:30", "330"), ("50%", "50"), ("<5", ">5"), ("x+y", "x-y"), ("C#", "C"), ("C++", "C"), ("2-3", "23"),
        ("$5", "5%"), ("12.5.2024", "125.2024"), ("p < 0.05", "p > 0.05"), ("", "A"), ("1,5", "15"), ("5'", "5"),
        ("(a) b (c)", "a) b (c"),
    ],
)  # fmt: skip
def test_different_answers_count_as_different(one: str, other: str) -> None:
    assert not exact_match(one, other) and not exact_match(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Yes.", "yes"), ("a cat", "cat"), ("The Boat", "boat"), ("A", "a"), ("A.", "A"), ("(A)", "A"), ("A)", "A"),
        ("(B).", "B"), ("1,000", "1000"), ("1.50", "1.5"), ("10.0", "10"),
        ("don't know", "dont know"), ("“yes”", "yes"),
        ("是。", "是"), ("sí", "sí"), ("nai\u0308ve", "naïve"), ("yes!", "YES"), ("two  cats", "two cats"),
        ("３", "3"), ("\u22125", "-5"), ("p.m.", "PM"), ("red,blue", "red, blue"), ("'no'", "No"),
    ],
)  # fmt: skip
def test_the_same_answer_in_another_form_counts_as_right(one: str, other: str) -> None:
    assert exact_match(one, other) and exact_match(other, one)


def test_scripts_without_spaces_are_compared_by_character() -> None:
    assert tokens("图中是 a red猫。") == ["图", "中", "是", "a", "red", "猫"]
    assert tokens("ตา") == ["ต", "า"]
    assert tokens("빨간 고양이") == ["빨간", "고양이"]
