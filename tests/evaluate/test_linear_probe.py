"""The probe on features whose best classifier is known, and on a tiny encoder."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from omnivit.contracts.adapter import same_length
from omnivit.contracts.features import Features
from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.data.slot import SlotPreparer
from omnivit.errors import DataError, MediaError
from omnivit.evaluate.probe import classify, common_slots, fitted, fold_masks, linear_probe, pooled, rotated
from omnivit.evaluate.probe import views as views_of
from omnivit.model.omni import OmniModel


def drawn(seed: int, n: int, width: int, classes: int, signal: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return signal * centres[labels] + torch.randn(n, width, generator=generator), labels


@pytest.mark.parametrize("width", [12, 300])
def test_separable_features_are_read_off(width: int) -> None:
    train, labels = drawn(0, 120, width, 4, signal=6.0)
    held, expected = drawn(1, 60, width, 4, signal=6.0)
    assert torch.equal(classify([(train, held)], labels, 4), expected)


@pytest.mark.parametrize("width", [12, 300])
def test_noise_gives_chance(width: int) -> None:
    train, labels = drawn(0, 120, width, 4, signal=0.0)
    held, expected = drawn(1, 200, width, 4, signal=0.0)
    right = (classify([(train, held)], labels, 4) == expected).float().mean()
    assert 0.12 < right < 0.38


def test_the_better_view_is_chosen() -> None:
    noise = torch.randn(180, 10, generator=torch.Generator().manual_seed(5))
    train, labels = drawn(0, 120, 10, 3, signal=6.0)
    held, expected = drawn(1, 60, 10, 3, signal=6.0)
    for pairs in ([(noise[:120], noise[120:]), (train, held)], [(train, held), (noise[:120], noise[120:])]):
        assert torch.equal(classify(pairs, labels, 3), expected)


def test_constant_features_do_no_harm() -> None:
    train, labels = drawn(0, 60, 8, 3, signal=6.0)
    held, expected = drawn(1, 30, 8, 3, signal=6.0)
    pairs = [(torch.cat([train, torch.ones(60, 2)], 1), torch.cat([held, torch.full((30, 2), 5.0)], 1))]
    assert (classify(pairs, labels, 3) == expected).float().mean() > 0.95


def test_fit_is_the_optimum() -> None:
    """At the optimum the gradient of the penalised loss vanishes, for every fold by itself."""
    x, labels = drawn(0, 50, 6, 3, signal=1.0)
    keep = fold_masks(labels, 0)
    weights = fitted(x, labels, keep, 0.1, torch.zeros(len(keep), 3, 7))
    for fold, mask in enumerate(keep):
        some = x[mask == 1]
        w = weights[fold].clone().requires_grad_()
        loss = nn.functional.cross_entropy(some @ w[:, :-1].T + w[:, -1], labels[mask == 1])
        (gradient,) = torch.autograd.grad(loss + 0.05 * w[:, :-1].square().sum(), w)
        assert float(gradient.abs().max()) < 1e-3


def test_rotation_keeps_all_that_a_linear_model_sees() -> None:
    train, held = torch.randn(20, 300), torch.randn(7, 300)
    x, x_held = rotated(train, held)
    assert x.shape == (20, 20) and x_held.shape == (7, 20)
    torch.testing.assert_close(x @ x.T, train @ train.T, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(x_held @ x.T, held @ train.T, rtol=1e-3, atol=1e-2)


def test_folds_hold_back_every_sample_once_and_spread_classes() -> None:
    labels = torch.tensor([0] * 10 + [1] * 20)
    keep = fold_masks(labels, 4)
    assert keep.shape == (5, 30) and bool((keep == 0).sum(dim=0).eq(1).all())
    assert [(int(labels[mask == 0].eq(0).sum()), int(mask.eq(0).sum())) for mask in keep] == [(2, 6)] * 5
    assert torch.equal(keep, fold_masks(labels, 4)) and not torch.equal(keep, fold_masks(labels, 5))
    assert fold_masks(torch.tensor([0, 1]), 0).shape == (2, 2)


class Scale(nn.Module):
    """Three rows a medium: the item, its double, its square; the third is padding where the item is negative."""

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        x = items["x"]
        mask = torch.ones(len(x), 3, dtype=torch.bool)
        mask[:, 2] = x[:, 0] >= 0
        return Features(torch.stack([x, 2 * x, x * x], dim=1), mask)


class Reading:
    """A processor whose media are numbers."""

    def __call__(self, media: Media) -> dict[str, Tensor]:
        if media.source is None:
            raise MediaError("no number")
        return {"x": torch.tensor([float(media.source), 1.0])}

    def length(self, item: Mapping[str, Tensor]) -> int:  # noqa: ARG002 - the protocol's
        return 3

    def fingerprint(self) -> str:
        return "reading"


SCALE = Scale()
MODEL = cast(OmniModel, SimpleNamespace(encoders={"number": SCALE}, slot_encoders=lambda _: (SCALE,)))
INPUTS = {"number": SlotPreparer((Reading(),), ((0, same_length),))}


def number(value: Any, answer: str, slots: tuple[str, ...] = ("number",)) -> Sample:
    asked = Message("user", (*(Media(slot, value) for slot in slots), Text("High or low?")))
    return Sample(f"n{value}", (asked, Message("assistant", (Text(answer),))), "n.jsonl:1")


def numbers(*values: float) -> list[Sample]:
    return [number(value, "High." if value > 5 else "low") for value in values]


def test_pooled_ignores_padding() -> None:
    features = Scale()({"x": torch.tensor([[-2.0, 1.0], [2.0, 1.0]])})
    torch.testing.assert_close(pooled(features), torch.tensor([[-3.0, 1.5], [10 / 3, 4 / 3]]))


def test_views_put_media_side_by_side() -> None:
    found = views_of(MODEL, INPUTS, [number(3, "low", ("number",) * 2)] * 3, ("number", "number"), 2)
    assert {name: tuple(view.shape) for name, view in found.items()} == {"mean": (3, 4), "rows": (3, 12)}
    assert found["rows"][2].tolist() == [3, 1, 6, 2, 9, 1] * 2


def test_rows_of_different_number_are_only_averaged() -> None:
    assert views_of(MODEL, INPUTS, numbers(3, 4, -1, 5), ("number",), 2).keys() == {"mean"}


class Counting(nn.Module):
    """As many rows as a medium says, all alike."""

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        values = items["values"]
        return Features(values, torch.arange(values.shape[1]) < items["count"].unsqueeze(1))


class Listing(Reading):
    """Media of one to four rows, by their number."""

    def __call__(self, media: Media) -> dict[str, Tensor]:
        count = 1 + int(media.source) % 4
        return {"values": torch.full((count, 2), float(media.source)), "count": torch.tensor(count)}


def test_media_of_unequal_size_are_encoded_together() -> None:
    counting = Counting()
    model = cast(OmniModel, SimpleNamespace(encoders={"number": counting}, slot_encoders=lambda _: (counting,)))
    inputs = {"number": SlotPreparer((Listing(),), ((0, same_length),))}
    found = views_of(model, inputs, numbers(1, 2, 3, 4, 5), ("number",), 3)
    assert found["mean"].tolist() == [[float(k)] * 2 for k in (1, 2, 3, 4, 5)]


def test_linear_probe_reads_the_encoder() -> None:
    train = numbers(*[k / 2 for k in range(22)])
    state = torch.random.get_rng_state()
    found = linear_probe(MODEL, INPUTS, train, numbers(0.2, 1, 2, 8, 9, 9.9), batch_size=4)
    assert (found.mean, found.n) == (1.0, 6)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("train", "held", "message"),
    [
        (numbers(1, 2), numbers(3), r"fewer than two different answers \(low\)"),
        (numbers(1, 9), [number(4, "lowe")], r"sample 'n4' \(n.jsonl:1\): the answer 'lowe' .* did you mean 'low'"),
        (
            numbers(1, 9),
            [number(4, "low", ())],
            r"sample 'n4' .* slots \[\], but the first sample .*\['number'\]",
        ),
        ([number(1, "low", ("nmber",)), *numbers(9)], numbers(2), r"no input slot 'nmber' .* mean 'number'"),
        (numbers(1, 9), [number(None, "low")], r"sample 'nNone' \(n.jsonl:1\): no number"),
    ],
)
def test_what_the_probe_refuses(train: list[Sample], held: list[Sample], message: str) -> None:
    with pytest.raises(DataError, match=message):
        linear_probe(MODEL, INPUTS, train, held, batch_size=4)


def test_media_are_asked_for() -> None:
    with pytest.raises(DataError, match="at least one"):
        common_slots([number(1, "low", ())], MODEL)
