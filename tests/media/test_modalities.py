"""One LLM and every kind of input at once: real files, mixed batches, text alone, from the recipe to an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from modalities_support import RECIPE, SLOTS, write_media
from safetensors.torch import load_file
from tests_support import text_record, write_jsonl

import omnivit
from omnivit import cli


def record(slot: str, file: str, answer: str) -> dict[str, Any]:
    content = [{"type": slot, slot: file}, {"type": "text", "text": f"Which {slot}?"}]
    return {
        "id": file + slot,
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    media = [write_media(root, name, seed) for seed, name in enumerate(("a", "b"))]
    records = [record(slot, files[slot], "ab"[k]) for k, files in enumerate(media) for slot in SLOTS]
    both = [{"type": slot, slot: media[0][slot]} for slot in SLOTS]
    turn = [
        {"role": "user", "content": [*both, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "all"},
    ]
    records += [{"id": "all", "messages": turn}, {"id": "all again", "messages": turn}]
    write_jsonl(root / "samples.jsonl", [*records, text_record("t", "1 + 1?", "2"), text_record("u", "2 + 2?", "4")])
    recipe = root / "any.yaml"
    recipe.write_text(RECIPE.replace("DATA", str(root)), encoding="utf-8")
    assert cli.main(["train", str(recipe), "--run-dir", str(root / "run"), "evaluation.conditions=['true', none]"]) == 0
    return root / "run"


def test_trains_and_reports(run: Path) -> None:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["accuracy"]["true"]["n"] == 20 and report["refused"] == []
    trained = load_file(next((run / "checkpoints").glob("*/model.safetensors")))
    assert {name.split(".")[1] for name in trained if name.startswith("adapters.")} == set(SLOTS)


def test_every_input_changes_the_answer(run: Path) -> None:
    assistant, root = omnivit.load(run), run.parent
    files = dict(zip(SLOTS, write_media(root, "c", 2).values(), strict=True))
    for slot, file in files.items():
        own = {"role": "assistant", "content": "a"}
        media = {"type": slot, slot: str(root / file)}
        other = {"type": slot, slot: str(root / f"a{''.join(Path(file).suffixes)}")}
        scores = [
            assistant.score([{"role": "user", "content": [part, {"type": "text", "text": "?"}]}, own])
            for part in (media, other)
        ]
        assert not torch.equal(*scores), slot


def test_answers_about_a_file_of_any_slot(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = run.parent
    media = [
        f"--media={slot}={root / file}" for slot, file in zip(SLOTS, write_media(root, "d", 1).values(), strict=True)
    ]
    assert cli.main(["generate", str(run), *media, "What is it?", "--max-new-tokens", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
