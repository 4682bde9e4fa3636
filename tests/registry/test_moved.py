"""Old module names work for a contract version, and say what to write instead."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from omnivit import moved, plugin
from omnivit.errors import ContractWarning

PAGE = Path(__file__).parents[2] / "docs" / "plugins" / "migrating.md"


def old_names() -> list[tuple[str, str]]:
    """Old module and name, of everything that the door exports and that was elsewhere before."""
    now = {new: old for old, new in moved.MOVED.items()}
    return [(now[home], name) for name, home in plugin.HOME.items() if home in now]


@pytest.mark.parametrize(("module", "name"), old_names())
def test_an_old_name_is_the_same_object_and_tells_the_new_import(module: str, name: str) -> None:
    with pytest.warns(ContractWarning, match=rf"from omnivit\.plugin import {name}\b") as caught:
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(plugin, name)
    assert caught[0].filename == __file__


def test_a_caller_is_warned_once_with_his_file_and_line(tmp_path: Path) -> None:
    script = tmp_path / "old.py"
    script.write_text(
        "for _ in range(3):\n    from omnivit.model.encoder import Encoder\nfrom omnivit.registry import encoders\n"
        "from omnivit.media.video import read_frames\nfrom omnivit.media.pages import look\n"
        "from omnivit.train.stages import train\nfrom omnivit_encoders.document_native import DocumentNativeEncoder\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    lines = re.findall(rf"{re.escape(str(script))}:(\d+): ContractWarning", done.stderr)
    assert lines == ["2", "3", "4", "5", "6", "7"]
    assert "from omnivit.contracts.registries import encoders" in done.stderr
    assert "from omnivit.media.pages import facts_of" in done.stderr
    assert "from omnivit_encoders.document.native import DocumentNativeEncoder" in done.stderr


def test_a_name_that_never_was_is_an_ordinary_import_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Decoder'"):
        exec("from omnivit.model.encoder import Decoder")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("omnivit.model.decoder")


def test_a_name_that_another_module_exports_too_is_that_of_its_own_module() -> None:
    """`omnivit.plugin` has an `explained` and a `resolve`, of other modules."""
    for module, name in (("omnivit.train.folder", "explained"), ("omnivit.recipe_resolve", "resolve")):
        home = moved.MOVED[module]
        with pytest.warns(ContractWarning, match=rf"from {re.escape(home)} import {name}\b"):
            value = getattr(importlib.import_module(module), name)
        assert value is getattr(importlib.import_module(home), name) is not getattr(plugin, name)


def test_every_target_is_there() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for target in {*moved.MOVED.values(), *moved.NAMES.values()}:
            importlib.import_module(target)


def test_the_guide_lists_every_module_that_authors_may_have_used() -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = {module for module, _ in old_names() if f"`{module}`" not in text}
    assert not missing
