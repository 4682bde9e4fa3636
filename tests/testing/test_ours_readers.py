"""Each of our readers keeps the contract."""

from __future__ import annotations

import pytest

from omnivit.contracts import registries
from omnivit.testing.reader import ReaderContract
from omnivit.testing.rules import outcomes

OURS = [name for name, entry in registries.readers.names().items() if entry.value.startswith("omnivit_readers.")]


@pytest.mark.parametrize("name", OURS)
def test_ours_keep_the_contract(name: str) -> None:
    found = list(outcomes(ReaderContract.on(registries.readers.get(name))))
    assert [one.message for one in found if one.status != "kept"] == []
