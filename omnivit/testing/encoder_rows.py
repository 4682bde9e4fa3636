"""The contract of encoders: rules for the rows that `forward` returns.

Shapes: M media, S rows a medium, D = `width`, k grid coordinates, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from omnivit.contracts.encoder import Encoder, GridProcessor, Processor
from omnivit.contracts.features import Features
from omnivit.model.splice import splice
from omnivit.testing.encoder_processor import ProcessorRules
from omnivit.testing.rules import Broken, NotApplicable, rule
from omnivit.testing.trial import Item, Trial, batch_of, batches, difference, encoded, real_rows, stacked

NEAR = 1e-5
"""Greatest difference between a medium alone and in a batch, as a share of the largest number. 16 bits hold less."""


class RowRules(ProcessorRules):
    """Rules for what `Encoder.forward` returns."""

    @rule
    def test_shapes(self, tmp_path: Path) -> None:
        """`forward` returns Features: float values [M, S, width], bool mask [M, S], integer grid [M, S, k] or None."""
        trial = self.trial(tmp_path)
        for items in _by_slot(trial):
            _check_shapes(encoded(trial.encoder, items[:1]), 1, trial.encoder)
            _check_shapes(encoded(trial.encoder, items), len(items), trial.encoder)

    @rule
    def test_length(self, tmp_path: Path) -> None:
        """`processor.length(item)` is the number of rows that `forward` returns, alone and in any batch (Law 2)."""
        trial = self.trial(tmp_path)
        for items in _by_slot(trial):
            wanted = [_length(trial.processor, item) for item in items]
            for batch in _all_batches(len(items)):
                found = encoded(trial.encoder, [items[i] for i in batch]).mask.sum(dim=1).tolist()
                for place, number in enumerate(batch):
                    if found[place] != wanted[number]:
                        raise Broken(
                            f"`length` says {wanted[number]}, and the mask shows {found[place]} rows, for the medium "
                            f"{_size(items[number])} {_among(items, batch, place)}.",
                            "Count in `length` what `forward` computes, and mask out what the collator filled up.",
                        )

    @rule
    def test_grid(self, tmp_path: Path) -> None:
        """Where `processor.grid(item)` gives sizes, the rows fill that grid in order, the last index fastest."""
        trial = self.trial(tmp_path)
        if not isinstance(trial.processor, GridProcessor):
            raise NotApplicable("its processor has no `grid`: the rows have no place.")
        grids = 0
        for items in _by_slot(trial):
            features = encoded(trial.encoder, items)
            for number, item in enumerate(items):
                sizes = trial.processor.grid(item)
                if sizes is not None:
                    grids += 1
                    _check_grid(features, number, sizes)
        if not grids:
            raise NotApplicable("no medium of the example has rows that fill a grid.")

    @rule
    def test_mask(self, tmp_path: Path) -> None:
        """Rows that are masked out change nothing downstream: they are finite, and the mask shows all that count."""
        trial = self.trial(tmp_path)
        padded = False
        for items in _by_slot(trial):
            for batch in _all_batches(len(items)):
                chosen = [items[i] for i in batch]
                features = encoded(trial.encoder, chosen)
                padded |= not bool(features.mask.all())
                _check_masked(features, chosen)
        if not padded:
            raise NotApplicable("all media of the example have equally many rows, so none is masked out.")

    @rule
    def test_batch(self, tmp_path: Path) -> None:
        """A medium gives in a batch what it gives alone, within 1e-5, whatever its neighbours and their sizes."""
        trial = self.trial(tmp_path)
        for items in _by_slot(trial):
            alone = [real_rows(encoded(trial.encoder, [item]), 0) for item in items]
            for batch in batches(len(items)):
                features = encoded(trial.encoder, [items[i] for i in batch])
                for place, number in enumerate(batch):
                    rows = real_rows(features, place)
                    where = difference("row", rows, alone[number], max(NEAR, 2 * torch.finfo(rows.dtype).eps))
                    if where and len(rows) == len(alone[number]):  # else it is for the rule `length` to say
                        raise Broken(
                            f"{where}, for the medium {_size(items[number])} {_among(items, batch, place)}, against "
                            "alone.",
                            "Leave the filling out by the sizes in the item (attention masks, means over real rows); "
                            "let no medium see another.",
                        )

    @rule
    def test_inputs(self, tmp_path: Path) -> None:
        """`forward` leaves the tensors that it is given as they are: other branches read them too."""
        trial = self.trial(tmp_path)
        for items in _by_slot(trial):
            given = stacked(items)
            before = {key: value.clone() for key, value in given.items()}
            with torch.no_grad():
                trial.encoder(given)
            for key, value in before.items():
                where = difference(f"`{key}`", given[key], value) if key in given else f"`{key}` is gone"
                if where:
                    raise Broken(f"after `forward`, {where}.", "Compute out of place: `x = x + 1`, not `x += 1`.")


def _by_slot(trial: Trial) -> Iterator[list[Item]]:
    return (trial.items(slot) for slot in trial.slots)


def _all_batches(count: int) -> Iterator[tuple[int, ...]]:
    """As `batches`, after each medium alone."""
    yield from ((number,) for number in range(count))
    yield from batches(count)


def _size(item: Item) -> str:
    """An item by the shapes of its tensors."""
    return "{" + ", ".join(f"{key}: {list(value.shape)}" for key, value in item.items()) + "}"


def _among(items: Sequence[Item], batch: tuple[int, ...], place: int) -> str:
    """Where a medium stands in its batch, in words."""
    if len(batch) == 1:
        return "alone"
    others = [_size(items[number]) for at, number in enumerate(batch) if at != place]
    return f"at place {place} of a batch with {' and '.join(others)}"


def _length(processor: Processor, item: Item) -> int:
    found: object = processor.length(item)
    if type(found) is not int or found < 0:
        raise Broken(
            f"`length` returns {found!r} for {_size(item)}.", "Return an int of at least 0: `int(item['rows'])`."
        )
    return found


def _check_shapes(features: object, count: int, encoder: Encoder) -> None:
    """Raise Broken where this is no result for so many media."""
    if not isinstance(features, Features):
        raise Broken(f"it returns a {type(features).__name__}.", "Return `Features(values, mask, grid)`.")
    for problem in _shape_problems(features, count, encoder.width):
        raise Broken(f"for {count} media, {problem}.")


def _shape_problems(features: Features, count: int, width: int) -> Iterator[str]:
    values, mask, grid = features.values, features.mask, features.grid
    if values.ndim != 3 or len(values) != count or values.shape[2] != width:
        yield f"values have the shape {list(values.shape)}, [{count}, S, {width}] is wanted (`width` is {width})"
    elif not values.is_floating_point():
        yield f"values are {values.dtype}, not floating point"
    elif mask.shape != values.shape[:2] or mask.dtype != torch.bool:
        yield f"the mask is {mask.dtype} {list(mask.shape)}, bool {list(values.shape[:2])} is wanted"
    elif grid is not None and (grid.ndim != 3 or grid.shape[:2] != mask.shape or grid.is_floating_point()):
        yield f"the grid is {grid.dtype} {list(grid.shape)}, integer {[*mask.shape, 'k']} is wanted"


def _check_grid(features: Features, number: int, sizes: tuple[int, ...]) -> None:
    """Raise Broken where the rows of a medium do not fill the grid in order."""
    places = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, len(sizes))
    if features.grid is None:
        raise Broken(f"`processor.grid` says {sizes}, and `forward` returns no grid.", "Return `Features(..., grid)`.")
    found = features.grid[number, features.mask[number]].cpu().long()
    where = difference("place", found, places)
    if where and len(found) <= len(places):  # more rows are for the rule `length` to tell of
        raise Broken(
            f"`processor.grid` says {sizes}, and in the grid of `forward` {where}.",
            "Name places as `torch.cartesian_prod` of the ranges does, or give no grid.",
        )


def _check_masked(features: Features, items: Sequence[Item]) -> None:
    """Raise Broken where consumers of the rows get something else when those masked out are zero."""
    empty = replace(features, values=features.values.masked_fill(~features.mask[..., None], 0.0))
    batch = batch_of(items, features.lengths().tolist())
    embeds = torch.zeros(*batch.ids.shape, features.values.shape[2])
    readers = {
        "spliced into the LLM's embeddings": lambda rows: splice(embeds, {"slot": rows}, batch),
        "averaged by the mask, as adapters do,": _averaged,
    }
    for how, read in readers.items():
        where = difference("number", read(features), read(empty))
        if where:
            raise Broken(
                f"{how} {where} when the rows that are masked out are 0.",
                "Set them to 0 before returning: `values.masked_fill(~mask[..., None], 0)`.",
            )


def _averaged(features: Features) -> Tensor:
    """[M, D] the mean of real rows, by multiplication: NaN times 0 is NaN."""
    weights = features.mask[..., None].to(features.values.dtype)
    return (features.values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
