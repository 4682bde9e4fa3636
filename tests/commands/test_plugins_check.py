"""`omnivit plugins check`: the contract on plugins by name, as a scorecard or as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from omnivit import testing
from omnivit.cli import main
from omnivit.commands.plugins import check as plugins_check
from omnivit.testing.encoder import EncoderContract

RULES = [rule.name for rule in EncoderContract.rules()]


@pytest.fixture(autouse=True)
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "support"))


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["plugins", "check", *arguments])
    return status, *capsys.readouterr()


def test_a_good_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = check(capsys, "faulty_encoders:Pcm")
    heading, *lines = out.splitlines()
    assert status == 0
    assert heading == "encoder faulty_encoders:Pcm (pcm_encoder.Pcm)"
    assert [line.split()[:2] for line in lines[: len(RULES)]] == [["ok", name] for name in RULES]
    assert lines[len(RULES)].startswith(
        f"{len(RULES)} rules: {len(RULES)} kept, 0 broken, 0 not applicable, 0 not tried; "
    )


def test_a_rule_that_does_not_apply_is_marked_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = check(capsys, "features", "--kind", "encoder")
    lines = out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.split()[:2] == ["-", "gradient"])
    assert status == 0
    assert lines[at + 1].strip() == "not applicable: it has no parameters that train."


def test_a_broken_rule_shows_what_was_found_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = check(capsys, "faulty_encoders:CountsOneLess", "faulty_encoders:Pcm")
    lines = out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.split()[:2] == ["BROKEN", "length"])
    assert status == 1
    assert "is the number of tokens that `forward` returns" in lines[at]
    assert lines[at + 1].strip().startswith("found: `length` returns 1, and the mask shows 2 tokens")
    assert lines[at + 2].strip().startswith("do: Count in `length` what `forward` computes")
    assert sum(line.startswith("encoder ") for line in lines) == 2


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = check(capsys, "--json", "faulty_encoders:CountsOneLess")
    (record,) = json.loads(out)
    assert status == 1
    assert (record["kind"], record["name"]) == ("encoders", "faulty_encoders:CountsOneLess")
    assert (record["broken"], record["kept"], record["not_applicable"]) == (1, len(RULES) - 3, 0)
    assert (record["not_tried"], record["error"], record["warnings"]) == (2, "", [])
    assert [rule["rule"] for rule in record["rules"]] == RULES
    (broken,) = [rule for rule in record["rules"] if rule["status"] == "broken"]
    assert broken["message"].startswith(f"rule length: {broken['wants']}\n  found: ")


def test_a_name_that_is_none_stops_before_anything_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, error = check(capsys, "faulty_encoders:Pcm", "nothing")
    assert (status, out) == (2, "")
    assert "No plugin is called 'nothing'" in error


BROKEN_IMPORT = "raise OSError('libdepth.so is missing')\n"
MOVED_NAMES = """
import torch
from omnivit.model.encoder import Encoder
from pcm_encoder import Pcm
print("noise at import")
class Old(Pcm):
    pass
"""


def test_one_that_cannot_be_loaded_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_import.py").write_text(BROKEN_IMPORT)
    monkeypatch.syspath_prepend(str(tmp_path))
    status, out, _ = check(capsys, "broken_import:Depth", "faulty_encoders:NoExample", "--kind", "encoder")
    assert status == 1
    assert "BROKEN  cannot be loaded: " in out and "libdepth.so is missing" in out
    assert "encoder faulty_encoders:NoExample (faulty_encoders.NoExample)" in out
    status, out, _ = check(capsys, "broken_import:Depth", "faulty_encoders:NoExample", "--kind", "encoder", "--json")
    broken, other = json.loads(out)
    assert "libdepth.so is missing" in broken["error"] and broken["rules"] == [] and other["broken"] == 1


def test_what_follows_from_a_fault_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = check(capsys, "faulty_encoders:NoExample")
    assert status == 1 and out.count("BROKEN") == 1
    assert "  not tried: config_serialisable, items, determinism, seed, " in out
    assert "(needs the rule `example`, which is broken)" in " ".join(out.split())


def test_moved_names_and_prints_of_a_plugin(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old_names.py").write_text(MOVED_NAMES)
    monkeypatch.syspath_prepend(str(tmp_path))
    status, out, error = check(capsys, "old_names:Old", "--json")
    (record,) = json.loads(out)
    assert status == 0 and "noise at import" in error
    (warning,) = record["warnings"]
    assert warning.startswith(f"{tmp_path / 'old_names.py'}:3: omnivit.model.encoder.Encoder has moved")
    assert "from omnivit.plugin import Encoder" in warning
    monkeypatch.delitem(sys.modules, "old_names")
    _, out, _ = check(capsys, "old_names:Old")
    assert f"  warning: {warning}\n" in out and "noise" not in out


@pytest.mark.parametrize("kind", plugins_check.CONTRACTS)
def test_every_kind_has_rules_and_each_says_what_it_wants(kind: str) -> None:
    contract = plugins_check.contract_of(kind)
    assert contract.kind == kind.removesuffix("s")
    assert contract.rules() and all(rule.wants.endswith(".") for rule in contract.rules())


def test_the_package_offers_the_contract_of_each_kind() -> None:
    contracts = {plugins_check.contract_of(kind) for kind in plugins_check.CONTRACTS}
    offered = {getattr(testing, name) for name in testing.__all__ if name.endswith("Contract") and name != "Contract"}
    assert offered == contracts
    with pytest.raises(AttributeError, match="no attribute 'LanguageModelContract'"):
        _ = testing.LanguageModelContract
