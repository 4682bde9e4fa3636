"""Furniture and other household things as clouds of coloured points, with their names and kinds.

820 meshes of Sweet Home 3D's libraries (Debian `sweethome3d-furniture`), each covered with 4096 points. A thing's kind
is taken from its English name; those of no kind, or of one with few members, have a name alone. The question about
kinds is short, for a tiny LLM that reads bytes; its 11 answers are in KINDS. The catalogue's own categories are rooms,
which shapes do not tell. Heights are not asked for: an encoder that scales every cloud to one size cannot know them.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from packages import Debian, SourceError

from omnivit.contracts.sample import Media
from omnivit.media.points.read import PointCloud, read_points

PACKAGES = (
    Debian(
        "sweethome3d-furniture",
        "1.8-1",
        "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
        "120 MB",
    ),
)
LICENCE = "CC0 or CC-BY-3.0, by library; `creator` of things.json names the authors"

POINTS = 4096
HELDOUT = 6
"""Things of each kind that are never trained on."""
CELLS = 6
"""Two shapes are compared by how their points fill CELLS^3 cells of their bounding boxes;"""
SAME = 0.15
"""where fewer of the points than this lie in other cells, they count as one (two draws of a mesh: at most 0.11)."""

KINDS = {
    "person": r"(.*\b)?(female|male|boy|girl)$",
    "bed": r".*\bbed$|crib$|.*mattress$|futon$|hammock$",
    "cabinet": r".*\bcabinet$|.*(wardrobe|bookcase|shelves|vanity|tv stand|bedside table)$|(cupboard|dresser.*|chest|"
    r"locked locker|island.*)$",
    "chair": r".*\b(arm)?chair\b|.*\bstool$|class seat$",
    "sofa": r".*\b(sofa|couch|bench|bank)\b",
    "table": r".*\b(table|desk)$|table (on|with) .*",
    "lamp": r".*\b(lamp|lamppost|light|lights|lantern|spotlight|flashlight|candle)\b",
    "door": r".*\b(door|window|elevator)\b",
    "plant": r".*\b(plant|tree|bamboo|ficus|cactus|yucca|orchids|tulips|lily|flowers|hedge|pine|maple|acacia|poplar|"
    r"cypress|beech|blossom|bush|spathiphyllum)\b",
    "vehicle": r".*\b(bike|bicycle|bus|truck|van|suv|scooter|smart car|sedan|motorbike|tricycle|chevrolet|beetle|"
    r"ford focus|seat leon|scenic|peugeot|yamaha|fork lift)\b",
    "vessel": r".*\b(bottle|glass|cup|mug|vase|jar|bowl|pot|teapot|pottery|flacon|creamer|coffee press|kettle|pan)\b",
}
"""Kind -> English names, whole; the first that fits counts."""
NO_KIND = (
    r"wheelchair|island bath|.*\bplug|flower box|plant box|armchair ottoman|cup cake|indoor bike|window blind|"
    r"plate, .*|.*tennis"
)
"""Names that a rule above would take for what they are not."""
OTHER_KIND = {
    "glass table": "table",
    "futon couch": "sofa",
    "glass door cabinet": "cabinet",
}
"""Names that begin with another kind's."""
QUESTION = "Which kind of thing is it?"
NAME_QUESTION = "What is this object?"


@dataclass(frozen=True)
class Thing:
    """One mesh of the catalogue."""

    key: str
    """`LIBRARY-NUMBER`, the name of its file."""
    library: str
    name: str
    """Lower-case English."""
    room: str
    """The catalogue's category."""
    creator: str
    kind: str | None
    cells: NDArray[np.float64]
    """[CELLS^3] share of the points in each cell of the bounding box."""


def build(sources: list[Path], folder: Path) -> None:
    (folder / "clouds").mkdir()
    things: list[Thing] = []
    for library in sorted((sources[0] / "usr/share/sweethome3d/furniture").glob("*.sh3f")):
        things += _convert(library, folder / "clouds")
        print(f"  {len(things)} clouds ({library.stem})", file=sys.stderr, flush=True)
    if len(things) != 820:
        raise SourceError(f"{len(things)} meshes found, 820 expected: is it another version of the package?")
    heldout = _heldout(things, Random(0))
    for side, chosen in {"train": [t for t in things if t not in heldout], "heldout": heldout}.items():
        kinds = [_record(t, "kind", QUESTION, t.kind) for t in chosen if t.kind]
        _write(folder / f"kind_{side}.jsonl", kinds)
        _write(folder / f"name_{side}.jsonl", [_record(t, "name", NAME_QUESTION, t.name) for t in chosen])
        counts = Counter(t.kind for t in chosen if t.kind)
        print(f"  {side}: {len(chosen)} things; {', '.join(f'{k} {counts[k]}' for k in KINDS)}", file=sys.stderr)
    facts = {t.key: {"name": t.name, "kind": t.kind, "room": t.room, "creator": t.creator} for t in things}
    (folder / "things.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _convert(library: Path, folder: Path) -> list[Thing]:
    """Cover the meshes of a library with points; `xyz` float32 and `rgb` uint8 [POINTS, 3] in an .npz file each."""
    things = []
    with tempfile.TemporaryDirectory() as unpacked:
        with zipfile.ZipFile(library) as archive:
            archive.extractall(unpacked)
        for number, entry in _catalogue(Path(unpacked)).items():
            cloud = read_points(Media("points", entry["model"].lstrip("/"), root=unpacked), POINTS)
            thing = _thing(library.stem, number, entry, cloud)
            colours = {} if cloud.rgb is None else {"rgb": np.round(cloud.rgb * 255).astype(np.uint8)}
            np.savez(folder / f"{thing.key}.npz", xyz=cloud.xyz, **colours)
            things.append(thing)
    return things


def _catalogue(folder: Path) -> dict[int, dict[str, str]]:
    """Number -> its entry, of lines such as `name#12=Table`."""
    text = (folder / "PluginFurnitureCatalog.properties").read_text("latin-1")
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*?)\s*$", text, re.MULTILINE):
        found[int(number)][key] = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), value)
    return found


def _thing(library: str, number: int, entry: dict[str, str], cloud: PointCloud) -> Thing:
    name = entry["name"].lower()
    creator = entry.get("creator", library)
    return Thing(f"{library}-{number}", library, name, entry["category"], creator, kind_of(name), _cells(cloud))


def kind_of(name: str) -> str | None:
    """The kind that a lower-case name tells; None where it tells none."""
    if name in OTHER_KIND:
        return OTHER_KIND[name]
    if re.fullmatch(NO_KIND, name):
        return None
    return next((kind for kind, pattern in KINDS.items() if re.match(pattern, name)), None)


def _cells(cloud: PointCloud) -> NDArray[np.float64]:
    low, high = cloud.xyz.min(axis=0), cloud.xyz.max(axis=0)
    places = ((cloud.xyz - low) / np.maximum(high - low, 1e-9) * CELLS).astype(int).clip(0, CELLS - 1)
    counts = np.bincount(places @ [CELLS * CELLS, CELLS, 1], minlength=CELLS**3)
    return np.asarray(counts / len(places), dtype=np.float64)


def _families(things: Sequence[Thing]) -> list[list[Thing]]:
    """Things that must stay on one side: of one library and name but for numbers, or of one shape."""
    parent = list(range(len(things)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    cells = np.stack([thing.cells for thing in things])
    first: dict[tuple[str, str], int] = {}
    for index, thing in enumerate(things):
        stem = re.sub(r"[\d\W_]+", " ", thing.name).strip()
        parent[root(index)] = root(first.setdefault((thing.library, stem), index))
        differences = np.abs(cells[:index] - cells[index]).sum(axis=1) / 2
        for other in np.flatnonzero(differences < SAME):
            parent[root(index)] = root(int(other))
    members: dict[int, list[Thing]] = defaultdict(list)
    for index, thing in enumerate(things):
        members[root(index)].append(thing)
    return [members[key] for key in sorted(members)]


def _heldout(things: Sequence[Thing], random: Random) -> list[Thing]:
    """`HELDOUT` things of each kind, in whole families. Those with members of another kind or none stay in training."""
    families = _families(things)
    chosen: list[Thing] = []
    for kind in KINDS:
        own = [family for family in families if {thing.kind for thing in family} == {kind}]
        random.shuffle(own)
        taken: list[Thing] = []
        for family in own:
            if len(family) <= min(3, HELDOUT - len(taken)):
                taken += family
        if len(taken) != HELDOUT:
            raise SourceError(f"{kind}: {len(taken)} things can be held out, wanted {HELDOUT}")
        chosen += taken
    return chosen


def _record(thing: Thing, what: str, question: str, answer: str | None) -> dict[str, object]:
    content = [{"type": "points", "points": f"clouds/{thing.key}.npz"}, {"type": "text", "text": question}]
    return {
        "id": f"{what}/{thing.key}",
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
    }


def _write(path: Path, records: Iterable[dict[str, object]]) -> None:
    path.write_text("".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records), encoding="utf-8")
