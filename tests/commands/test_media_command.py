"""`omnivit media` as a user runs it: what a file is, who takes it, its tokens; and why it cannot be used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from pydicom.data import get_testdata_file

from omnivit import cli, registry
from omnivit.recipe import Recipe
from omnivit.registry import Health
from omnivit.registry.claims import Claim

Outcome = tuple[int, str, str]


@pytest.fixture
def media(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command -> exit status, standard output, standard error."""

    def run(*arguments: object) -> Outcome:
        status = cli.main(["media", *map(str, arguments)])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (40, 36), (200, 0, 0)).save(path)
    return path


def readings(found: str) -> dict[str, dict[str, Any]]:
    """Slot -> reading of the only file in the output of --json."""
    [file] = json.loads(found)["files"]
    return {reading["slot"]: reading for reading in file["readings"]}


def test_encoders_that_agree_are_one_line(media: Callable[..., Outcome], picture: Path) -> None:
    status, out, _ = media(picture)
    assert status == 0
    [line] = [line for line in out.splitlines() if line.startswith("  image: ")]
    facts, _, encoders = line.partition(" (encoders: ")
    assert facts == "  image: image, height 36, width 40, format PNG, mode RGB"
    assert {"clip", "imagebind", "timm"} <= set(encoders.rstrip(")").split(", "))


def test_json(media: Callable[..., Outcome], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(12000, 0.1), 8000)
    status, out, _ = media(tmp_path / "a.wav", "--json")
    found = readings(out)["audio"]
    assert status == 0
    assert (found["kind"], found["shape"], found["seconds"]) == ("audio", {"channels": 1, "samples": 12000}, 1.5)
    assert {"imagebind", "whisper"} <= set(found["encoders"])
    [file] = json.loads(out)["files"]
    assert file["usable"] is True and "not a file of arrays" in file["refusals"]["features"]


def test_a_file_of_many_meanings(media: Callable[..., Outcome], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((6, 2000), dtype=np.float32))
    found = readings(media(tmp_path / "a.npy", "--json")[1])
    assert found["features"]["shape"] == {"rows": 6, "width": 2000}
    assert found["imu"]["shape"] == {"channels": 6, "steps": 2000}


def test_what_cannot_be_used(media: Callable[..., Outcome], picture: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:60])
    (tmp_path / "empty.wav").write_bytes(b"")
    np.save(tmp_path / "nan.npy", np.full((3, 8), np.nan, dtype=np.float32))
    files = [tmp_path / name for name in ("cut.png", "empty.wav", "none.mp4", "nan.npy")]
    status, out, _ = media(picture, *files)
    assert status == 1
    before, cut, empty, none, nan = (part for part in out.split(str(tmp_path) + "/")[1:])
    assert "no encoder accepts it" not in before
    assert "no encoder accepts it" in cut and "cut short" in cut and "clip" in cut
    assert empty.count("the file is empty (0 bytes)") == 1  # all encoders in one line
    assert "no such file" in none
    assert "all pixels of the depth map are 0 or NaN" in nan and "3 of 3 tokens contain NaN" in nan


def test_tokens_under_a_recipe(media: Callable[..., Outcome], recipe_file: Path, picture: Path, tmp_path: Path) -> None:
    status, out, err = media(picture, "--recipe", recipe_file)
    assert (status, err) == (0, "")
    assert f"  {recipe_file}, slot image: 4 tokens\n" in out
    np.save(tmp_path / "rows.npy", np.zeros((3, 8)))
    status, out, _ = media(picture, tmp_path / "rows.npy", "--recipe", recipe_file, "--json")
    assert status == 1  # the encoder `features` reads it, but no slot of the recipe does
    good, bad = json.loads(out)["files"]
    assert (good["usable"], good["slots"]) == (True, {"image": {"tokens": 4}})
    assert (bad["usable"], bool(bad["readings"])) == (False, True)
    assert "is not an image" in bad["slots"]["image"]["refusal"]


def test_a_run_folder_is_its_recipe(
    media: Callable[..., Outcome], load_recipe: Callable[..., Recipe], picture: Path, tmp_path: Path
) -> None:
    from omnivit.run import folder

    folder.create(tmp_path / "run", load_recipe())
    assert f"  {tmp_path / 'run'}, slot image: 4 tokens\n" in media(picture, "--recipe", tmp_path / "run")[1]
    made = {"name": "clip", "value": "gone:Gone", "distribution": "omnivit", "version": "9.1", "plugin_version": 1}
    (tmp_path / "run" / "provenance.json").write_text(json.dumps({"plugins": {"omnivit.encoders:clip": made}}))
    status, _, err = media(picture, "--recipe", tmp_path / "run")
    assert status == 2 and 'pip install "omnivit==9.1.*"' in err
    status, _, err = media(picture, "--recipe", tmp_path / "nowhere.yaml")
    assert status == 2 and "nowhere.yaml" in err


def test_an_encoder_that_lacks_its_extra_is_named(
    media: Callable[..., Outcome], picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = registry.Registry.health

    def lacking(self: registry.Registry[Any], name: str) -> Health:
        return Health(False, "timm is not installed", "pip install x") if name == "timm" else whole(self, name)

    monkeypatch.setattr(registry.Registry, "health", lacking)
    status, out, err = media(picture)
    assert status == 0 and "timm" not in out
    assert err == "not available: timm: timm is not installed. Run: pip install x\n"
    assert json.loads(media(picture, "--json")[1])["not_asked"] == {"timm": "timm is not installed. Run: pip install x"}


def test_an_encoder_that_does_not_tell(
    media: Callable[..., Outcome], picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "silent.py").write_text(
        "import dataclasses\nfrom omnivit.contracts.encoder import Encoder\n"
        "class Silent(Encoder):\n    Config = dataclasses.make_dataclass('Config', [])\n    modality = 'smell'\n"
        "    def processor(self): ...\n    def forward(self, items): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    claim = Claim("silent", "silent:Silent", "omnivit.encoders")
    monkeypatch.setattr(registry.Registry, "_claims", lambda _: {"silent": [claim]})
    status, out, _ = media(picture)
    assert status == 1
    assert "silent: Silent cannot describe a file. Try the encoder in a recipe, with --recipe." in out


def test_nobody_is_identified(media: Callable[..., Outcome]) -> None:
    scan = get_testdata_file("CT_small.dcm")
    for options in ([], ["--json"]):
        status, out, err = media(scan, *options)
        assert status == 0 and "CT" in out
        for identity in ("CompressedSamples", "1CT1", "JFK IMAGING"):
            assert identity not in out + err


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from omnivit.cli import main; main(['media', '--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--recipe RECIPE|RUN" in done.stdout and "omnivit.commands.media" in done.stdout
    assert not {"torch", "numpy", "transformers", "PIL"} & set(re.findall(r"'([^']+)'", done.stdout))
