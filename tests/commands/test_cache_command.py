"""`omnivit cache` lists what is kept, and removes that and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omnivit_readers.messages import MessagesReader

from omnivit import cli
from omnivit.data.digest import file_sha256
from omnivit.files import CACHE_VARIABLE, CACHED


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path) -> Path:
    """A cache that holds an index and a digest, and a file that is not OmniViT's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    MessagesReader(data_root / "train.jsonl", data_root)
    file_sha256(data_root / "train.jsonl")
    (folder / "mine.txt").write_text("mine")
    return folder


def test_it_lists_kinds_and_sizes(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{cache}: ") and "index" in out and "1 files" in out and "omnivit cache --clear" in out
    assert cli.main(["cache", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kinds"].keys() == CACHED.keys() and found["kinds"]["digests"] == {"files": 1, "bytes": 64}
    assert found["kinds"]["index"]["bytes"] > 0 and found["cleared"] is False


def test_it_clears_what_is_named_or_all(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "digests", "--clear"]) == 0
    assert "Removed 64 bytes" in capsys.readouterr().out
    assert not (cache / "digests").exists() and (cache / "index").exists()
    assert cli.main(["cache", "--clear"]) == 0
    assert [path.name for path in cache.iterdir()] == ["mine.txt"]


def test_an_unknown_kind_is_refused(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "indices", "--clear"]) == 2
    assert "the cache has no part 'indices'. Its parts are: index, digests, gguf, packages." in capsys.readouterr().err
    assert (cache / "index").exists()
