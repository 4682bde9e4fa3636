"""Old names of the contract's fields: they work in contract 1, and each use names the new one and its line."""

import dataclasses
import warnings

import pytest
import torch

import omnivit.plugin
from omnivit.errors import ContractWarning
from omnivit.plugin import Batch, FixedLength, Instruction, Layout

IDS, MASK = torch.tensor([[3, 4]]), torch.tensor([[True, True]])


def test_an_old_name_reads_the_field_and_warns_with_the_line_that_uses_it() -> None:
    batch = Batch(IDS, IDS, MASK, IDS + 1, IDS * 0, (), {}, ("a",))
    instruction = Instruction(IDS, MASK)
    with pytest.warns(ContractWarning, match="Write: ") as warned:
        values = [batch.ids, batch.mask, batch.positions, instruction.ids, instruction.mask, Layout(7).rows]
    expected = (IDS, MASK, batch.position_ids, IDS, MASK)
    assert all(value is field for value, field in zip(values[:5], expected, strict=True))
    assert values[5] == 7 and len(warned) == 6
    assert {warning.filename for warning in warned} == {__file__}
    assert "Batch.positions" in str(warned[2].message) and "Write: position_ids" in str(warned[2].message)


def test_an_old_keyword_sets_the_field() -> None:
    with pytest.warns(ContractWarning, match="FixedLength.rows") as warned:
        assert FixedLength(rows=3)(Layout(9)).tokens == 3
    assert warned[0].filename == __file__
    with pytest.warns(ContractWarning):
        assert dataclasses.replace(Layout(4, (2, 2)), rows=5).tokens == 5


def test_new_names_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dataclasses.replace(Layout(tokens=4), tokens=6).tokens == 6


def test_the_door_still_exports_old_names_with_a_warning() -> None:
    for old, new in (("Clip", "Video"), ("Cloud", "PointCloud"), ("encode_pictures", "encode_images")):
        with pytest.warns(ContractWarning, match=f"Write: from omnivit.plugin import {new}"):
            assert getattr(omnivit.plugin, old) is getattr(omnivit.plugin, new)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = omnivit.plugin.nothing
