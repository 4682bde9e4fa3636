"""The rules by which the assets' samples get their answers, on names and pages as they occur in the sources."""

from __future__ import annotations

import random
from pathlib import Path

import asset_anatomy
import asset_boxes
import asset_furniture
import asset_pages
import asset_speech
import asset_sprites
import numpy as np
import pytest
from asset_pages import Shape
from asset_speech import Clip
from PIL import Image


@pytest.mark.parametrize(
    ("stem", "action"),
    [
        ("bowman-bow-attack", "attacking"),
        ("fighter-attack-die", "dying"),  # the first that fits counts
        ("ghost-die", "dying"),
        ("lich-idle", "resting"),
        ("gryphon-flying", "moving"),
        ("bat-se", "moving"),
        ("attack", None),  # a unit may be called so
        ("mage-female", None),
    ],
)
def test_what_a_character_does(stem: str, action: str | None) -> None:
    assert asset_sprites._action(stem) == action


def test_units_drawn_alike_count_as_one() -> None:
    unit = asset_sprites._unit
    assert unit("undead", "zombie-die") == unit("monsters", "soulless-attack") == "undead/zombie"
    assert unit("undead", "bloodbat-se") == unit("monsters", "bat-ne") == "undead/bat"
    assert unit("elves-wood/alt", "ranger-bow") == "elves-wood/ranger"
    assert unit("elves-wood", "ranger-bow") != unit("elves-wood", "scout-bow")


def test_the_held_out_units_are_a_share_fixed_by_name() -> None:
    names = [f"people/unit{number}" for number in range(2000)]
    share = np.mean([asset_sprites.is_held_out(name) for name in names])
    assert abs(100 * share - asset_sprites.HELD_OUT) < 4


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("armchair", "chair"),
        ("office chair 2", "chair"),
        ("wheelchair", None),
        ("table with flowers", "table"),
        ("glass table", "table"),
        ("wine glass", "vessel"),
        ("glass door cabinet", "cabinet"),
        ("french window", "door"),
        ("window blind", None),
        ("single bed", "bed"),
        ("bedside table", "cabinet"),
        ("plant box", None),
        ("cup cake", None),
        ("human female", "person"),
        ("christmas tree", "plant"),
        ("washing machine", None),
    ],
)
def test_the_kind_that_a_name_tells(name: str, kind: str | None) -> None:
    assert asset_furniture.kind_of(name) == kind


def page(**changes: float | bool) -> Shape:
    plain: dict[str, float | bool] = {
        "characters": 2500, "lines": 40, "line": 65.0, "monospaced": 0.0, "leading": 0.0, "numbered": 0.1,
        "columns": False, "drawn": 3, "pictures": 0,
    }  # fmt: skip
    return Shape(**{**plain, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (page(), "text"),
        (page(monospaced=0.6), "code"),
        (page(monospaced=0.3), None),
        (page(leading=0.7), "contents"),
        (page(numbered=0.8, columns=True), "index"),
        (page(numbered=0.8), None),
        (page(columns=True), None),
        (page(drawn=100), None),
        (page(characters=40), "empty"),
        (page(characters=40, pictures=1, drawn=1), None),
        (page(line=20.0), None),
    ],
)
def test_the_kind_of_a_page(shape: Shape, kind: str | None) -> None:
    assert asset_pages.kind_of(shape) == kind


def test_no_manual_is_on_both_sides() -> None:
    assert not set(asset_pages.TRAINED) & set(asset_pages.HELD_OUT)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("digits/7", "number"),
        ("digits/thousand", "number"),
        ("digits/h-3", "ordinal"),
        ("digits/day-2", "date"),
        ("letters/q", "letter"),
        ("letters/asterisk", "symbol"),
        ("phonetic/9_p", "code"),
        ("vm-goodbye", "voicemail"),
        ("conf-muted", "conference"),
        ("beep", None),
    ],
)
def test_the_kind_of_an_announcement(name: str, kind: str | None) -> None:
    assert asset_speech.kind_of(Clip(name, "words", 1.0)) == kind


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Press 1 to continue.", "press one to continue"),
        ("You don't have access!", "you don't have access"),
        ("[this is a beep] Exclaimation", "exclamation"),
        ("call 911", ""),  # nine one one, or nine hundred and eleven?
        ("<silence>", ""),
    ],
)
def test_what_a_transcript_says(text: str, words: str) -> None:
    assert asset_speech.spoken(text) == words


def test_a_held_out_transcript_is_one_whoever_says_it() -> None:
    clips = [Clip(f"digits/{number}", f"number {number % 40}", 1.0) for number in range(80)]
    kept_back = list(asset_speech.held_out(clips))
    assert len(kept_back) == len(set(kept_back)) == 10
    assert kept_back == list(asset_speech.held_out(clips[::-1]))


def test_no_question_is_asked_twice_about_one_transcript() -> None:
    clips = [Clip(f"vm-{number}", f"you have {number % 50} new messages", 1.0) for number in range(100)]
    chosen = asset_speech.questions([*clips, Clip("vm-and", "and", 0.3)])
    assert len(chosen) == len({clip.words for clip in chosen}) == asset_speech.MAX_OF_A_KIND


def test_the_places_of_a_structure_lie_well_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = np.zeros((30, 30, 30), np.int16)
    atlas[5:15, 5:15, 5:15] = 1
    atlas[18:28, 5:15, 5:15] = 2
    monkeypatch.setattr(asset_anatomy, "STRUCTURES", {"insula": ("Insula",)})
    places = asset_anatomy._places(atlas, {1: "Insula_L", 2: "Insula_R", 3: "Heschl_L"})["insula"]
    inside = asset_anatomy.INSIDE
    assert len(places) == 2 * (10 - 2 * inside) ** 3
    assert places.min() == 5 + inside


def test_the_names_of_regions(tmp_path: Path) -> None:
    file = tmp_path / "aal.txt"
    file.write_text("1 Precentral_L 2001\n2 Precentral_R 2002\n\n")
    assert asset_anatomy._regions(file) == {1: "Precentral_L", 2: "Precentral_R"}


def test_the_box_of_a_drawing_is_what_differs_from_its_page() -> None:
    drawing = Image.new("RGB", (128, 128), "white")
    drawing.paste((10, 20, 30), (30, 40, 90, 70))
    for seed in range(10):
        page, box = asset_boxes.placed(drawing, random.Random(seed))
        ink = (np.asarray(page).max(axis=2) < 60).nonzero()
        assert box == (ink[1].min(), ink[0].min(), ink[1].max() + 1, ink[0].max() + 1)
        assert abs((box[2] - box[0]) / (box[3] - box[1]) - 2) < 0.2
    train, heldout = (set(asset_boxes.drawings_of(asset_boxes.SAMPLES / name)) for name in asset_boxes.SOURCES.values())
    assert len(train) > 1000 and len(heldout) > 100 and not train & heldout
