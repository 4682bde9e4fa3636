"""The linear probe: how well a linear classifier answers a closed question from the encoder's features alone.

A trained assistant should nearly reach the accuracy of the probe: the difference is lost between the two.

Shapes: N samples, M media, S tokens of a medium, D feature width, V width of a view, R = min(V, N), C classes, F folds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from omnivit.console import track
from omnivit.contracts.encoder import Processor
from omnivit.contracts.features import Features
from omnivit.contracts.metric import Interval
from omnivit.contracts.sample import Media, Sample
from omnivit.data.collate import stacked_items
from omnivit.data.slot import SlotPreparer
from omnivit.errors import DataError, suggest
from omnivit.evaluate.conditions import question, reference
from omnivit.evaluate.intervals import wilson
from omnivit.evaluate.normalise import normalise
from omnivit.model.omni import OmniModel
from omnivit.seeds import derive_seed

PENALTIES = (1e-2, 1e-3, 1e-4, 1e-5)
"""L2 penalties that cross-validation chooses from, strongest first; samples are scaled to a length of about 1."""
FOLDS = 5
MAX_FLAT_WIDTH, MAX_FLAT_SAMPLES = 20_000, 5_000
"""Beyond either, only the mean of a medium's tokens is used, not all of them concatenated."""


def linear_probe(
    model: OmniModel,
    inputs: Mapping[str, SlotPreparer],
    train: Sequence[Sample],
    held_out: Sequence[Sample],
    batch_size: int,
    seed: int = 0,
) -> Interval:
    """Fit a multinomial logistic regression on `train`, and count how often it is right on `held_out`.

    The classes are the reference answers of `train`. Features are the mean of each medium's tokens, or all of its
    tokens concatenated if that is feasible; that and the L2 penalty are chosen by cross-validation on `train`.

    Args:
        model: its encoders (of a slot with several the first), as they are now, give the features.
        inputs: slot -> what prepares its media.
        train: samples of the closed question, all with media of the same slots in the same order.
        held_out: samples of the same question that `train` must not contain.
        batch_size: media that are encoded together.
        seed: of the assignment to folds.

    Raises:
        DataError: samples without such media, a bad medium, fewer than two classes, or an answer in `held_out` that
            `train` does not know; names the sample.
    """
    classes = sorted({normalise(reference(sample)) for sample in train})
    train_labels, held_labels = labels_of(train, classes), labels_of(held_out, classes)
    slots = common_slots([*train, *held_out], model)
    train_views = views(model, inputs, train, slots, batch_size)
    held_views = views(model, inputs, held_out, slots, batch_size)
    shared = [name for name in train_views if name in held_views]
    predicted = classify([(train_views[name], held_views[name]) for name in shared], train_labels, len(classes), seed)
    return wilson(int((predicted == held_labels).sum()), len(held_labels))


def labels_of(samples: Sequence[Sample], classes: Sequence[str]) -> Tensor:
    """[N] index of each sample's answer in `classes`.

    Raises:
        DataError: fewer than two classes, or an answer that is none of them.
    """
    if len(classes) < 2:
        raise DataError(
            f"The linear probe's training samples have fewer than two different answers ({', '.join(classes)}): "
            f"`evaluation.linear_probe` must ask the closed question of `evaluation.data`."
        )
    places = {name: i for i, name in enumerate(classes)}
    for sample in samples:
        if (answer := normalise(reference(sample))) not in places:
            raise DataError(
                f"{sample}: the answer {answer!r} does not occur among the linear probe's training answers; "
                f"{suggest(answer, classes)} `evaluation.linear_probe` must ask the closed question of "
                f"`evaluation.data`."
            )
    return torch.tensor([places[normalise(reference(sample))] for sample in samples])


def common_slots(samples: Sequence[Sample], model: OmniModel) -> tuple[str, ...]:
    """The slots of the media that every sample shows, in order.

    Raises:
        DataError: a sample shows none, or other ones than the first, or of a slot that the model has not.
    """
    expected = tuple(media.slot for media in question(samples[0]).media())
    for slot in expected:
        if slot not in model.encoders:
            raise DataError(f"{samples[0]}: no input slot {slot!r} in the recipe; {suggest(slot, model.encoders)}")
    for sample in samples:
        slots = tuple(media.slot for media in question(sample).media())
        if slots != expected or not slots:
            raise DataError(
                f"{sample}: the sample has media of the slots {list(slots)}, but the first sample has "
                f"{list(expected)}. All samples of the linear probe need media of the same slots, and at least one."
            )
    return expected


def views(
    model: OmniModel,
    inputs: Mapping[str, SlotPreparer],
    samples: Sequence[Sample],
    slots: Sequence[str],
    batch_size: int,
) -> dict[str, Tensor]:
    """The samples' features, media side by side: `mean` [N, V] of each medium's tokens, and `rows` [N, V] all of them.

    `rows` is left out if media differ in their number of tokens, or if it would be too large (`MAX_FLAT_WIDTH`).
    """
    means: list[Tensor] = []
    rows: list[Tensor] | None = [] if len(samples) <= MAX_FLAT_SAMPLES else None
    for start in track(range(0, len(samples), batch_size), "encoding for the linear probe"):
        some = samples[start : start + batch_size]
        columns = [list(question(sample).media()) for sample in some]
        encoded = [
            encode(model.slot_encoders(slot)[0], inputs[slot].processors[0], some, [media[k] for media in columns])
            for k, slot in enumerate(slots)
        ]
        means.append(torch.cat([pooled(features) for features in encoded], dim=1))
        flat = torch.cat([features.values.flatten(1) for features in encoded], dim=1)
        complete = all(bool(features.mask.all()) for features in encoded) and flat.shape[1] <= MAX_FLAT_WIDTH
        if rows is not None and complete and (not rows or rows[0].shape[1] == flat.shape[1]):
            rows.append(flat)
        else:
            rows = None
    result = {"mean": torch.cat(means)}
    return result if rows is None else result | {"rows": torch.cat(rows)}


@torch.no_grad()
def encode(encoder: nn.Module, processor: Processor, samples: Sequence[Sample], media: Sequence[Media]) -> Features:
    """One medium of each sample, through an `Encoder` -> Features [M, S, D], float32 on the CPU.

    Raises:
        DataError: a medium cannot be read; names the sample.
    """
    items = [_prepared(processor, sample, medium) for sample, medium in zip(samples, media, strict=True)]
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    features: Features = encoder({key: value.to(device) for key, value in stacked_items(items).items()})
    return Features(features.values.float().cpu(), features.mask.cpu())


def pooled(features: Features) -> Tensor:
    """[M, D] mean over each medium's real tokens."""
    weights = features.mask.unsqueeze(-1).to(features.values.dtype)
    return (features.values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def classify(pairs: Sequence[tuple[Tensor, Tensor]], labels: Tensor, classes: int, seed: int = 0) -> Tensor:
    """Predict the classes of held-out samples from the view and the penalty that cross-validate best.

    Args:
        pairs: for each view the features of training samples [N, V] and of held-out samples [N', V].
        labels: [N] classes of the training samples, at least two samples.
        classes: C.
        seed: of the assignment to folds.

    Returns:
        [N'] predicted classes.
    """
    keep = fold_masks(labels, seed)
    best: tuple[float, float, Tensor, Tensor] | None = None
    for train, held in pairs:
        x, x_held = rotated(*standardised(train, held))
        for penalty, accuracy in cross_validated(x, labels, classes, keep):
            if best is None or accuracy > best[0]:
                best = accuracy, penalty, x, x_held
    assert best is not None, "at least one view and one penalty"
    _, penalty, x, x_held = best
    weights = fitted(x, labels, torch.ones(1, len(labels)), penalty, torch.zeros(1, classes, x.shape[1] + 1))
    return logits(x_held, weights)[:, 0].argmax(dim=1)


def fold_masks(labels: Tensor, seed: int) -> Tensor:
    """[F, N] float: 1 where a sample trains in a fold, 0 where it is held back there. Classes are spread evenly."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive_seed("folds", seed) % 2**63))
    dealt = order[labels[order].argsort(stable=True)]
    fold = torch.empty_like(labels)
    fold[dealt] = torch.arange(len(labels)) % FOLDS
    folds = torch.arange(min(FOLDS, len(labels)))
    return torch.ne(folds.unsqueeze(1), fold).float()


def standardised(train: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Features to mean 0 and deviation 1 over the training samples, samples to a length of about 1."""
    mean, deviation = train.mean(dim=0), train.std(dim=0)
    scale = math.sqrt(train.shape[1]) * torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
    return (train - mean) / scale, (held - mean) / scale


def rotated(train: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """The coordinates [N, R], [N', R] in the space that the training samples span.

    An L2-penalised linear model is the same in any rotation of its features, and has no weight outside that space:
    with more features than samples this is the same classifier for less work.
    """
    if train.shape[1] <= train.shape[0]:
        return train, held
    values, vectors = torch.linalg.eigh((train @ train.T).double())
    kept = values > 1e-6 * values[-1]
    scale = values[kept].sqrt()
    back = (vectors[:, kept] / scale).float()
    return (vectors[:, kept] * scale).float(), (held @ train.T) @ back


def cross_validated(x: Tensor, labels: Tensor, classes: int, keep: Tensor) -> list[tuple[float, float]]:
    """(penalty, accuracy on the samples held back) for each penalty; every fit starts from the one before.

    Args:
        x: [N, R].
        labels: [N].
        classes: C.
        keep: [F, N], see `fold_masks`.
    """
    weights = torch.zeros(len(keep), classes, x.shape[1] + 1)
    held_back = keep.T == 0
    result = []
    for penalty in PENALTIES:
        weights = fitted(x, labels, keep, penalty, weights)
        right = logits(x, weights).argmax(dim=2) == labels.unsqueeze(1)
        result.append((penalty, float(right[held_back].float().mean())))
    return result


def fitted(x: Tensor, labels: Tensor, keep: Tensor, penalty: float, start: Tensor) -> Tensor:
    """F logistic regressions at once: mean cross-entropy of the kept samples plus penalty / 2 * |weights|^2.

    Args:
        x: [N, R].
        labels: [N].
        keep: [F, N] weight of each sample in each regression.
        penalty: of the weights, not of the intercepts.
        start: [F, C, R + 1] where to begin; the last column contains the intercepts.

    Returns:
        [F, C, R + 1].
    """
    weights = start.clone().requires_grad_()
    shares = (keep / keep.sum(dim=1, keepdim=True)).T
    repeated = labels.repeat_interleave(len(keep))
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=60, tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        losses = functional.cross_entropy(logits(x, weights).flatten(0, 1), repeated, reduction="none")
        total = (losses.view_as(shares) * shares).sum() + penalty / 2 * weights[..., :-1].square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def logits(x: Tensor, weights: Tensor) -> Tensor:
    """[N, R] and [F, C, R + 1] -> [N, F, C]."""
    folds, classes, _ = weights.shape
    return (x @ weights[..., :-1].flatten(0, 1).T).view(len(x), folds, classes) + weights[..., -1]


def _prepared(processor: Processor, sample: Sample, medium: Media) -> dict[str, Tensor]:
    try:
        return processor(medium)
    except DataError as error:
        raise type(error)(f"{sample}: {error}") from error
