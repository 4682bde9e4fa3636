"""Proof from outside: three distributions that know only the docs, installed as wheels, make a model together.

    python tests/plugin/prove.py

in an environment that has omnivit, pytest, omnivit-thermal, omnivit-salient and omnivit-logbook as wheels, and from a
folder outside the checkout: `.ci/run` makes both. Uninstalls omnivit-thermal at the end, to see what is said then.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.resolve()
PLUGINS = {"thermal": "omnivit-thermal", "salient": "omnivit-salient", "logbook": "omnivit-logbook"}
CAMERAS = [(24, 32), (48, 64), (60, 80)]
"""Height and width of the pictures that the data set mixes."""
HOT, WARM = 350.0, 300.0
"""Kelvin of a bearing that is too hot, and of one that is not."""
QUESTION = "Is the bearing too hot?"


def main() -> None:
    """Every step, with the time that it took."""
    assert not (Path.cwd() / "omnivit").exists(), "run it from outside the checkout, whose folders would be imported"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for step in (installed, contracts, data, trained, moved, used, missed):
            start = time.perf_counter()
            step(folder)
            print(f"{step.__name__}: {time.perf_counter() - start:.0f} s", flush=True)


def installed(folder: Path) -> None:
    """`omnivit plugins` finds all three, as wheels."""
    del folder
    listed = {one["name"]: one for one in json.loads(omnivit("plugins", "--json"))}
    for name, distribution in PLUGINS.items():
        assert listed[name]["distribution"] == distribution, listed[name]
        assert listed[name]["ok"], listed[name]
    import omnivit_thermal

    assert "site-packages" in str(omnivit_thermal.__file__), omnivit_thermal.__file__


def contracts(folder: Path) -> None:
    """Their own tests pass, which stand on `omnivit.testing` from our wheel."""
    tests = []
    for distribution in PLUGINS.values():  # copied: tests/conftest.py of the checkout is none of theirs
        tests.append(shutil.copytree(HERE / distribution / "tests", folder / distribution / "tests"))
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", f"--rootdir={folder}"]
    subprocess.run([sys.executable, "-m", "pytest", *options, *tests], check=True, cwd=folder)


def data(folder: Path) -> None:
    """Pictures of bearings by three cameras, and logbooks about them, in the formats that the plugins brought."""
    import numpy as np
    from omnivit_thermal.radiometric import Thermogram, pack

    rng = np.random.default_rng(0)
    root = folder / "pumps"
    root.mkdir()
    for file, count in (("train", 192), ("heldout", 48)):
        entries = ["# Written by tests/plugin/prove.py", ""]
        for number in range(count):
            height, width = CAMERAS[number % len(CAMERAS)]
            hot = bool(rng.integers(2))
            kelvin = rng.normal(290, 1, size=(height, width))
            top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
            kelvin[top : top + height // 3, left : left + width // 3] = HOT if hot else WARM
            picture = Thermogram((kelvin * 100).astype(np.uint16), emissivity=1.0)
            (root / f"{file}-{number}.rad").write_bytes(pack(picture))
            answer = "yes" if hot else "no"
            entries += [f"[{file}-{number}]", f"thermal: {file}-{number}.rad", f"Q: {QUESTION}", f"A: {answer}", ""]
        (root / f"{file}.log").write_text("\n".join(entries), encoding="utf-8")


def trained(folder: Path) -> None:
    """A recipe that uses all three is trained and saved by the command line, which says whose plugins they were."""
    recipe = shutil.copy(HERE / "recipe.yaml", folder / "recipe.yaml")
    omnivit("train", str(recipe), "--run-dir", str(folder / "run"))
    plugins = json.loads((folder / "run/provenance.json").read_text(encoding="utf-8"))["plugins"]
    assert {one["distribution"] for one in plugins.values()} == {"omnivit", *PLUGINS.values()}, plugins


def moved(folder: Path) -> None:
    """The run goes to another place; what it was trained on is gone."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.move(folder / "run", elsewhere / "model")
    (elsewhere / "new").mkdir()
    for path in (folder / "pumps").glob("heldout*"):
        shutil.move(path, elsewhere / "new")
    shutil.rmtree(folder / "pumps")


def used(folder: Path) -> None:
    """Loaded elsewhere, in another process, it answers: right with the true pictures, at random with others'."""
    run, new = str(folder / "elsewhere/model"), folder / "elsewhere/new"
    asked = ["eval", run, "--data", str(new / "heldout.log"), "--reader", "logbook", "--json", "--device", "cpu"]
    true = json.loads(here(*asked))["exact_match"]["mean"]
    other = json.loads(here(*asked, "--shuffle"))["exact_match"]["mean"]
    print(f"accuracy {true:.2f} with the true pictures, {other:.2f} with another's")
    assert true > 0.9, true
    assert other < 0.75, other
    answer = here("generate", run, QUESTION, "--media", f"thermal={new / 'heldout-0.rad'}", "--device", "cpu").strip()
    assert answer == next(line for line in (new / "heldout.log").read_text().splitlines() if line[0:2] == "A:")[3:]


def missed(folder: Path) -> None:
    """Without the encoder's distribution, whoever opens the run is told what to install."""
    pip = [sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", "--disable-pip-version-check"]
    subprocess.run([*pip, "omnivit-thermal"], check=True)
    command = [sys.executable, "-m", "omnivit", "generate", str(folder / "elsewhere/model"), QUESTION]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert 'pip install "omnivit-thermal==1.2.*"' in done.stderr, done.stderr


def omnivit(*arguments: str) -> str:
    """Run a command in a process of its own; what it printed."""
    command = [sys.executable, "-m", "omnivit", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, (command, done.stdout)
    return done.stdout


def here(*arguments: str) -> str:
    """Run a command in this process, which has not trained; what it printed."""
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="omnivit")
    command = script.load()

    said: Any = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = command(arguments)
    assert status == 0, (arguments, said.getvalue())
    return str(said.getvalue())


if __name__ == "__main__":
    main()
