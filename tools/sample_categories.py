"""Which drawing belongs to which category, what it may be called, and on which side of the split it falls.

A drawing gets its category from its place (folder or emoji label); `sample_labels.txt` overrides that picture by
picture. Pictures that are variants of each other form a family and stay on one side of the split.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from packages import SourceError
from PIL import Image
from sample_sources import Drawing

CATEGORIES = {
    "animal": "an animal",
    "arrow": "an arrow",
    "building": "a building",
    "device": "a device",
    "flag": "a flag",
    "food": "food",
    "paper": "paper",
    "person": "a person",
    "plant": "a plant",
    "sign": "a sign",
    "smiley": "a smiley",
    "tool": "a tool",
    "vehicle": "a vehicle",
}
"""Category -> how a sentence names it."""

PLACES = (
    ("animal", r"openclipart:animals(/|$)|emoji:animal-"),
    ("arrow", r"openclipart:shapes/arrows$|emoji:arrow$"),
    ("building", r"openclipart:buildings(/homes)?$|emoji:place-(building|religious)$"),
    ("device", r"openclipart:office/telephone$|emoji:(computer|phone)$"),
    ("flag", r"openclipart:signs_and_symbols/flags(/(?!historic|semaphore)|$)|emoji:(country|subdivision)-flag$"),
    ("food", r"openclipart:food(/(?!beverages)|$)|emoji:food-"),
    ("paper", r"emoji:book-paper$"),
    ("person", r"openclipart:people(/stickmen)?$|emoji:person(-|$)"),
    ("plant", r"openclipart:plants(/|$)|emoji:plant-"),
    ("sign", r"emoji:(transport-sign|warning)$"),
    ("smiley", r"openclipart:people/smilies$|emoji:face-(positive|neutral|negative|sick|role)$"),
    ("tool", r"emoji:(tool|writing)$"),
    ("vehicle", r"emoji:transport-(air|ground|water)$"),
)
"""Category <- places, in full. Of the folders not named here only what `sample_labels.txt` lists is taken."""

NEWER_EMOJI = {
    "animal-mammal": "🦧🦮🦥🦦🦨🦬🦣🦫🦤🦭",
    "animal-bug": "🪲🪳🪰🪱",
    "food-prepared": "🧄🧅🧇🧆🧈🦪🫐🫒🫑🫓🫔",
    "plant-other": "🪴🪷",
    "place-building": "🛖🛕",
    "tool": "🪓🪚🪛🪠🪒🧹🪡🪜🪥🪝",
    "transport-ground": "🛺🛻🛵🦼🦽",
    "face-neutral": "🥱🥲🫠🫢🫣🫡🫤🥹",
    "person-role": "🥷🧍🧎🤵",
}
"""Emoji that the label file of CLDR 41 does not have yet."""

HELDOUT, VALIDATION, TRAIN_LIMIT = 20, 7, 220
"""Pictures of each category."""

EQUAL, SAME = 2.0, 9.0
"""Root mean square differences, of 255: below the first, one picture is dropped; below the second, one motif."""

GENERIC = re.compile(
    r"clip ?art|icon|svg|symbols?\b|elements|\bset\b|submission|sibmission|various|untitled|theme|signal ?flag"
    r"|road signs"
)
_COLOURS = "red green blue yellow orange purple pink black white brown grey gray teal magenta cyan gold bw"
COLOURS = frozenset(_COLOURS.split())
_JUNK = "unsorted hash clipart image media symbol symbols sign icon icons shape mapsym place application"
JUNK = frozenset(_JUNK.split())
GENDER = re.compile(r"\b(person|people|man|men|woman|women|male|female|boy|girl|mx|mrs|older)s?\b")


@dataclass(frozen=True)
class Picture:
    """A labelled drawing with its pixels."""

    drawing: Drawing
    category: str
    title: str
    """Lower-case English name fit for a question; empty where the source gives none."""
    keywords: tuple[str, ...]
    image: Image.Image

    @property
    def path(self) -> str:
        return f"pictures/{self.drawing.source}/{self.drawing.name}.webp"


def newer_labels() -> dict[str, str]:
    return {character: label for label, characters in NEWER_EMOJI.items() for character in characters}


def read_overrides() -> dict[str, str]:
    """`sample_labels.txt`: picture -> category, or `-`."""
    lines = (Path(__file__).parent / "sample_labels.txt").read_text("utf-8").splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    wrong = [row for row in rows if len(row) != 2 or row[0] not in {*CATEGORIES, "-"}]
    if wrong:
        raise SourceError(f"sample_labels.txt: {wrong[0]} is not `category source/name`; categories: {[*CATEGORIES]}")
    return {key: category for category, key in rows}


def categorise(drawings: Iterable[Drawing]) -> list[tuple[Drawing, str]]:
    """The drawings that have a category, with it."""
    overrides = read_overrides()
    found = []
    for drawing in drawings:
        place = f"{drawing.source}:{drawing.place}"
        rule = next((category for category, pattern in PLACES if re.match(pattern, place)), "-")
        category = overrides.get(drawing.key, rule)
        if category != "-":
            found.append((drawing, category))
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", re.sub(r"[_\d]+", " ", text.lower()))


def vocabulary(drawings: Sequence[Drawing]) -> set[str]:
    """English words: those of CLDR's emoji names, and those that three artists of openclipart used."""
    users: dict[str, set[str]] = defaultdict(set)
    for drawing in drawings:
        if "flag" in drawing.place:
            continue
        for word in _words(" ".join((drawing.title, *drawing.keywords))):
            users[word].add("CLDR" if drawing.source == "emoji" else drawing.artist)
    return {word for word, artists in users.items() if "CLDR" in artists or len(artists) >= 3} - {"hash"}


def _own_name(drawing: Drawing) -> str:
    """What the drawing is called: the title, or the file name where the title is that of a collection."""
    if drawing.source == "emoji" or not GENERIC.search(drawing.title.lower()):
        return drawing.title
    artist = _words(drawing.artist)
    words = _words(drawing.name)
    while len(words) > 1 and any(name.startswith(words[-1]) for name in artist):
        words.pop()
    return " ".join(words)


def clean_title(drawing: Drawing, category: str, known: set[str], countries: Mapping[str, str]) -> str:
    """A name of one to four English words, or nothing."""
    name = re.sub(r"\([^)]*\)|\d+", " ", _own_name(drawing)).replace("_", " ").replace("-", " ").strip()
    if category == "flag":
        country = countries.get(country_of(drawing))
        return f"flag of {country}" if country else ""
    words = _words(name)
    while len(words) > 1 and (len(words[-1]) == 1 or words[-1] in {"bw", "and"}):
        words.pop()
    plain = re.fullmatch(r"[A-Za-z' ,.:!]+", name) is not None
    if not plain or not 1 <= len(words) <= 4 or len("".join(words)) < 3 or not set(words) <= known:
        return ""
    return "" if GENERIC.search(name.lower()) else " ".join(words)


def countries(drawings: Iterable[Drawing]) -> dict[str, str]:
    """The countries that have a flag among the emoji: their words as `country_of` gives them -> their name."""
    flags = (drawing for drawing in drawings if drawing.place == "country-flag")
    return {country_of(flag): flag.title.removeprefix("flag: ") for flag in flags}


def country_of(drawing: Drawing) -> str:
    """The words of a flag's title that are not about its being a flag."""
    skip = {"flag", "of", "the", "national", "civil", "state", "variant", "old", "new", "bw", "and"}
    return " ".join(word for word in _words(_own_name(drawing)) if word not in skip)


def clean_keywords(drawing: Drawing, known: set[str]) -> tuple[str, ...]:
    """Up to five keywords of English words; folder names and file remarks left out."""
    good = [word for word in drawing.keywords if word not in JUNK and re.fullmatch(r"[a-z]{3,}(?: [a-z]+)?", word)]
    return tuple(word for word in good if set(_words(word)) <= known)[:5]


def _family(picture: Picture) -> str:
    """The same for variants of one motif: numbering, colour, skin tone and gender do not tell them apart."""
    drawing = picture.drawing
    if picture.category == "flag":
        return f"flag:{country_of(drawing)}"
    text = GENDER.sub(" ", _own_name(drawing).lower().split(":")[0])
    words = [word for word in _words(re.sub(r"\([^)]*\)", " ", text)) if len(word) > 1 and word not in COLOURS]
    return f"{drawing.source}:{drawing.artist}:{' '.join(words) or drawing.name}"


def _thumbnails(pictures: Sequence[Picture]) -> NDArray[np.float64]:
    small = [picture.image.resize((24, 24), Image.Resampling.BOX) for picture in pictures]
    return np.stack([np.asarray(image, dtype=np.float64).reshape(-1) for image in small])


def distinct(pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures without those that look exactly like an earlier one (the packages hold many copies)."""
    pixels = _thumbnails(pictures)
    kept: list[int] = []
    for index in range(len(pictures)):
        distance = ((pixels[kept] - pixels[index]) ** 2).mean(1)
        if not (distance < EQUAL**2).any():
            kept.append(index)
    return [pictures[index] for index in kept]


def families(pictures: Sequence[Picture]) -> list[list[int]]:
    """Indices of pictures that must stay together: the same motif by name, or by its pixels."""
    pixels = _thumbnails(pictures)
    squares = (pixels**2).sum(1)
    parent = list(range(len(pictures)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, picture in enumerate(pictures):
        parent[root(index)] = root(first.setdefault(_family(picture), index))
        distance = (squares[index] + squares[:index] - 2 * (pixels[:index] @ pixels[index])) / pixels.shape[1]
        for other in np.flatnonzero(distance < SAME**2):
            parent[root(index)] = root(int(other))
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(pictures)):
        members[root(index)].append(index)
    return [members[key] for key in sorted(members)]


def split(pictures: Sequence[Picture], random: Random) -> dict[str, list[Picture]]:
    """Whole families to heldout, validation and train; equal numbers a category in the first two."""
    sides: dict[str, list[Picture]] = {"heldout": [], "validation": [], "train": []}
    mixed = families(pictures)
    for category in CATEGORIES:
        own = [[pictures[i] for i in family] for family in mixed if pictures[family[0]].category == category]
        own = [[picture for picture in family if picture.category == category] for family in own]
        random.shuffle(own)
        for side, wanted in (("heldout", HELDOUT), ("validation", VALIDATION), ("train", TRAIN_LIMIT)):
            taken: list[Picture] = []
            for family in list(own):
                if side == "train" or len(family) <= min(3, wanted - len(taken)):
                    taken += family
                    own.remove(family)
                if len(taken) >= wanted:
                    break
            if side != "train" and len(taken) != wanted:
                raise SourceError(f"{category}: {len(taken)} pictures for {side}, wanted {wanted}")
            sides[side] += sorted(taken[:wanted], key=lambda picture: picture.path)
    return sides


def report(sides: dict[str, list[Picture]]) -> str:
    """Pictures per category and side, as text."""
    counts = {side: Counter(picture.category for picture in chosen) for side, chosen in sides.items()}
    rows = [f"{name:10}" + "".join(f"{counts[side][name]:12}" for side in sides) for name in CATEGORIES]
    return "\n".join([" " * 10 + "".join(f"{side:>12}" for side in sides), *rows])
