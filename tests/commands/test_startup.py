"""The first word comes at once: what needs no tensor is answered before PyTorch is imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "lightning", "torchvision", "matplotlib", "PIL")
RUN = (
    "import sys; from omnivit.cli import main; status = main(sys.argv[1:]);"
    f"print('imported:', sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr); sys.exit(status)"
)


def answered(*arguments: str) -> tuple[int, str, str]:
    """Status, what is printed, and the heavy packages that were imported."""
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)
    text, _, imported = (done.stdout + done.stderr).rpartition("imported: ")
    return done.returncode, text, imported.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was begun with a plugin that is not here."""
    folder = tmp_path_factory.mktemp("run")
    command = ["show", str(ROOT / "recipes/smoke.yaml"), "model.inputs.image.encoder.name=tim"]
    done = subprocess.run([sys.executable, "-m", "omnivit", *command], capture_output=True, text=True, check=True)
    (folder / "recipe.yaml").write_text(done.stdout, encoding="utf-8")
    (folder / "checkpoints/00-align-step-00000001").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "nothing.yaml"), "nothing.yaml does not exist"),
        (("train", "recipes/smoke.yaml", "data.rot=x"), "data.rot (command line): unknown key; did you mean 'root'"),
        (
            ("train", "recipes/smoke.yaml", "model.inputs.image.encoder.name=tim", "--run-dir", "no/where"),
            "model.inputs.image.encoder.name (command line): No encoder is named 'tim' .*did you mean 'timm'",
        ),
        (
            ("train", "recipes/smoke.yaml", "model.inputs.image.adapter.dept=3", "--run-dir", "no/where"),
            "model.inputs.image.adapter.dept (command line): unknown key; did you mean 'depth'. Options of mlp: ",
        ),
        (("train", "--resume", "nothing"), "nothing contains no run"),
        (("check", "recipes/smoke.yaml", "stages.align.lr=1"), "stages.*lr (command line): unknown key"),
        (("check", "recipes/smoke.yaml", "model.llm.name=causl"), "model.llm.name .*did you mean 'causal'"),
        (("generate", "nothing", "What?"), "there is no folder nothing"),
        (("chat", "nothing"), "there is no folder nothing"),
        (("media", "nothing.png"), "nothing.png: no such file"),
    ],
)
def test_what_is_wrong_is_said_without_torch(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    status, text, imported = answered(*arguments)
    assert status == 2 and imported == "[]", text
    assert re.search(message.replace("(", r"\(").replace(")", r"\)"), text), text


@pytest.mark.parametrize(
    "arguments", [("show", "recipes/smoke.yaml"), ("plugins",), ("train", "--help"), ("schema",), ("new", "--help")]
)
def test_what_needs_no_tensor_is_answered_without_torch(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    status, text, imported = answered(*arguments)
    assert status == 0 and imported == "[]", text


def test_a_run_that_cannot_be_opened_is_refused_without_torch(folder: Path) -> None:
    status, text, imported = answered("generate", str(folder), "What?")
    assert status == 2 and imported == "[]", text
    assert "model.inputs.image.encoder.name" in text and "did you mean 'timm'" in text


def test_what_is_loaded_is_said_first_and_answers_need_no_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code = (
        "import sys, builtins; from omnivit.cli import main; real = builtins.__import__\n"
        "def counted(name, *rest, **options):\n"
        "    if name.partition('.')[0] == 'torch': raise KeyboardInterrupt\n"
        "    return real(name, *rest, **options)\n"
        "builtins.__import__ = counted; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "train", "recipes/smoke.yaml", "--run-dir", "no/where"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith("Loading recipes/smoke.yaml: LLM llama with random weights"), done.stderr
    code = "import sys, omnivit.run.check, omnivit.run.loading; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
