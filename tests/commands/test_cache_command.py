"""`omnivit cache` lists what is kept, and removes that and nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from omnivit_readers.messages import MessagesReader

from omnivit import cli
from omnivit.data.digest import file_sha256
from omnivit.data.tables import Numbers
from omnivit.files import CACHE_VARIABLE, CACHED, LIMIT_VARIABLE, RECENT, trim_cache


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
    parts = "index, digests, tables, gguf, packages"
    assert f"the cache has no part 'indices'. Its parts are: {parts}." in capsys.readouterr().err
    assert (cache / "index").exists()


def test_what_was_not_used_for_longest_is_removed_above_the_limit(
    cache: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long_ago = time.time() - 10 * RECENT
    [index] = (cache / "index").glob("*.npy")
    [digest] = (cache / "digests").iterdir()
    converted = cache / "gguf" / "llm-0"
    converted.mkdir(parents=True)
    (converted / "model.safetensors").write_bytes(bytes(5000))
    (cache / "gguf" / "llm-0.lock").touch()
    for age, path in enumerate((index, digest, converted)):  # the index is the oldest
        os.utime(path, (long_ago - RECENT * (3 - age),) * 2)
    assert trim_cache() == []  # 50 GB are not reached
    MessagesReader(data_root / "train.jsonl", data_root)[0]
    assert index.stat().st_mtime > long_ago + RECENT  # it was used now
    monkeypatch.setenv(LIMIT_VARIABLE, "5kB")
    assert trim_cache() == [digest, converted]
    assert index.exists() and (cache / "mine.txt").exists() and (cache / "gguf" / "llm-0.lock").exists()
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    assert trim_cache() == []  # used within the hour
    os.utime(index, (long_ago,) * 2)
    Numbers(["a", "b"], "key")  # writing trims
    assert not index.exists() and len(list((cache / "tables").iterdir())) == 1
    assert cli.main(["cache"]) == 0
    assert "Above 0 bytes (OMNIVIT_CACHE_LIMIT), what was not used for longest" in capsys.readouterr().out
    monkeypatch.setenv(LIMIT_VARIABLE, "plenty")
    assert cli.main(["cache", "--clear"]) == 2
    assert "is 'plenty', which is no size" in capsys.readouterr().err and (cache / "tables").exists()
