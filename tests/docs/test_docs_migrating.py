"""docs/plugins/migrating.md: its entry points, names and message are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from registry_support import Install, of_version

from omnivit.registry import Registry, contract

PAGE = (Path(__file__).parents[2] / "docs" / "plugins" / "migrating.md").read_text(encoding="utf-8")


def test_two_versions_beside_each_other(install: Install) -> None:
    block = re.search(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert block is not None
    entries = dict(re.findall(r'^"?([\w@]+)"? = "(.*)"$', block[1].replace("ThermalEncoder", "Good"), re.MULTILINE))
    files = {"encoder.py": of_version(2), "first.py": of_version(1)}
    install("omnivit-thermal", "1.2", entries, {f"omnivit_thermal/{name}": text for name, text in files.items()})
    known: Registry[object] = Registry("omnivit.eyes", "eyebase:Eye")
    table = re.findall(r"^\| `([^`]*thermal[^`]*)` \|", PAGE, flags=re.MULTILINE)
    assert len(table) == 5
    given = {name: known.get(name.replace("ThermalEncoder", "Good")).__module__ for name in table}
    assert [module.rpartition(".")[2] for module in given.values()] == ["encoder", "encoder", "first", "first", "first"]


def test_what_is_accepted() -> None:
    accepted = contract.ACCEPTED
    assert f"speaks contract {contract.CONTRACT} and accepts contract {accepted[0]} (" in PAGE and len(accepted) == 1
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", PAGE.partition("What has changed so far")[2], flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, contract.CONTRACT + 1))
    assert all(change.attribute in PAGE for change in contract.CHANGES)
