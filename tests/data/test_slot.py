"""An input slot in a loader worker: several branches, shared encoders, instructions."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from omnivit.contracts.adapter import FixedLength, same_length
from omnivit.contracts.features import Layout
from omnivit.contracts.sample import Media
from omnivit.data.slot import InstructionReader, SlotPreparer, encoder_items, instruction_of
from omnivit.errors import MediaError, RecipeError
from omnivit.model.tokens import byte_tokenizer


@dataclass(frozen=True)
class Letters:
    """A text file's name -> as many numbers as it has letters; `grid` is what the rows fill."""

    scale: int = 1
    sides: tuple[int, ...] | None = None

    def __call__(self, media: Media) -> dict[str, Tensor]:
        if media.source == "broken":
            raise MediaError("broken: cannot be read")
        return {"letters": self.scale * torch.arange(len(str(media.source)))}

    def length(self, item: Mapping[str, Tensor]) -> int:
        return len(item["letters"])

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        del item
        return self.sides

    def fingerprint(self) -> str:
        return f"letters {self.scale}"


def halved(layout: Layout) -> Layout:
    return Layout(layout.tokens // 2)


def counted(layout: Layout) -> Layout:
    """An adapter that needs a grid and makes a row of each of its lines."""
    if layout.grid is None:
        raise RecipeError("needs a grid")
    return Layout(layout.grid[0])


def medium(name: str = "abcdef") -> Media:
    return Media("image", name)


def test_one_branch_gives_the_tensors_as_the_processor_names_them() -> None:
    slot = SlotPreparer((Letters(),), ((0, halved),))
    items = slot(medium())
    assert items.keys() == {"letters"}
    assert items["letters"].tolist() == [0, 1, 2, 3, 4, 5]
    assert slot.tokens(items) == 3
    assert encoder_items(items, 0, 1).keys() == {"letters"}


def test_branches_of_several_encoders_keep_their_tensors_apart_and_their_rows_add_up() -> None:
    slot = SlotPreparer((Letters(), Letters(10)), ((0, halved), (1, same_length), (0, FixedLength(7))))
    items = slot(medium())
    assert items.keys() == {"0.letters", "1.letters"}
    assert encoder_items(items, 1, 2)["letters"].tolist() == [0, 10, 20, 30, 40, 50]
    assert encoder_items(items, 0, 2)["letters"].tolist() == [0, 1, 2, 3, 4, 5]
    assert slot.tokens(items) == 3 + 6 + 7


def test_more_than_ten_encoders_are_not_mixed_up() -> None:
    slot = SlotPreparer(tuple(Letters(k) for k in range(12)), tuple((k, same_length) for k in range(12)))
    items = slot(medium("ab"))
    assert [encoder_items(items, k, 12)["letters"].tolist() for k in (1, 10, 11)] == [[0, 1], [0, 10], [0, 11]]


def test_each_branch_is_given_the_layout_of_its_own_encoder() -> None:
    slot = SlotPreparer((Letters(), Letters(2, sides=(3, 2))), ((1, counted), (0, same_length)))
    assert slot.tokens(slot(medium())) == 3 + 6
    other = SlotPreparer((Letters(), Letters(2, sides=(3, 2))), ((0, counted),))
    with pytest.raises(RecipeError, match="needs a grid"):
        other.tokens(other(medium()))


def test_a_medium_that_one_encoder_cannot_read_is_refused() -> None:
    slot = SlotPreparer((Letters(), Letters(2)), ((0, same_length), (1, same_length)))
    with pytest.raises(MediaError, match="broken: cannot be read"):
        slot(medium("broken"))


@pytest.mark.parametrize("encoders", [1, 2])
def test_the_instruction_goes_beside_the_tensors_of_the_encoders(encoders: int) -> None:
    reader = InstructionReader(byte_tokenizer(), 6)
    processors = tuple(Letters(k) for k in range(encoders))
    slot = SlotPreparer(processors, ((0, same_length),), instruction=reader)
    found = [slot(medium(), words) for words in ("ab", "", "longer than six")]
    assert [int(items["instruction.attention_mask"].sum()) for items in found] == [2, 0, 6]
    stacked = {key: torch.stack([items[key] for items in found[:2]]) for key in found[0]}
    read = instruction_of(stacked)
    assert read is not None
    assert read.ids.tolist() == [[ord("a"), ord("b")], [read.ids[1, 0].item()] * 2]
    assert read.mask.tolist() == [[True, True], [False, False]]  # cut to the longest of the batch
    for number in range(encoders):
        assert encoder_items(stacked, number, encoders).keys() == {"letters"}
    assert slot.tokens(found[0]) == 6


def test_media_without_words_leave_one_masked_token() -> None:
    slot = SlotPreparer((Letters(),), ((0, same_length),), instruction=InstructionReader(byte_tokenizer(), 4))
    read = instruction_of({key: value[None] for key, value in slot(medium()).items()})
    assert read is not None and read.ids.shape == (1, 1) and not read.mask.any()
    assert instruction_of({"letters": torch.zeros(1, 3)}) is None


def test_the_fingerprint_changes_with_every_part() -> None:
    tokens = byte_tokenizer()
    larger = byte_tokenizer()
    larger.add_tokens(["<new>"])
    slots = [
        SlotPreparer((Letters(),), ((0, same_length),)),
        SlotPreparer((Letters(2),), ((0, same_length),)),
        SlotPreparer((Letters(), Letters(2)), ((0, same_length), (1, same_length))),
        *(
            SlotPreparer((Letters(),), ((0, same_length),), instruction=reader)
            for reader in (InstructionReader(tokens, 4), InstructionReader(tokens, 5), InstructionReader(larger, 4))
        ),
    ]
    assert len({slot.fingerprint() for slot in slots}) == len(slots)
    again = SlotPreparer((Letters(),), ((0, same_length),), instruction=InstructionReader(byte_tokenizer(), 4))
    assert again.fingerprint() == slots[3].fingerprint()


def test_it_pickles_and_prepares_the_same() -> None:
    slot = SlotPreparer(
        (Letters(), Letters(3)), ((0, FixedLength(2)), (1, halved)), instruction=InstructionReader(byte_tokenizer(), 4)
    )
    again = pickle.loads(pickle.dumps(slot))
    first, second = slot(medium(), "hi"), again(medium(), "hi")
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert again.tokens(second) == slot.tokens(first) == 2 + 3
    assert again.fingerprint() == slot.fingerprint()
