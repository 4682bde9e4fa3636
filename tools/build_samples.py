"""Build `samples/`, a small picture-instruction set, from three Debian packages.

    python tools/build_samples.py --out samples            # about a minute; needs Debian 12, rsvg-convert, fonttools

The packages are downloaded with apt-get, verified by sha256 and kept in `--cache`. The same versions of librsvg,
Pillow and libwebp give the same bytes. Sources and formats: sample_sources.py; labels and split: sample_categories.py;
questions: sample_questions.py.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import sample_categories as categories
import sample_questions as questions
import sample_sources as sources
from packages import SourceError
from sample_categories import Picture
from sample_questions import Record

SEED = 0

LICENCES = """\
The pictures and texts in this folder come from three Debian 12 packages. All may be redistributed and changed.

openclipart-svg {openclipart-svg}: pictures/openclipart, their titles and keywords
    Public domain. Only files whose own metadata carries the Creative Commons public domain dedication are taken.
    Open Clip Art Library, https://openclipart.org. Drawn at {side} x {side} pixels on white. The artists:
    {artists}

fonts-noto-color-emoji {fonts-noto-color-emoji}: pictures/emoji
    Noto Color Emoji, copyright 2013-2017 Google Inc., Arjen Nienhuis and others. Images under the Apache License 2.0
    (https://www.apache.org/licenses/LICENSE-2.0), the font under the SIL Open Font License 1.1; flags are in the
    public domain. https://github.com/googlefonts/noto-emoji. Bitmaps of the font, cropped and scaled, on white.

unicode-cldr-core {unicode-cldr-core}: names and keywords of the emoji
    Unicode-DFS-2016. The copyright and permission notice:

{notice}
"""

README = """\
# Sample pictures with instructions

{pictures} pictures in {categories} categories, with questions and answers; small enough to train on with a CPU.
Paths of pictures are relative to this folder; the reader is `messages`. Licences and artists: `LICENSES`.

| file | records | what |
|---|---|---|
{files}

| category | train | validation | held out |
|---|---|---|---|
{counts}

Splits are by picture, and variants of one motif (numbering, colour, gender, nearly equal pixels) stay on one side.
A closed answer is exactly the category word. Categories were checked by eye; titles and keywords are as the sources
give them, filtered for English. Rebuild: `python tools/build_samples.py --out samples`.
"""


def collect(shares: sources.Shares) -> list[Picture]:
    """Every picture that has a category, drawn."""
    labels = categories.newer_labels()
    drawings = sources.read_openclipart(shares) + sources.read_emoji(shares, labels)
    known = categories.vocabulary(drawings)
    countries = categories.countries(drawings)
    chosen = categories.categorise(drawings)
    unknown = sorted(set(categories.read_overrides()) - {drawing.key for drawing in drawings})
    if unknown:
        raise SourceError(f"sample_labels.txt names pictures that the packages do not have: {unknown[:5]}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = pool.map(sources.rasterise, [drawing for drawing, _ in chosen])
        pictures = [
            Picture(
                drawing,
                category,
                categories.clean_title(drawing, category, known, countries),
                categories.clean_keywords(drawing, known),
                image,
            )
            for (drawing, category), image in zip(chosen, images, strict=True)
            if image is not None
        ]
    return categories.distinct(pictures)


def write_records(path: Path, records: Sequence[Record]) -> None:
    lines = (json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n" for record in records)
    path.write_text("".join(lines), "utf-8")


def write_texts(
    out: Path, shares: sources.Shares, sides: dict[str, list[Picture]], files: dict[str, list[Record]]
) -> None:
    """README.md and LICENSES."""
    pictures = [picture for side in sides.values() for picture in side]
    artists = {picture.drawing.artist.split("(")[0].split("[")[0].strip() for picture in pictures}
    named = sorted(artist for artist in artists if artist and "@" not in artist and artist != "Google")
    notice = (shares.cldr / "doc/unicode-cldr-core/copyright").read_text("utf-8").rstrip()
    versions = {package.name: package.version for package in sources.PACKAGES}
    text = LICENCES.format_map({**versions, "side": sources.SIDE, "artists": "; ".join(named), "notice": notice})
    (out / "LICENSES").write_text(text, "utf-8")
    kinds = {
        "align.jsonl": "stage 1, train pictures: short captions",
        "category.jsonl": "stage 2, train pictures: category, chosen from a list",
        "category_short.jsonl": "the same without the list",
        "instruct.jsonl": "stage 2, train pictures: yes or no, title, keywords; two pictures; none",
        "validation.jsonl": "validation pictures: category, without the list",
        "heldout.jsonl": "held-out pictures: every kind of question",
        "heldout_category.jsonl": "held-out pictures: category, chosen from a list, equally many of each",
        "heldout_category_short.jsonl": "the same without the list",
    }
    counts = {side: Counter(picture.category for picture in chosen) for side, chosen in sides.items()}
    rows = [
        f"| {name} | {counts['train'][name]} | {counts['validation'][name]} | {counts['heldout'][name]} |"
        for name in categories.CATEGORIES
    ]
    listing = [f"| `{name}` | {len(files[name])} | {kind} |" for name, kind in kinds.items()]
    text = README.format(
        pictures=len(pictures),
        categories=len(categories.CATEGORIES),
        files="\n".join(listing),
        counts="\n".join(rows),
    )
    (out / "README.md").write_text(text, "utf-8")


def build(out: Path, cache: Path) -> dict[str, list[Picture]]:
    """Write the whole folder `out`; pictures and records of an earlier build are replaced."""
    shares = sources.fetch(cache)
    random = Random(SEED)
    sides = categories.split(collect(shares), random)
    shutil.rmtree(out / "pictures", ignore_errors=True)
    for picture in (picture for side in sides.values() for picture in side):
        path = out / picture.path
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.image.save(path, "WEBP", quality=75, method=6)
    captions = [questions.caption(picture) for picture in sides["train"]]
    random.shuffle(captions)
    shuffled = [questions.short(picture) for picture in sides["train"]]
    Random(SEED).shuffle(shuffled)
    mixed = questions.instruct(sides["train"], random)
    files = {
        "align.jsonl": captions,
        "category.jsonl": [record for record in mixed if questions.is_closed(record)],
        "category_short.jsonl": shuffled,
        "instruct.jsonl": [record for record in mixed if not questions.is_closed(record)],
        "validation.jsonl": [questions.short(picture) for picture in sides["validation"]],
        "heldout.jsonl": questions.heldout(sides["heldout"], random),
        "heldout_category.jsonl": [questions.closed(picture) for picture in sides["heldout"]],
        "heldout_category_short.jsonl": [questions.short(picture) for picture in sides["heldout"]],
    }
    for name, records in files.items():
        write_records(out / name, records)
    write_texts(out, shares, sides, files)
    return sides


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the sample pictures and their questions.")
    parser.add_argument("--out", type=Path, default=Path("samples"))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "omnivit-samples")
    arguments = parser.parse_args()
    try:
        sides = build(arguments.out, arguments.cache)
    except SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    print(f"{categories.report(sides)}\n{arguments.out}: {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
