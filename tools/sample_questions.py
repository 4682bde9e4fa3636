"""Pictures to records: the questions that are asked about them and the answers that are right.

A record is `{"id", "messages"}` with typed parts. A closed answer is exactly one category word.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeAlias

from sample_categories import CATEGORIES, Picture

Record: TypeAlias = dict[str, object]

CHOICE = ", ".join(CATEGORIES)

CLOSED = f"Which category is it: {CHOICE}?"

SHORT = "Which category is it?"
"""The closed question of the quickstart: the categories are learnt from the answers, and a step costs a third."""

PAIR = f"Which categories do the first and the second picture belong to? Choose from: {CHOICE}."

OVERLAP = (
    {"arrow", "sign"},
    {"device", "tool"},
    {"food", "plant"},
    {"food", "animal"},
    {"person", "smiley"},
    {"paper", "tool"},
    {"paper", "device"},
    {"building", "sign"},
)
"""Pairs that a picture may well show both of: never asked of one as the false one."""

NOUNS = {
    "animal": "horse sparrow frog shark",
    "building": "church castle school factory",
    "device": "laptop printer television telephone",
    "food": "bread cheese pizza soup",
    "paper": "letter newspaper notebook envelope",
    "person": "teacher doctor farmer judge",
    "plant": "oak rose cactus tulip",
    "tool": "hammer saw screwdriver wrench",
    "vehicle": "bus train bicycle truck",
}
"""Plain facts for the records without a picture."""


def record(name: str, question: str, answer: str, *pictures: Picture) -> Record:
    images = [{"type": "image", "image": picture.path} for picture in pictures]
    return {
        "id": name,
        "messages": [
            {"role": "user", "content": [*images, {"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
    }


def _name(picture: Picture, kind: str) -> str:
    return f"{kind}/{picture.drawing.key}"


def closed(picture: Picture) -> Record:
    return record(_name(picture, "category"), CLOSED, picture.category, picture)


def short(picture: Picture) -> Record:
    """The closed question without the categories."""
    return record(_name(picture, "category"), SHORT, picture.category, picture)


def caption(picture: Picture) -> Record:
    """The category, and the title where there is one that says more."""
    answer = f"The picture shows {CATEGORIES[picture.category]}"
    if picture.title.startswith("flag of"):
        answer = f"The picture shows the {picture.title}"
    elif picture.title and picture.title != picture.category:
        answer += f": {picture.title}"
    return record(_name(picture, "caption"), "Describe the picture briefly.", f"{answer}.", picture)


def title(picture: Picture) -> list[Record]:
    question = "What does the picture show? Answer in a few words."
    return [record(_name(picture, "title"), question, picture.title, picture)] if picture.title else []


def keywords(picture: Picture) -> list[Record]:
    if len(picture.keywords) < 2:
        return []
    return [record(_name(picture, "keywords"), "List keywords for the picture.", ", ".join(picture.keywords), picture)]


def _stranger(picture: Picture, pictures: Sequence[Picture], random: Random) -> Picture:
    """A titled picture of a category that this one surely does not show."""
    while True:
        other = random.choice(pictures)
        pair = {other.category, picture.category}
        if other.title and len(pair) == 2 and pair not in OVERLAP:
            return other


def yes_no(pictures: Sequence[Picture], random: Random) -> list[Record]:
    """One question a picture, about its category or its title; as many yes as no in every category."""
    records = []
    for number, picture in enumerate(pictures):
        right = number % 2 == 0
        asked = picture if right else _stranger(picture, pictures, random)
        thing = CATEGORIES[asked.category]
        if asked.title and random.random() < 0.5:
            thing = f"this: {asked.title}"
        question = f"Does the picture show {thing}? Answer yes or no."
        records.append(record(_name(picture, "yes-no"), question, "yes" if right else "no", picture))
    return records


def pairs(pictures: Sequence[Picture], count: int, random: Random) -> list[Record]:
    """Questions over two pictures of different categories."""
    records: list[Record] = []
    while len(records) < count:
        first, second = random.sample(pictures, 2)
        if first.category != second.category:
            answer = f"{first.category} and {second.category}"
            records.append(record(f"pair/{len(records):03}", PAIR, answer, first, second))
    return records


def text_only(random: Random) -> list[Record]:
    """Questions about the categories themselves, without a picture."""
    facts: list[tuple[str, str]] = []
    for category, line in NOUNS.items():
        nouns = line.split()
        others = [name for name in NOUNS if name != category and {name, category} not in OVERLAP]
        for noun in nouns:
            article = "an" if noun[0] in "aeiou" else "a"
            facts.append((f"Which of these categories does the word {noun} belong to: {CHOICE}?", category))
            if category not in {"food", "paper"}:
                facts.append((f"Is {article} {noun} {CATEGORIES[category]}? Answer yes or no.", "yes"))
                wrong = CATEGORIES[random.choice(others)]
                facts.append((f"Is {article} {noun} {wrong}? Answer yes or no.", "no"))
        facts.append((f"Name {CATEGORIES[category]}." if category not in {"food", "paper"} else "", nouns[0]))
    facts = [fact for fact in facts if fact[0]]
    return [record(f"text/{number:03}", question, answer) for number, (question, answer) in enumerate(facts)]


def is_closed(record: Record) -> bool:
    """Whether a record asks for the category."""
    return str(record["id"]).startswith("category/")


def instruct(pictures: Sequence[Picture], random: Random) -> list[Record]:
    """Stage 2: every kind of question, two-picture and text-only records among them, shuffled."""
    records = [closed(picture) for picture in pictures] + yes_no(pictures, random)
    for picture in pictures:
        records += title(picture) + keywords(picture)
    records += pairs(pictures, 50, random) + text_only(random)
    random.shuffle(records)
    return records


def heldout(pictures: Sequence[Picture], random: Random) -> list[Record]:
    """Every kind of question over pictures, in order of kind."""
    records = [closed(picture) for picture in pictures] + yes_no(pictures, random)
    for ask in (title, keywords):
        for picture in pictures:
            records += ask(picture)
    return records + pairs(pictures, 20, random)
