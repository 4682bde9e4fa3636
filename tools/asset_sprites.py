"""What is the character doing? Clips of game characters that attack, die, move or rest, and a closed question.

The frames are those of The Battle for Wesnoth (1.16), drawn on plain backgrounds. A unit is on one side only: no
character of the held-out side is seen in training, in whichever action. Training has each animation several times,
mirrored, shifted and on other colours, until every action has as many clips; held out is each animation once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from packages import Debian
from PIL import Image, ImageOps

PACKAGES = (
    Debian(
        "wesnoth-1.16-data",
        "1:1.16.9-1",
        "1012b964bd412a6770685e3324ae3b61e176caff7846192d1ee63d55cd621e26",
        "146 MB",
    ),
)
LICENCE = "GPL-2+"

WORDS = {
    "dying": "die die2 death dying",
    "resting": "idle idle2 bob stand standing",
    "moving": "run fly flying hover soar walk",
    "attacking": "attack melee ranged bow sword magic blade axe hammer spear slash throw pincer bite kick claws staff "
    "dagger club mace crossbow stinger impact pierce fist horn jarid lightning thrust",
}
"""Action -> what file names call it. The first that fits counts: `bow-attack` is an attack, `attack-die` a death."""
QUESTION = "What is the character doing: attacking, dying, moving or resting?"
FRAMES = 4
"""Shorter animations are left out."""
HELD_OUT = 38
"""Of 100 units, so many are held out."""
CLIPS = 400
"""Of each action in training."""
SIDE = 128
"""Of a clip, in pixels. A character, which is 30 to 60 pixels tall, is drawn to fill it."""
FILLED = 0.9
"""Share of the side that its longer side takes, over all frames."""
RATE = 8
GREY = (128, 128, 128)


@dataclass(frozen=True)
class Animation:
    """The frames of one unit's action, seen from one direction."""

    unit: str
    action: str
    name: str
    files: tuple[Path, ...]


def build(sources: list[Path], folder: Path) -> None:
    """Write `clips/` and the two files of samples."""
    found = animations(sources[0])
    held, seen = [], []
    for animation in found:
        (held if is_held_out(animation.unit) else seen).append(animation)
    (folder / "clips").mkdir()
    train = _varied(seen, folder)
    test = [(animation.action, _clip(animation, folder, 0, None)) for animation in _balanced(held)]
    for name, samples in (("train", train), ("heldout", test)):
        records = [_record(number, *sample) for number, sample in enumerate(samples)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        print(f"{name}: {len(records)} clips")
    print(f"{len(found)} animations; {len({a.unit for a in seen})} units seen, {len({a.unit for a in held})} held out")


def animations(source: Path) -> list[Animation]:
    """All with enough frames and an action that we know, by name."""
    root = next(source.rglob("images/units"))
    groups: dict[tuple[str, str], dict[int, Path]] = defaultdict(dict)
    for path in sorted(root.rglob("*.png")):
        if match := re.fullmatch(r"(.+?)-?(\d+)", path.stem):
            groups[path.parent.relative_to(root).as_posix(), match[1]][int(match[2])] = path
    found = []
    for (place, stem), frames in sorted(groups.items()):
        action = _action(stem)
        if action is not None and len(frames) >= FRAMES:
            files = tuple(frames[number] for number in sorted(frames))
            found.append(Animation(_unit(place, stem), action, f"{place}/{stem}".replace("/", "_"), files))
    return found


def is_held_out(unit: str) -> bool:
    """A function of the unit's name alone."""
    return int(hashlib.sha256(unit.encode()).hexdigest(), 16) % 100 < HELD_OUT


def _action(stem: str) -> str | None:
    words = re.split(r"[-+_]", stem)
    if words[0].endswith("bat") and len(words) == 2:  # its flight is its only picture: bat-se-1
        return "moving"
    return next((action for action, known in WORDS.items() if set(words[1:]) & set(known.split())), None)


def _unit(place: str, stem: str) -> str:
    """Folder and first word; the dead of several peoples, and the bats, are drawn alike and count as one."""
    first = re.split(r"[-+]", stem)[0]
    if first in ("zombie", "soulless"):
        return "undead/zombie"
    return "undead/bat" if first.endswith("bat") else f"{place.split('/')[0]}/{first}"


def _varied(seen: list[Animation], folder: Path) -> list[tuple[str, str]]:
    """`CLIPS` clips of each action, its units in turn: else a unit with many animations would stand for an action."""
    draw = random.Random(0)
    made = []
    for action in sorted(WORDS):
        mine = _units_in_turn([animation for animation in seen if animation.action == action], draw)
        made += [
            (action, _clip(animation, folder, number, draw))
            for number, animation in zip(range(1, CLIPS + 1), mine, strict=False)
        ]
    draw.shuffle(made)
    return made


def _units_in_turn(animations: list[Animation], draw: random.Random) -> Iterator[Animation]:
    """Without end: one of each unit, then another one of each."""
    of: dict[str, list[Animation]] = defaultdict(list)
    for animation in draw.sample(animations, len(animations)):
        of[animation.unit].append(animation)
    for number in itertools.count():
        yield from (mine[number % len(mine)] for mine in of.values())


def _balanced(held: list[Animation]) -> list[Animation]:
    """As many of each action as the rarest has, its units in turn."""
    draw = random.Random(0)
    fewest = min(sum(animation.action == action for animation in held) for action in WORDS)
    chosen: list[Animation] = []
    for action in sorted(WORDS):
        mine = _units_in_turn([animation for animation in held if animation.action == action], draw)
        found: dict[str, Animation] = {}
        while len(found) < fewest:
            animation = next(mine)
            found[animation.name] = animation
        chosen += found.values()
    draw.shuffle(chosen)
    return chosen


def _clip(animation: Animation, folder: Path, number: int, draw: random.Random | None) -> str:
    """Write one clip; its place below `folder`. Varied by `draw`, plain without."""
    pictures = _cropped([Image.open(path).convert("RGBA") for path in animation.files])
    scale, shift, colour = FILLED * SIDE / max(pictures[0].size), (0.0, 0.0), GREY
    if draw is not None:
        scale *= draw.uniform(0.7, 1.0)
        shift = draw.uniform(-1, 1), draw.uniform(-1, 1)
        pictures = [ImageOps.mirror(picture) for picture in pictures] if draw.random() < 0.5 else pictures
        colour = (draw.randint(64, 192), draw.randint(64, 192), draw.randint(64, 192))
    name = f"clips/{animation.name}_{number}.mp4"
    _write(folder / name, [_drawn(picture, scale, shift, colour) for picture in pictures])
    return name


def _cropped(pictures: list[Image.Image]) -> list[Image.Image]:
    """To what is drawn in any of them, aligned at their middles, as the game shows them."""
    size = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    pictures = [_centred(picture, size) for picture in pictures]
    boxes = [box for picture in pictures if (box := picture.getchannel("A").getbbox())]
    left, top, right, bottom = zip(*boxes, strict=True)
    return [picture.crop((min(left), min(top), max(right), max(bottom))) for picture in pictures]


def _centred(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGBA", size)
    canvas.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return canvas


def _drawn(picture: Image.Image, scale: float, shift: tuple[float, float], colour: tuple[int, int, int]) -> Image.Image:
    """On its background; `shift` from -1 to 1 moves it from edge to edge."""
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (SIDE, SIDE), colour)
    left, top = (round((SIDE - side) * (1 + move) / 2) for side, move in zip(size, shift, strict=True))
    canvas.paste(picture, (left, top), picture)
    return canvas


def _write(path: Path, frames: list[Image.Image]) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "20", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
        file.mux(stream.encode())


def _record(number: int, action: str, clip: str) -> dict[str, object]:
    question = [{"type": "video", "video": clip}, {"type": "text", "text": QUESTION}]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": action}]
    return {"id": f"{number}", "messages": messages}
