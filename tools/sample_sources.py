"""Where the sample pictures come from: three Debian packages, read into one list of drawings.

Knows the packages, their file formats and their licence marks; knows nothing of categories, splits or questions.
"""

import hashlib
import io
import re
import subprocess
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from packages import Debian, SourceError, need, unpacked
from PIL import Image

SIDE = 128
"""Pixels on a side of every picture written."""

PUBLIC_DOMAIN = {"http://web.resource.org/cc/PublicDomain", "http://creativecommons.org/licenses/publicdomain/"}

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


PACKAGES = (
    Debian("openclipart-svg", "1:0.18+dfsg-19", "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5"),
    Debian(
        "fonts-noto-color-emoji",
        "2.042-0+deb12u1",
        "a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
    ),
    Debian("unicode-cldr-core", "41-0.1", "35d30d5d3bee4d8244e95236259c4c2a0db06e21bad696515751fcfeee4d0260"),
)


@dataclass(frozen=True)
class Drawing:
    """One picture before it is labelled."""

    source: str
    """`openclipart` or `emoji`."""
    name: str
    """File name without suffix, unique in its source."""
    place: str
    """The folder of openclipart, or CLDR's label of an emoji."""
    title: str
    keywords: tuple[str, ...]
    artist: str
    origin: Path | bytes
    """An SVG file, or the PNG cut from the font."""

    @property
    def key(self) -> str:
        return f"{self.source}/{self.name}"


class Shares(NamedTuple):
    """The folders `usr/share` of the packages."""

    openclipart: Path
    fonts: Path
    cldr: Path


def fetch(cache: Path) -> Shares:
    """Download, verify and unpack the packages into `cache`."""
    return Shares(*(unpacked(package, cache) / "usr" / "share" for package in PACKAGES))


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _children(node: ET.Element, name: str) -> Iterator[ET.Element]:
    return (child for child in node if _local(child.tag) == name)


def _text(nodes: Iterator[ET.Element]) -> str:
    return " ".join(" ".join("".join(node.itertext()).split()) for node in nodes)


def _openclipart_drawing(path: Path, root: Path) -> Drawing | None:
    """The drawing in an SVG file, or None unless every licence named in it is the public domain dedication."""
    try:
        tree = ET.parse(path)
    except ET.ParseError:
        return None
    work = next((node for node in tree.iter() if _local(node.tag) == "Work"), None)
    if work is None:
        return None
    licences = {node.get(f"{RDF}resource", "") for node in tree.iter() if _local(node.tag) == "license"}
    if not licences or not licences <= PUBLIC_DOMAIN:
        return None
    keywords = [_text(iter([item])) for bag in _children(work, "subject") for item in bag.iter(f"{RDF}li")]
    stem = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    return Drawing(
        "openclipart",
        stem,
        path.parent.relative_to(root).as_posix(),
        _text(_children(work, "title")),
        tuple(dict.fromkeys(word.strip().lower() for word in keywords if word.strip())),
        _text(_children(work, "creator")),
        path,
    )


def read_openclipart(shares: Shares) -> list[Drawing]:
    """Every public-domain drawing, once by content; names made unique."""
    root = shares.openclipart / "openclipart" / "svg"
    drawings: list[Drawing] = []
    contents: set[str] = set()
    names: dict[str, int] = defaultdict(int)
    for path in sorted(root.rglob("*.svg")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_symlink() or digest in contents:
            continue
        contents.add(digest)
        drawing = _openclipart_drawing(path, root)
        if drawing is None:
            continue
        names[drawing.name] += 1
        if names[drawing.name] > 1:
            drawing = Drawing(**{**vars(drawing), "name": f"{drawing.name}_{names[drawing.name]}"})
        drawings.append(drawing)
    return drawings


def _unicode_set(text: str) -> list[str]:
    """The members of a UnicodeSet such as `[☕🍵-🍼{👨‍🌾}]`."""
    members: list[str] = []
    for sequence, first, last in re.findall(r"\{([^}]*)\}|(.)(?:-(.))?", text.strip()[1:-1].replace(" ", "")):
        if sequence:
            members.append(sequence)
        else:
            members += map(chr, range(ord(first), ord(last or first) + 1))
    return members


def _emoji_labels(share: Path) -> dict[str, str]:
    """Emoji -> CLDR's second-level label (`animal-bird`)."""
    labels: dict[str, str] = {}
    for line in (share / "unicode/cldr/common/properties/labels.txt").read_text("utf-8").splitlines():
        fields = [field.strip() for field in line.split(";")]
        if line.startswith("[") and len(fields) == 3:
            for member in _unicode_set(fields[0]):
                labels.setdefault(member.replace("\ufe0f", ""), fields[2])
    return labels


def _emoji_names(share: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Emoji -> its English name and keywords."""
    names: dict[str, str] = {}
    keywords: dict[str, tuple[str, ...]] = {}
    for folder in ("annotations", "annotationsDerived"):
        for node in ET.parse(share / "unicode/cldr/common" / folder / "en.xml").iter("annotation"):
            character, text = node.get("cp", "").replace("\ufe0f", ""), node.text or ""
            if node.get("type") == "tts":
                names[character] = text.strip()
            else:
                keywords[character] = tuple(word.strip().lower() for word in text.split("|"))
    return {character: (name, keywords.get(character, ())) for character, name in names.items()}


def _ligatures(font: Any) -> dict[tuple[str, ...], str]:
    """Glyph sequences that the font draws as one glyph."""
    found: dict[tuple[str, ...], str] = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for subtable in lookup.SubTable:
            table = getattr(subtable, "ExtSubTable", subtable)
            for first, ligatures in getattr(table, "ligatures", {}).items():
                for ligature in ligatures:
                    found.setdefault((first, *ligature.Component), ligature.LigGlyph)
    return found


def read_emoji(shares: Shares, extra_labels: dict[str, str]) -> list[Drawing]:
    """Every labelled emoji that the font draws; `extra_labels` are for those newer than CLDR's label file."""
    try:
        from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
    except ImportError as error:
        raise SourceError(
            "fontTools is not installed; it cuts the emoji from their font: pip install fonttools"
        ) from error
    font = TTFont(shares.fonts / "fonts/truetype/noto/NotoColorEmoji.ttf")
    glyphs, ligatures = font.getBestCmap(), _ligatures(font)
    strike = font["CBDT"].strikeData[0]
    names = _emoji_names(shares.cldr)
    drawings: list[Drawing] = []
    for character, label in sorted({**_emoji_labels(shares.cldr), **extra_labels}.items()):
        sequence = tuple(glyphs.get(ord(part), "") for part in character)
        glyph = sequence[0] if len(sequence) == 1 else ligatures.get(sequence, "")
        if glyph not in strike or character not in names:
            continue
        title, keywords = names[character]
        stem = re.sub(r"[^a-z0-9]+", "_", title.lower().replace("’", "")).strip("_")
        drawings.append(Drawing("emoji", stem, label, title, keywords, "Google", bytes(strike[glyph].imageData)))
    return drawings


def rasterise(drawing: Drawing) -> Image.Image | None:
    """The drawing on white, square, RGB; None where librsvg cannot draw it or hardly anything is visible."""
    if isinstance(drawing.origin, bytes):
        png = drawing.origin
    else:
        size = str(SIDE * 2)
        command = [need("rsvg-convert", "librsvg2-bin"), "-w", size, "-h", size, "--keep-aspect-ratio"]
        result = subprocess.run([*command, str(drawing.origin)], capture_output=True, check=False, timeout=60)
        if result.returncode or not result.stdout:
            return None
        png = result.stdout
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    flat = Image.new("RGBA", picture.size, "white")
    flat.alpha_composite(picture)
    ink = flat.convert("L").point(lambda level: 255 if level < 245 else 0)
    box = ink.getbbox()
    if box is None:
        return None
    cut = flat.convert("RGB").crop(box)
    margin = SIDE - 8
    scale = margin / max(cut.size)
    size_out = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    cut = cut.resize(size_out, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(cut, ((SIDE - cut.width) // 2, (SIDE - cut.height) // 2))
    return square
