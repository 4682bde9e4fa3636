"""Which contracts a plugin may be written for, and what happens to features that have gone."""

from __future__ import annotations

import warnings

import pytest
from registry_support import GOOD, Install, of_version

from omnivit.contracts.registries import ALL
from omnivit.errors import PluginError
from omnivit.registry import Registry, contract
from omnivit.registry.contract import Change, ContractWarning, Terms, judge

LATER = Terms(
    current=4,
    accepted=range(2, 5),
    deprecated={2: "declare `reach`"},
    changes=(
        Change("eye", "glance", 3, None, "define `look`"),
        Change("eye", "stare", 2, 4, "define `gaze`"),
        Change("eye", "wink", 5, 6, "define `blink`"),
        Change("ear", "size", 1, 2, "of another kind"),
    ),
)
"""The terms of an OmniViT to come."""


class Base:
    glance = "of the base class, so not the plugin's doing"


def plugin(*bases: type, **attributes: object) -> type:
    return type("Plugin", bases or (Base,), attributes)


def test_this_contract() -> None:
    assert contract.ACCEPTED[-1] == contract.CONTRACT and contract.ACCEPTED[0] == 1
    assert set(contract.DEPRECATED) <= set(contract.ACCEPTED)
    assert judge(plugin(contract=contract.CONTRACT), Base, "eye") == contract.Verdict()
    kinds = {found.noun for found in ALL.values()}
    assert kinds == {"encoder", "adapter", "llm", "reader", "head", "metric"}
    assert {change.kind for change in contract.CHANGES} <= kinds


def test_one_that_says_nothing_is_of_the_first() -> None:
    assert judge(plugin(), Base, "eye") == contract.Verdict()
    assert (
        "it is written for contract 1; this OmniViT accepts contracts 2 to 4"
        in judge(plugin(), Base, "eye", LATER).problem
    )


def test_outside_the_range() -> None:
    newer = judge(plugin(contract=5), Base, "eye", LATER)
    assert newer.problem == "it is written for contract 5; this OmniViT accepts contracts 2 to 4"
    assert "pip install --upgrade" in newer.remedy
    older = judge(plugin(contract=1), Base, "eye", LATER)
    assert "install a newer version of the plugin" in older.remedy and "docs/plugins/migrating.md" in older.remedy
    assert judge(plugin(contract=2), Base, "eye").problem.endswith("this OmniViT accepts contract 1")


@pytest.mark.parametrize("stated", [0, -1, True, "1", None, 1.0, "\x1b[31m"])
def test_a_contract_that_is_none(stated: object) -> None:
    verdict = judge(plugin(contract=stated), Base, "eye")
    assert "not a whole number above 0" in verdict.problem and verdict.problem.isprintable()


def test_a_contract_that_goes() -> None:
    assert judge(plugin(contract=2), Base, "eye", LATER).warnings == (
        "it is written for contract 2: declare `reach` (docs/plugins/migrating.md)",
    )
    assert judge(plugin(contract=3), Base, "eye", LATER).warnings == ()


def test_features_that_go_and_have_gone() -> None:
    going = judge(plugin(contract=3, glance=1, wink=1, size=1), Base, "eye", LATER)
    assert going == contract.Verdict(warnings=(
        "it defines `glance`, which contract 3 deprecates and a later one removes: define `look` "
        "(docs/plugins/migrating.md)",
    ))  # fmt: skip
    gone = judge(plugin(contract=4, stare=1, glance=1), Base, "eye", LATER)
    assert gone.problem == "it defines `stare`, which contract 4 has removed"
    assert gone.remedy == "define `gaze` (docs/plugins/migrating.md)"


def test_what_the_core_defines_is_not_the_plugins_doing() -> None:
    core = type("Core", (Base,), {"stare": 1, "__module__": "omnivit.model.causal"})
    assert judge(plugin(core, contract=4), Base, "eye", LATER) == contract.Verdict()
    beneath = type("Beneath", (), {"stare": 1})  # as torch.nn.Module is for an encoder
    core = type("Core", (beneath, Base), {"__module__": "omnivit.contracts.encoder"})
    assert judge(plugin(core, contract=4), object, "eye", LATER) == contract.Verdict()
    own = type("Own", (Base,), {"stare": 1})
    assert "`stare`" in judge(plugin(own, contract=4), Base, "eye", LATER).problem  # what its own base class defines is


def test_the_registry_refuses(install: Install, eyes: Registry[object], monkeypatch: pytest.MonkeyPatch) -> None:
    install("foo", "1.2", {"good": "foogood:Good", "gone": "foogone:Good"},
            {"foogood.py": of_version(1, contract=9), "foogone.py": of_version(1, contract=4, stare=1)})  # fmt: skip
    with pytest.raises(PluginError) as caught:
        eyes.get("good")
    assert "The eye 'good' cannot be used: it is written for contract 9" in str(caught.value)
    assert "distribution foo 1.2" in str(caught.value) and "remedy: install a newer OmniViT" in str(caught.value)
    assert eyes.health("good").problem.startswith("it is written for contract 9")
    monkeypatch.setattr(contract, "TERMS", LATER)
    with pytest.raises(PluginError, match=r"contract 4 has removed.*\n.*\n.*remedy: define `gaze`"):
        eyes.get("gone")


def test_the_registry_warns_once(install: Install, eyes: Registry[object], monkeypatch: pytest.MonkeyPatch) -> None:
    install("foo-warns", "1.2", {"good": "foogood:Good"}, {"foogood.py": of_version(1, contract=2)})
    monkeypatch.setattr(contract, "TERMS", LATER)
    with pytest.warns(ContractWarning) as caught:
        eyes.get("good")
        eyes.get("good")
    assert [str(warning.message) for warning in caught] == [
        "The eye 'good' (foo-warns 1.2): it is written for contract 2: declare `reach` (docs/plugins/migrating.md)"
    ]
    assert caught[0].filename == __file__


def test_no_warning_without_cause(install: Install, eyes: Registry[object]) -> None:
    install("foo", "1.2", {"good": "foogood:Good"}, {"foogood.py": GOOD})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eyes.get("good")
