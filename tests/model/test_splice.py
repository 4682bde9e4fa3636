"""Splice puts every row where it was reserved, and refuses a wrong count by name."""

import pytest
import torch

from omnivit.contracts.batch import Batch
from omnivit.contracts.features import Features
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.errors import SpliceError
from omnivit.model.splice import splice


def sample(name: str, length: int, spans: tuple[Span, ...]) -> EncodedSample:
    items = tuple({"pixels": torch.full((1,), float(i))} for i in range(len(spans)))
    return EncodedSample(name, torch.arange(length), torch.arange(length), spans, items, torch.arange(length))


@pytest.fixture
def batch() -> Batch:
    """Two pictures around a sound, a picture, and text alone."""
    first = sample("first", 9, (Span("image", 1, 2), Span("audio", 4, 1), Span("image", 6, 2)))
    return collate([first, sample("second", 5, (Span("image", 0, 3),)), sample("third", 4, ())], ("image", "audio"), 0)


def rows(lengths: list[int], width: int = 4, start: float = 100.0) -> Features:
    size = max(lengths)
    mask = torch.arange(size) < torch.tensor(lengths).unsqueeze(1)
    values = start + torch.arange(len(lengths) * size, dtype=torch.float).view(-1, size, 1).expand(-1, -1, width)
    return Features(values.contiguous(), mask)


def test_rows_land_in_reading_order(batch: Batch) -> None:
    embeds = torch.zeros(3, 9, 4)
    image, audio = rows([2, 2, 3]), rows([1], start=500.0)
    out = splice(embeds, {"image": image, "audio": audio}, batch)[..., 0]
    assert out[0].tolist() == [0, 100, 101, 0, 500, 0, 103, 104, 0]
    assert out[1].tolist() == [106, 107, 108, 0, 0, 0, 0, 0, 0]
    assert out[2].abs().sum() == 0


@pytest.mark.parametrize(("lengths", "medium", "has", "wants"), [([2, 3, 3], 1, 3, 2), ([2, 2, 2], 2, 2, 3)])
def test_wrong_count_names_sample_slot_and_counts(
    batch: Batch, lengths: list[int], medium: int, has: int, wants: int
) -> None:
    with pytest.raises(SpliceError) as error:
        splice(torch.zeros(3, 9, 4), {"image": rows(lengths)}, batch)
    message = str(error.value)
    assert f"{has} tokens" in message and f"{wants} were reserved" in message and "'image'" in message
    assert ("first" if medium == 1 else "second") in message


def test_missing_medium_is_refused(batch: Batch) -> None:
    with pytest.raises(SpliceError, match="3 media, but encoder and adapter returned 2"):
        splice(torch.zeros(3, 9, 4), {"image": rows([2, 2])}, batch)


def test_gradients_reach_both_sides(batch: Batch) -> None:
    embeds = torch.randn(3, 9, 4, requires_grad=True)
    image = rows([2, 2, 3])
    values = image.values.requires_grad_()
    splice(embeds, {"image": image}, batch).sum().backward()
    assert embeds.grad is not None and values.grad is not None
    assert torch.equal(values.grad[..., 0], image.mask.float())
    assert torch.equal(embeds.grad[..., 0] == 0, batch.route == 1)
