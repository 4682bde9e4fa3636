"""Crops of two brains, each named after the structure in its middle, to learn on the one and test on the other.

Learnt from: Colin27, one person's brain (MRIcron's `ch2`, with and without the skull). Tested on: MNI152, the average
of 152 others (nilearn). Both lie in the same space, so that the AAL atlas (Tzourio-Mazoyer et al., NeuroImage 15, 2002)
names the structures of both. A crop is a cube of 80 mm around a point well inside a structure, at 2 mm, in a
NIfTI file whose header does not tell where it was cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from packages import Debian, Package, Wheel

PACKAGES: tuple[Package, ...] = (
    Debian(
        "mricron-data",
        "1.2.20211006+dfsg-4",
        "d40aa0ed66cf89bf6cafa049ad3884703c9d975c2ee2737525b7196528df9d6f",
        "16 MB",
    ),
    Wheel("nilearn", "0.14.1", "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a", "12 MB"),
)
LICENCE = "BSD-3-Clause by both packages; terms of the AAL atlas unclear: for tests only, never pass it on"

STRUCTURES = {
    "cerebellum": ("Cerebelum",),
    "thalamus": ("Thalamus",),
    "hippocampus": ("Hippocampus",),
    "insula": ("Insula",),
    "putamen": ("Putamen",),
    "caudate": ("Caudate",),
    "cuneus": ("Cuneus",),
    "precuneus": ("Precuneus",),
    "frontal gyrus": ("Frontal_Sup_L", "Frontal_Sup_R"),
    "temporal pole": ("Temporal_Pole",),
    "occipital gyrus": ("Occipital_Mid",),
    "temporal gyrus": ("Temporal_Mid_L", "Temporal_Mid_R"),
    "precentral gyrus": ("Precentral",),
    "cingulate": ("Cingulum_Ant",),
}
"""Answer -> how the names of its regions begin in the atlas, left and right."""
QUESTION = "Which structure lies in the middle of this scan?"
HALF = 40
"""Half the side of a crop, in millimetres."""
INSIDE = 2
"""Points are at least so many millimetres from the structure's surface."""
TRAIN, HELD_OUT = 30, 15
"""Crops of each structure: from each picture of Colin27, and from MNI152."""

Array = NDArray[Any]
_TEMPLATES = "usr/share/mricron/templates"


def build(sources: list[Path], folder: Path) -> None:
    """Write train.jsonl, heldout.jsonl and the crops."""
    templates = sources[0] / _TEMPLATES
    atlas = nibabel.load(templates / "aal.nii.gz")
    places = _places(np.asarray(atlas.dataobj), _regions(templates / "aal.nii.txt"))
    average = sources[1] / "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    (folder / "crops").mkdir()
    train = [
        record
        for seed, brain in enumerate(("ch2bet", "ch2"))
        for record in _records(_on_grid(templates / f"{brain}.nii.gz", atlas), brain, places, TRAIN, folder, seed, True)
    ]
    held_out = list(_records(_on_grid(average, atlas), "mni152", places, HELD_OUT, folder, 2, False))
    order = np.random.default_rng(0).permutation(len(train))
    _write(folder / "train.jsonl", [train[k] for k in order])
    _write(folder / "heldout.jsonl", held_out)
    print(
        f"{len(STRUCTURES)} structures: {len(train)} crops of Colin27 to learn from, {len(held_out)} of MNI152 held out"
    )


def _regions(file: Path) -> dict[int, str]:
    lines = (line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    return {int(words[0]): words[1] for words in lines}


def _places(atlas: Array, regions: Mapping[int, str]) -> dict[str, Array]:
    """Structure -> its voxels that are well inside, [n, 3]."""
    places = {}
    for name, begins in STRUCTURES.items():
        numbers = [number for number, region in regions.items() if region.startswith(begins)]
        inside = np.isin(atlas, numbers)
        whole = inside.copy()
        for axis in range(3):
            for step in (-INSIDE, INSIDE):
                inside &= np.roll(whole, step, axis)
        places[name] = np.argwhere(inside)
    return places


def _on_grid(file: Path, atlas: Any) -> Array:
    """A brain of 1 mm voxels, shifted to the atlas' grid, float32 in 0..1."""
    image = nibabel.load(file)
    values = np.asarray(image.dataobj).astype(np.float32)
    shift = np.round(atlas.affine[:3, 3] - image.affine[:3, 3]).astype(int)
    cut = values[tuple(slice(start, start + side) for start, side in zip(shift, atlas.shape, strict=True))]
    whole = np.zeros(atlas.shape, np.float32)
    whole[tuple(slice(0, side) for side in cut.shape)] = cut
    return whole / whole.max()


def _records(
    brain: Array, name: str, places: Mapping[str, Array], count: int, folder: Path, seed: int, vary: bool
) -> Iterator[dict[str, Any]]:
    """Crops and their questions; `vary` mirrors half of them and changes their contrast."""
    draw = np.random.default_rng(seed)
    padded = np.pad(brain, HALF)
    for structure, voxels in places.items():
        for k, index in enumerate(draw.choice(len(voxels), count, replace=False)):
            x, y, z = voxels[index]
            crop = padded[x : x + 2 * HALF, y : y + 2 * HALF, z : z + 2 * HALF]
            if vary:
                crop = crop[:: draw.choice((1, -1))] ** draw.uniform(0.7, 1.4)
            path = f"crops/{name}_{structure.replace(' ', '_')}_{k}.nii.gz"
            _save(crop, folder / path)
            yield _record(path, structure)


def _save(crop: Array, path: Path) -> None:
    half = HALF
    coarse = crop.reshape(half, 2, half, 2, half, 2).mean((1, 3, 5))
    grey = np.round(255 * coarse).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(grey, np.diag([2.0, 2.0, 2.0, 1.0])), path)


def _record(path: str, answer: str) -> dict[str, Any]:
    content = [{"type": "volume", "path": path}, {"type": "text", "text": QUESTION}]
    return {
        "id": Path(path).name.removesuffix(".nii.gz"),
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
    }


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
