"""What layers know of a batch, whole and while text is generated."""

from __future__ import annotations

import pytest
import torch
from llm_support import LATE, NONE, ROWS, TWO, WIDTH, Medium, batch_of

from omnivit.contracts.batch import Batch
from omnivit.contracts.context import Context
from omnivit.contracts.features import Features


def context_of(batch: Batch) -> Context:
    features = {}
    for slot, media in batch.media.items():
        rows = media.items["rows"]
        mask = torch.arange(ROWS) < media.items["count"][:, None]
        memory = Features(rows[:, :2] * 2, mask[:, :2])
        features[slot] = Features(rows, mask, torch.zeros(*rows.shape[:2], 2, dtype=torch.long), memory)
    return Context.of(batch, features)


def test_media_are_numbered_within_their_sample() -> None:
    image = context_of(batch_of(TWO, NONE, LATE, left=True)).media["image"]
    assert image.samples.tolist() == [0, 0, 2]
    assert image.order.tolist() == [1, 2, 1]
    assert image.table.tolist() == [[0, 1], [-1, -1], [2, -1]]
    assert image.seen.tolist() == [
        [1, 1, 1, 1, 1, 1, 2, 2, 2, 2],
        [0] * 10,
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
    ]
    assert image.tokens.tolist() == [0, 1, 2, 3, 6, 7, 26, 27, 28]


def test_every_row_of_the_batch_is_text_or_of_one_slot() -> None:
    sample = (5, Medium(0.1), 9, Medium(0.6, slot="sound"), 17)
    batch = batch_of(sample, NONE, slots=("image", "sound"))
    context = context_of(batch)
    parts = [context.text, *(context.media[slot].tokens for slot in ("image", "sound"))]
    assert torch.cat(parts).sort().values.tolist() == list(range(batch.input_ids.numel()))
    assert context.media["sound"].tokens.tolist() == [5, 6, 7]
    assert context.media["sound"].seen[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_media_without_rows_are_seen_all_the_same() -> None:
    context = context_of(batch_of((5, Medium(0.1), 6, 7, Medium(0.2)), places=0))
    found = context.media["image"]
    assert found.seen.tolist() == [[0, 1, 2]]
    assert found.tokens.tolist() == []
    assert not context.last.any()
    assert context.parts((("image", False),)).sizes == (3, 0)


def test_rows_are_sorted_by_kind_and_back() -> None:
    sample = (5, Medium(0.1), 9, Medium(0.6, count=2, slot="sound"), 17)
    context = context_of(batch_of(sample, slots=("image", "sound")))
    parts = context.parts((("sound", False), ("image", True)))
    assert parts.order.tolist() == [0, 3, 4, 7, 5, 6, 1, 2]
    assert parts.order[parts.back].tolist() == list(range(8))
    assert parts.sizes == (4, 2, 2)
    assert context.parts((("sound", False), ("image", True))) is parts
    assert context.parts((("image", False),)).sizes == (5, 3)


def test_a_step_sees_one_column_and_all_media() -> None:
    context = context_of(batch_of(LATE, NONE, left=True))
    step = context.window(context.route.shape[1] + 2, 1, 2)
    image = step.media["image"]
    assert step.route.tolist() == [[0], [0]]
    assert image.seen.tolist() == [[1], [0]]
    assert image.tokens.tolist() == []
    assert image.table.tolist() == [[0], [-1]]
    assert image.features is context.media["image"].features
    assert step.parts((("image", False),)).sizes == (2, 0)


@pytest.mark.parametrize("start", range(8))
def test_chunks_of_a_prompt_are_columns_of_the_whole(start: int) -> None:
    context = context_of(batch_of(LATE, NONE, left=True))
    chunk = context.window(start, 3, 2)
    width = context.route.shape[1]
    columns = torch.nn.functional.pad(context.route, (0, 3))[:, start : start + 3]
    last = torch.nn.functional.pad(context.last, (0, 3))[:, start : start + 3]
    assert width == 8
    assert torch.equal(chunk.route, columns)
    assert torch.equal(chunk.last, last)
    assert chunk.media["image"].tokens.tolist() == (columns == 1).flatten().nonzero()[:, 0].tolist()


def test_the_whole_is_its_own_window() -> None:
    context = context_of(batch_of(LATE, NONE))
    assert context.window(0, context.route.shape[1], 2) is context


def test_beams_repeat_each_sample_with_its_media() -> None:
    batch = batch_of(TWO, NONE, LATE, left=True)
    context = context_of(batch)
    beams = context.window(0, batch.input_ids.shape[1], 6)
    repeated, plain = beams.media["image"], context.media["image"]
    assert torch.equal(beams.route, context.route.repeat_interleave(2, dim=0))
    assert torch.equal(beams.last, context.last.repeat_interleave(2, dim=0))
    for row in range(6):
        own, of = repeated.table[row], plain.table[row // 2]
        assert ((own < 0) == (of < 0)).all()
        shown = repeated.features.values[own[own >= 0]]
        assert torch.equal(shown, plain.features.values[of[of >= 0]])
    memory, plain_memory = repeated.features.memory, plain.features.memory
    assert memory is not None
    assert plain_memory is not None
    assert torch.equal(memory.values, plain_memory.values.repeat_interleave(2, dim=0))
    assert repeated.features.values.shape == (6, ROWS, WIDTH)
    assert repeated.features.grid is not None
    assert repeated.features.grid.shape == (6, ROWS, 2)
