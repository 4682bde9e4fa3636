"""Each planted fault is found by the rule that is meant for it, and by no other."""

from __future__ import annotations

import faulty_heads as faulty
import pytest
from faults_support import Expected, check_found, own_rules, planted, results
from faulty_heads import Box, InFiles
from head_support import Masks

from omnivit.contracts.head import Head
from omnivit.testing.head import HeadContract
from omnivit.testing.plugin import ConfiguredContract

FAULTS: dict[type[Box], Expected] = {
    faulty.HasNoToken: (("token",), "`token` is ''."),
    faulty.SendsItself: (("targets",), "`processor()` contains"),
    faulty.TrustsTargets: (("bad_targets",), "NoneType 'None' raises RuntimeError: Could not infer dtype of NoneType"),
    faulty.LosesPerBox: (("losses",), "the loss 'box' is [3] of torch.float32."),
    faulty.NamesAnotherLoss: (("losses",), "it gives the losses ['box'], and `losses` is ('corners',)."),
    faulty.MeansOverBoxes: (("sums",), "loss 'box' is "),
    faulty.NeedsTargets: (("untold",), "AssertionError"),
    faulty.PredictsTargets: (("untold",), "without targets, occurrence 0: the prediction"),
    faulty.DetachesStates: (("gradients",), "the states [3, 32] get no gradient."),
    faulty.HasSpareLayer: (("gradients",), "parameter 'spare.weight' [1, 32] has no gradient"),
    faulty.ComparesBoxes: (("alone_and_together",), "the prediction 'score' is "),
    faulty.PredictsTheFirst: (("untold",), "for N = 3, the prediction has 1 entries."),
    faulty.ScalesTargets: (("input_kept",), "after forward, `box`["),
    faulty.DropsAlways: (("deterministic",), "called twice: loss 'box' is "),
    faulty.CountsBoxes: (("frozen",), "after a forward pass: seen is "),
    faulty.KeepsTensor: (("device",), "a tensor [4], `sides`, neither parameter nor buffer, is combined"),
    faulty.InsistsOnFloat: (("bfloat16",), "RuntimeError: "),
    faulty.BuiltOnCpu: (("meta",), "parameter 'layers.2.bias' is on cpu."),
    faulty.IsAWord: (("token",), "`token` is 'box', which an answer may contain as plain text."),
    faulty.NormalisesBoxes: (("training",), "in `train()`, occurrence 0 of 3, next to other states: gradient["),
    faulty.TrustsNumbersOfFiles: (("bad_targets",), "an array with NaN in a file: the target "),
    faulty.TrustsShapesOfFiles: (
        ("bad_targets",),
        "an array of one axis more in a file becomes 'box' of ",
    ),
    faulty.DrawsSecretly: (("saved",), "in a second one that loaded the state: loss 'box' is "),
}
"""Head -> the rules that find its fault, the one that is meant for it first, and what that shows."""


class TestBox(HeadContract):
    head = Box


class TestInFiles(HeadContract):
    head = InFiles


class TestMasks(HeadContract):
    """Targets in files, of other sizes."""

    head = Masks


def test_every_rule_applies_to_the_good_one() -> None:
    assert {one.status for one in results(HeadContract, Box).values()} == {"kept"}


def test_no_head_is_left_out() -> None:
    assert planted(faulty, Head) == {Box, InFiles, *FAULTS}


def test_every_rule_of_heads_finds_a_fault() -> None:
    assert {name for names, _ in FAULTS.values() for name in names} == own_rules(HeadContract, ConfiguredContract)


@pytest.mark.parametrize("plugin", FAULTS, ids=lambda plugin: plugin.__name__)
def test_a_fault_is_found(plugin: type[Box]) -> None:
    check_found(HeadContract, plugin, FAULTS[plugin], by_chance=plugin is faulty.DropsAlways)
