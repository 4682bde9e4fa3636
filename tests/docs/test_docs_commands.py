"""Shell commands and Python of README, CONTRIBUTING, docs/ and docs/decisions/ are run: page by page, in order.

A page is run by bash in a folder that looks like a checkout, with the files that its reader is supposed to have
(`docs_reader.py`). Commands are the real ones with the reader's own arguments, but cut short (`docs_short.py`):

- `omnivit train` does a step of two samples in each stage and asks two questions of each file, without a linear probe;
  a run folder of the same name gives way. `omnivit generate` gives four tokens.
- `torchrun` starts two processes in place of eight.
- `python benchmarks/train.py` measures at its `--quick` size, in one of four settings.
- `python -m pytest -n ...`, which `make test` calls, runs one file of the tests: all would include this one.
- `pip install` installs nothing; whatever it is asked for has to be there already (pip's own `--dry-run`, offline).
- `python tools/assets.py` fetches nothing and makes small assets of the same layout, out of no packages; `tests/tools/`
  tries how packages are fetched, and the rules by which the true ones are made.
- `make demo`, `make test` and `make assets` run with these commands as their `.venv/bin`, which counts as set up.

`INSTEAD` has the commands that are not run, and why. Lines of syntax (`omnivit eval RUN --data F [--shuffle]`) stand in
spans and tables: those, test_docs_blocks.py parses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import assets
import pytest
from docs_reader import ASSETS, write_files
from docs_short import shortened
from docs_stage import Stage
from docs_support import PAGES, ROOT, blocks, is_command, said_at, script, unsaid

INSTEAD = {
    "make lint types": ("make -n lint types", ".ci/run begins with it; mypy alone takes a minute"),
    "bash .ci/run": ("bash -n .ci/run", "it runs all tests, this one included, and installs from a package index"),
}
"""Command -> what is run in its place, and why."""
NO_COMMANDS = {
    "accuracy with ": "what `make demo` prints",
    "The model uses its media: ": "the same",
    "samples/pictures/emoji/laptop.webp: ": "the same",
    "line of a dataset file": "the stages of the data flow",
    "errors, files, seeds, stamps": "the order of packages",
    "runs/first/recipe.yaml, provenance.json": "the files of a run",
    "10:31:07  align: step 12/115": "the progress of a training",
    "trainer:\n  loggers: ": "loggers of services, which are not installed",
}
"""Beginnings of the indented paragraphs that are only to be read, and what they are."""


def translated(text: str) -> str:
    """A script with other commands in place of those of `INSTEAD`."""
    for command, (other, _) in INSTEAD.items():
        text = re.sub(rf"^{re.escape(command)}(?= |$)", other, text, flags=re.MULTILINE)
    return text


def run_page(page: Path, stage: Stage, folder: Path) -> None:
    """Run all that a page has, and compare what its sessions show."""
    found = blocks(page)
    said = stage.run(translated(script(found)), page.name, folder)
    for block in found:
        if block.language == "console":
            part = said_at(block, said)
            missing = unsaid(block.shown(), part)
            assert not missing, f"{page.name}:{block.line}: {missing!r} is not in\n{part}"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("stage"))
    yield made
    made.close()


def reader(stage: Stage, folder: Path) -> Path:
    """A checkout with all that pages take for granted."""
    stage.checkout(folder)
    write_files(folder)
    return folder


@pytest.fixture(scope="module")
def checkout(stage: Stage) -> Path:
    """One that several tests use, which change nothing in it."""
    return reader(stage, stage.folder / "omnivit")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "@@" in script(blocks(page))], ids=lambda page: page.name)
def test_a_page_works(page: Path, stage: Stage, tmp_path: Path) -> None:
    run_page(page, stage, reader(stage, tmp_path / "omnivit"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("```bash\ntrue\nomnivit show recipes/smok.yaml\n```", "page.md:7: ended with status 2"),
        ("```bash\ntrue\nomnivt plugins\n```", "page.md: line 7: omnivt: command not found"),
        ("```bash\ntrue\nfalse && true    # and so on\n```", "page.md:7: ended with status 1"),
        ("    omnivit plugins\n    omnivit train recipes/smoke.yaml --run-dri x", "page.md:6: ended with status 2"),
        ("    omnivit plugins\n\n    omnivit train recipes/smoke.yaml batch=3", "page.md:7: ended with status 2"),
        ("    make -n test\n    make demos", "page.md:6: ended with status 2"),
        ("    pip install torch\n    pip install -e '.[al]'", "page.md:6: ended with status 1"),
        ("    pip install torch\n    pip install --no-deps llm-smollm3", "page.md:6: ended with status 1"),
        ("    python tools/assets.py\n    python tools/assets.py whispers", "page.md:6: ended with status 2"),
        ("    omnivit train recipes/assistants/video_small.yaml", "page.md:5: ended with status 2"),  # without assets/
        ("    python benchmarks/train.py --fast", "page.md:5: ended with status 2"),
        ("```python\nimport omnivit\nomnivit.lod('runs/my_video')\n```", "page.md:5: ended with status 1"),
        ("```console\n$ omnivit media clip.mp4\nclip.mp4\n  video: ... frames 21\n```", "page.md:6: '  video: ... "),
        ("```console\n$ omnivit media clip.mp3\n$ true\n```", "page.md:6: ended with status 2"),
    ],
)
def test_what_does_not_work_is_named(code: str, message: str, stage: Stage, checkout: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\nAn introduction:\n\n{code}\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=re.escape(message)):
        run_page(page, stage, checkout)


def test_what_is_only_read_is_known() -> None:
    """Every paragraph of a block without a language is a command, or one of `NO_COMMANDS`; each of these is there."""
    unlabelled = [block for page in PAGES for block in blocks(page) if not block.language]
    read = [text for block in unlabelled for _, text in block.paragraphs() if not is_command(text)]
    assert [text for text in read if not text.startswith(tuple(NO_COMMANDS))] == []
    assert [start for start in NO_COMMANDS if not any(text.startswith(start) for text in read)] == []


def test_what_is_not_run_is_on_a_page_and_run_elsewhere() -> None:
    lines = [line for page in PAGES for line in script(blocks(page)).splitlines()]
    assert [command for command in INSTEAD if not any(line.startswith(command) for line in lines)] == []
    assert "make lint types" in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert "make lint types" not in translated("\n".join(lines))


def test_every_asset_has_a_small_one() -> None:
    assert list(assets.known()) == list(ASSETS)


def test_a_training_is_short_unless_its_reader_says_more(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    said = ["recipes/quickstart.yaml", "stages.align.steps=7", "--run-dir", "runs/x"]
    recipe, *short = shortened(["-m", "omnivit", "train", *said])[3:]
    assert (recipe, short[-3:]) == (said[0], said[1:])
    assert {"stages.align.steps=1", "stages.instruct.validation.data[0].limit=2"} <= set(short)


@pytest.mark.parametrize("words", ["-m omnivit show recipes/smoke.yaml", "-m omnivit train --resume runs/x", "a.py x"])
def test_most_commands_are_as_they_were(words: str) -> None:
    assert shortened(words.split()) == words.split()
