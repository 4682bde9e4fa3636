"""`omnivit doctor`: the whole picture of an installation, also of a broken one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from omnivit.cli import main
from omnivit.registry import versions
from omnivit.run import doctor
from omnivit.run.doctor import diagnose, size


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("OMNIVIT_CACHE", str(folder))
    return folder


def test_the_whole_picture(cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "gguf").mkdir(parents=True)
    (cache / "gguf" / "weights").write_bytes(bytes(1_234_567))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**12, 0, 10**11))
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "device cpu: " in told and "float32 " in told and "GFLOP/s" in told
    for part in ("torch ", "5.17.0 to ", f"{cache}, 1.23 MB used, 100 GB free", "linear", "No problem was found."):
        assert part in told, told
    assert main(["doctor", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    (torch,) = [one for one in found["libraries"] if one["name"] == "torch"]
    assert torch["state"] == "tested" and torch["installed"] and found["cache"]["used"] == 1_234_567
    assert found["rates"][0]["device"] == "cpu" and found["rates"][0]["gflops"]["float32"] > 0
    assert {"clip", "linear", "causal", "messages"} <= {one["name"] for one in found["plugins"]}
    assert found["problems"] == []


def test_what_is_wrong_is_told_with_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**12, 0, 10**9))
    monkeypatch.setattr(versions, "tested", lambda: {"pillow": ("99.0", "99.1")})
    monkeypatch.setitem(sys.modules, "torch", None)  # its import fails
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert told.count("\nproblem: ") == 4
    assert 'pip install "pillow>=99.0,<=99.1"' in told and " older\n" in told
    assert "torch does not work: ModuleNotFoundError" in told
    assert "has only 1 GB free. Free some space, or move the folder." in told


def test_the_folder_that_stands_for_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert diagnose().hub is None
    (tmp_path / "weights").write_bytes(bytes(2000))
    monkeypatch.setenv("OMNIVIT_HUB", str(tmp_path))
    main(["doctor"])
    assert f"hub: {tmp_path} (OMNIVIT_HUB) is asked first, 2 kB of models" in capsys.readouterr().out
    monkeypatch.setenv("OMNIVIT_HUB", str(tmp_path / "absent"))
    assert "there is no such folder" in diagnose().problems[-1]


def test_a_cache_that_does_not_exist_yet_is_empty(cache: Path) -> None:
    found = diagnose()
    assert not cache.exists() and found.cache.used == 0 and found.cache.free > 0


def test_sizes_as_people_read_them() -> None:
    assert [size(count) for count in (0, 999, 5_600_000_000, 2 * 10**12)] == ["0 B", "999 B", "5.6 GB", "2 TB"]
    assert doctor.LITTLE_DISK == 5 * 10**9
