"""Standard output holds answers alone, whatever plugins and libraries print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from omnivit.cli import main
from omnivit.console import BOLD, GREEN, RESET, paint, table

NOISE = """
import os, subprocess, sys
from omnivit.console import reserved
with reserved() as output:
    print("printed")
    os.write(1, b"written by a C library\\n")
    subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
    print("first answer", file=output, flush=True)
print("last answer")
"""
PLUGIN = """
from omnivit_adapters.linear import LinearAdapter
print("printed at import")

class Loud(LinearAdapter):
    pass
"""


def test_only_answers_reach_standard_output() -> None:
    done = subprocess.run([sys.executable, "-c", NOISE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "first answer\nlast answer\n"
    assert set(done.stderr.splitlines()) == {"printed", "written by a C library", "of a child"}


def test_a_plugin_that_prints_at_import_leaves_json_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loud_plugin.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["plugins", "info", "loud_plugin:Loud", "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["kind"] == "adapters"
    assert captured.err == "printed at import\n"


def test_a_table_is_aligned_and_bold_only_where_colours_are_wanted() -> None:
    rows = [("index", paint("12", GREEN, colour=True), "of data files"), ("gguf", "1,024", "")]
    assert table(rows, ("KIND", "N", "WHAT"), right=(1,), colour=True) == [
        f"{BOLD}KIND       N  WHAT{RESET}",
        f"index  {' ' * 3}{GREEN}12{RESET}  of data files",
        "gguf   1,024",
    ]
    assert table([("a", "1"), ("bc", "23")]) == ["a   1", "bc  23"]
    assert table([]) == []


def test_a_table_of_a_given_width_wraps_its_cells() -> None:
    rows = [("layer", "the layer whose hidden states are taken"), ("grid", "")]
    assert table(rows, width=24, limits=(20,)) == [
        "layer  the layer whose",
        "       hidden states are",
        "       taken",
        "grid",
    ]
