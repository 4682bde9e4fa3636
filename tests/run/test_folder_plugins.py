"""A run whose plugins are not here, or of another version, says exactly what to install."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_support import Install, installing

from omnivit import cli
from omnivit.errors import CheckpointError, PluginError
from omnivit.recipe import Recipe
from omnivit.run import folder, provenance
from omnivit.run.loading import load

THERMAL = """
from dataclasses import dataclass
from omnivit.contracts.encoder import Encoder

class Thermal(Encoder):
    modality = "image"
    version = {version}

    @dataclass
    class Config:
        size: int = 8

    def processor(self): ...
    def forward(self, items): ...
"""
MADE = {"value": "thermal_old:Thermal", "distribution": "omnivit-thermal", "version": "1.2.3", "plugin_version": 1}
KEY = "omnivit.encoders:thermal"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    yield from installing(tmp_path, monkeypatch, "omnivit.encoders")


@pytest.fixture
def run(tmp_path: Path, load_recipe: Callable[..., Recipe]) -> Callable[..., Path]:
    """A run folder: with this encoder in the recipe, and these plugins on record."""

    def make(encoder: str = "{name: thermal}", **changes: object) -> Path:
        path = tmp_path / "run"
        folder.create(path, load_recipe(f"model.inputs.image.encoder={encoder}"))
        record(path, {KEY: {"name": "thermal", **MADE, **changes}})
        return path

    return make


def record(path: Path, plugins: dict[str, Any], **more: object) -> None:
    (path / "provenance.json").write_text(json.dumps({"plugins": plugins, **more}))


def refusal(opening: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(PluginError) as caught:
        opening(path)
    return str(caught.value)


@pytest.mark.parametrize("opening", [load, folder.reopen])
def test_one_that_is_missing(run: Callable[..., Path], opening: Callable[[Path], object]) -> None:
    path = run()
    page = (Path(__file__).parents[2] / "docs" / "plugins" / "migrating.md").read_text(encoding="utf-8")
    assert f"error: {refusal(opening, path)}\n```".replace(str(path), "runs/camera") in page
    assert refusal(opening, path) == (
        f"{path} was created with plugins that are not installed here, or that have changed:\n"
        "  the encoder 'thermal' is not installed; the run was created with omnivit-thermal 1.2.3\n"
        "Install the plugins that it was created with:\n"
        '  pip install "omnivit-thermal==1.2.*"'
    )


@pytest.mark.parametrize("arguments", [["train", "--resume"], ["eval", "--data", __file__], ["generate", "?"]])
def test_on_the_command_line(
    run: Callable[..., Path], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    position = 2 if arguments[0] == "train" else 1
    assert cli.main([*arguments[:position], str(run()), *arguments[position:]]) == 2
    assert 'pip install "omnivit-thermal==1.2.*"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "package"),
    [
        ({"version": "2"}, '"omnivit-thermal==2.*"'),
        ({"version": "1!2.0.post3"}, '"omnivit-thermal==1!2.0.*"'),
        ({"version": "2.1rc1"}, '"omnivit-thermal==2.1rc1"'),
        ({"version": "unknown"}, "omnivit-thermal"),
        ({"value": "thermal_old:Thermal [lens, hot]"}, '"omnivit-thermal[lens,hot]==1.2.*"'),
    ],
)
def test_what_to_install(run: Callable[..., Path], changes: dict[str, object], package: str) -> None:
    assert refusal(load, run(**changes)).endswith(f"\n  pip install {package}")


def test_a_hostile_record_is_no_command(run: Callable[..., Path]) -> None:
    text = refusal(load, run(distribution='x"; rm -rf ~ #', version="1\x1b[2J"))
    assert "pip install" not in text and "\x1b" not in text
    assert "Some belong to no distribution. Get them from the author of the run" in text


def test_several_at_once(run: Callable[..., Path]) -> None:
    path = run("{name: thermal, inner: {name: lens}}")
    plugins = {KEY: MADE, "omnivit.encoders:lens": MADE, "omnivit.adapters:mlp": {**MADE, "distribution": "omnivit-m"}}
    record(path, {**plugins, "omnivit.encoders:elsewhere": MADE})  # the last is not in the recipe
    text = refusal(load, path)
    assert "encoder 'thermal'" in text and "encoder 'lens'" in text and "adapter 'mlp'" in text
    assert "elsewhere" not in text
    assert text.endswith('pip install "omnivit-thermal==1.2.*" "omnivit-m==1.2.*"')


def test_a_reader_is_needed_to_train_and_not_to_answer(run: Callable[..., Path]) -> None:
    path = run("{name: clip}")
    record(path, {"omnivit.readers:messages": {**MADE, "version": "9.1"}})
    assert "the reader 'messages' is that of omnivit" in refusal(folder.reopen, path)
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        load(path)


def test_another_version_of_the_plugin(install: Install, run: Callable[..., Path]) -> None:
    install("omnivit-thermal", "1.2.9", {"thermal": "thermal_new:Thermal"},
            {"thermal_new.py": THERMAL.format(version=2)})  # fmt: skip
    text = refusal(load, run())
    assert (
        "the encoder 'thermal' is of version 2 (omnivit-thermal 1.2.9); the run was created with omnivit-thermal 1.2.3"
        ", of version 1\n" in text
    )
    assert 'pip install "omnivit-thermal==1.2.*"' in text and "recipe.yaml" not in text


def test_an_old_version_that_is_kept(install: Install, run: Callable[..., Path]) -> None:
    install("omnivit-thermal", "2.0", {"thermal": "thermal_new:Thermal", "thermal@1": "thermal_old:Thermal"},
            {"thermal_new.py": THERMAL.format(version=2), "thermal_old.py": THERMAL.format(version=1)})  # fmt: skip
    path = run()
    text = refusal(load, path)
    assert f"Or take that version from what is installed: write `name: thermal@1` in {path}/recipe.yaml" in text
    recipe = (path / "recipe.yaml").read_text()
    (path / "recipe.yaml").write_text(recipe.replace("name: thermal", "name: thermal@1"))
    folder.require_plugins(path, folder.load(path / "recipe.yaml"))


def test_another_major_version_of_the_distribution(install: Install, run: Callable[..., Path]) -> None:
    install("omnivit-thermal", "2.0", {"thermal": "thermal_old:Thermal"}, {"thermal_old.py": THERMAL.format(version=1)})
    path = run()
    text = refusal(load, path)
    assert (
        "the encoder 'thermal' is that of omnivit-thermal 2.0; the run was created with omnivit-thermal 1.2.3" in text
    )
    assert f"Or, if both give the same numbers, write `name: thermal@1` in {path}/recipe.yaml" in text
    assert 'pip install "omnivit-thermal==1.2.*"' in text


@pytest.mark.parametrize("version", ["1.2.3", "1.9"])
def test_one_that_is_as_it_was(install: Install, run: Callable[..., Path], version: str) -> None:
    install("omnivit-thermal", version, {"thermal": "thermal_old:Thermal"},
            {"thermal_old.py": THERMAL.format(version=1)})  # fmt: skip
    path = run()
    assert folder.reopen(path).model.inputs
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        load(path)


def test_one_that_cannot_be_imported(install: Install, run: Callable[..., Path]) -> None:
    install("omnivit-thermal", "1.2.3", {"thermal": "thermal_old:Thermal"}, {"thermal_old.py": "1/0"})
    text = refusal(load, run())
    assert "ZeroDivisionError" in text and 'pip install "omnivit-thermal==1.2.*"' in text


def test_a_class_that_is_named_directly(run: Callable[..., Path]) -> None:
    path = run("{name: 'nowhere:Thermal'}")
    entry = {**MADE, "value": "nowhere:Thermal", "distribution": "not installed", "version": "unknown"}
    record(path, {"omnivit.encoders:nowhere:Thermal": entry})
    text = refusal(lambda folder: load(folder, trust=True), path)
    assert "module 'nowhere' is not found" in text and "add their folder to PYTHONPATH" in text


def test_a_damaged_record(run: Callable[..., Path]) -> None:
    path = run()
    edited = provenance.dump({"plugins": {}}).replace("{}", '{"omnivit.llms:causal": {}}')
    for content in ("{", "[]", '{"plugins": []}', '{"plugins": {"a": 1}}', edited):
        (path / "provenance.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"provenance\.json: cannot be read"):
            folder.reopen(path)


def test_a_run_without_a_record_is_opened(run: Callable[..., Path]) -> None:
    path = run()
    (path / "provenance.json").unlink()
    assert folder.reopen(path).model.inputs
