"""Collate pads without moving anything."""

import torch

from omnivit.contracts.batch import IGNORE
from omnivit.data.collate import EncodedSample, Span, collate


def sample(name: str, ids: list[int], labels: list[int], spans: tuple[Span, ...] = ()) -> EncodedSample:
    items = tuple({"x": torch.tensor([span.start])} for span in spans)
    return EncodedSample(name, torch.tensor(ids), torch.tensor(labels), spans, items, torch.arange(len(ids)))


SAMPLES = [
    sample("a", [5, 6, 7, 8], [IGNORE, IGNORE, 7, 8], (Span("image", 1, 1),)),
    sample("b", [9, 4], [IGNORE, 4]),
]


def test_right_padding() -> None:
    batch = collate(SAMPLES, ("audio", "image"), pad_id=1)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [9, 4, 1, 1]]
    assert batch.labels.tolist() == [[IGNORE, IGNORE, 7, 8], [IGNORE, 4, IGNORE, IGNORE]]
    assert batch.attention_mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    assert batch.route.tolist() == [[0, 2, 0, 0], [0, 0, 0, 0]]
    assert set(batch.media) == {"image"} and batch.media["image"].samples == (0,)


def test_left_padding_shifts_everything_alike() -> None:
    batch = collate(SAMPLES[::-1], ("image",), pad_id=1, pad_left=True)
    assert batch.input_ids.tolist() == [[1, 1, 9, 4], [5, 6, 7, 8]]
    assert batch.position_ids.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert batch.route.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0]]
    assert batch.media["image"].samples == (1,)


def test_targets_are_one_before_the_supervised_token() -> None:
    batch = collate(SAMPLES, ("image",), pad_id=1)
    assert batch.targets().tolist() == [[False, True, True, False], [True, False, False, False]]


def test_map_reaches_media() -> None:
    batch = collate(SAMPLES, ("image",), pad_id=1).map(
        lambda tensor: tensor + 0 if tensor.dtype == torch.bool else tensor + 1
    )
    assert int(batch.input_ids[0, 0]) == 6 and int(batch.media["image"].items["x"][0, 0]) == 2
    assert batch.names == ("a", "b")


def test_media_of_varying_size_are_filled_up() -> None:
    sizes = [(2, 1), (1, 3)]
    items = [{"x": torch.ones(size, dtype=torch.int), "n": torch.tensor(size[0])} for size in sizes]
    ids = torch.zeros(1, dtype=torch.long)
    samples = [EncodedSample("a", ids, ids, (Span("audio", 0, 0),), (item,), ids) for item in items]
    stacked = collate(samples, ("audio",), pad_id=1).media["audio"].items
    assert stacked["x"].tolist() == [[[1, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]]]
    assert stacked["n"].tolist() == [2, 1]
