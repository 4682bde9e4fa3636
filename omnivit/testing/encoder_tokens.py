"""The contract of encoders: rules for the tokens that `forward` returns.

Shapes: M media, S tokens a medium, D = `width`, k grid coordinates, T tokens.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from omnivit.contracts.encoder import Encoder, GridProcessor, Processor
from omnivit.contracts.features import Features, Layout, places_of
from omnivit.model.splice import splice
from omnivit.seeds import seeded
from omnivit.testing.encoder_processor import ProcessorRules
from omnivit.testing.plugin import example_of, fresh
from omnivit.testing.rules import Broken, NotApplicable, rule
from omnivit.testing.sizes import PATIENCE, resized
from omnivit.testing.trial import SEED, Item, Trial, batch_of, batches, difference, encoded, real_tokens, stacked

NEAR = 1e-5
"""Greatest difference between a medium alone and in a batch, as a share of the largest number; 16 bits allow more."""


LENGTH = "Count in `length` what `forward` computes, and mask out the padding of the collator."


class TokenRules(ProcessorRules):
    """Rules for what `Encoder.forward` returns."""

    @rule(needs=("items",))
    def test_shapes(self, tmp_path: Path) -> None:
        """`forward` returns Features: float values [M, S, width], bool mask [M, S], integer grid [M, S, k] or None."""
        trial = self.trial(tmp_path)
        for items in _by_slot(trial):
            _check_shapes(encoded(trial.encoder, items[:1]), 1, trial.encoder)
            _check_shapes(encoded(trial.encoder, items), len(items), trial.encoder)

    @rule(needs=("shapes",))
    def test_length(self, tmp_path: Path) -> None:
        """`processor.length(item)` is the number of tokens that `forward` returns, alone and in any batch (Law 2)."""
        trial = self.trial(tmp_path)
        for items in _by_slot(trial):
            lengths = [_length(trial.processor, item) for item in items]
            for batch in _all_batches(len(items)):
                found = encoded(trial.encoder, [items[i] for i in batch]).mask.sum(dim=1).tolist()
                for place, number in enumerate(batch):
                    if found[place] != lengths[number]:
                        raise Broken(
                            f"`length` returns {lengths[number]}, and the mask shows {found[place]} tokens, for the "
                            f"medium {_size(items[number])} {_among(items, batch, place)}.",
                            LENGTH,
                        )
        self._check_sizes(trial, fresh(tmp_path))

    def _check_sizes(self, trial: Trial, folder: Path) -> None:
        """Raise Broken where the length is wrong for a medium of the example in another size."""
        for media in trial.slots.values():
            checked, repeated = {_size_with_counts(trial.processor(media[0]))}, 0
            for item in resized(media[0], trial.processor, fresh(folder)):
                if (size := _size_with_counts(item)) in checked:
                    repeated += 1
                    if repeated == PATIENCE:
                        break
                    continue
                checked.add(size)
                repeated = 0
                expected = _length(trial.processor, item)
                count = int(encoded(trial.encoder, [item]).mask.sum())
                if count != expected:
                    raise Broken(
                        f"`length` returns {expected}, and the mask shows {count} tokens, for {media[0]} in another "
                        f"size, {_size(item)}.",
                        LENGTH,
                    )

    @rule(needs=("length",))
    def test_grid(self, tmp_path: Path) -> None:
        """Where `processor.grid(item)` gives sizes, the tokens fill that grid in order, after any class tokens."""
        trial = self.trial(tmp_path)
        if not isinstance(trial.processor, GridProcessor):
            raise NotApplicable("its processor has no `grid`: the tokens have no place.")
        grids = 0
        for items in _by_slot(trial):
            features = encoded(trial.encoder, items)
            for number, item in enumerate(items):
                sizes = trial.processor.grid(item)
                if sizes is not None:
                    grids += 1
                    _check_grid(features, number, sizes)
        if not grids:
            raise NotApplicable("no medium of the example has tokens that fill a grid.")

    @rule(needs=("length",))
    def test_mask(self, tmp_path: Path) -> None:
        """Tokens that are masked out change nothing downstream: they are finite, and the mask marks all others."""
        trial = self.trial(tmp_path)
        padded = False
        for items in _by_slot(trial):
            for batch in _all_batches(len(items)):
                chosen = [items[i] for i in batch]
                features = encoded(trial.encoder, chosen)
                padded |= not bool(features.mask.all())
                _check_masked(features, chosen)
        if not padded:
            raise NotApplicable("all media of the example have equally many tokens, so none is masked out.")

    @rule(needs=("shapes",))
    def test_batch(self, tmp_path: Path) -> None:
        """A medium gives the same tokens in a batch as alone, within 1e-5, with any other media and sizes in it."""
        trial = self.trial(tmp_path)
        for items in _by_slot(trial):
            alone = [real_tokens(encoded(trial.encoder, [item]), 0) for item in items]
            for batch in batches(len(items)):
                features = encoded(trial.encoder, [items[i] for i in batch])
                for place, number in enumerate(batch):
                    tokens = real_tokens(features, place)
                    where = difference("token", tokens, alone[number], max(NEAR, 2 * torch.finfo(tokens.dtype).eps))
                    if where and len(tokens) == len(alone[number]):  # else it is for the rule `length` to say
                        raise Broken(
                            f"{where}, for the medium {_size(items[number])} {_among(items, batch, place)}, against "
                            "alone.",
                            "Exclude the padding by the sizes in the item (attention masks, means over real tokens); "
                            "no medium may see another one.",
                        )

    @rule(needs=("shapes",))
    def test_inputs(self, tmp_path: Path) -> None:
        """`forward` does not change its items: other branches read them too."""
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
            if added := sorted(given.keys() - before.keys()):
                raise Broken(
                    f"after `forward`, the items have the new key `{added[0]}`.", "Keep it in a local variable."
                )

    @rule(needs=("inputs", "batch"))
    def test_stateless(self, tmp_path: Path) -> None:
        """The features depend on the items alone, also where new numbers are written into the same memory."""
        trial = self.trial(tmp_path)
        for items in _by_slot(trial):
            unused = copy.deepcopy(trial.encoder)
            given = stacked(items)
            with torch.no_grad():
                trial.encoder(given)
                if not _rewrite(given):
                    continue
                expected = unused({key: value.clone() for key, value in given.items()}).values
                where = difference("number", trial.encoder(given).values, expected)
            if where:
                raise Broken(
                    f"with other media at the memory address of earlier ones, {where}.",
                    "Keep no results between calls: neither `data_ptr()` nor `id()` identifies a medium.",
                )

    @rule(needs=("batch",))
    def test_training(self, tmp_path: Path) -> None:
        """In `train()` too, no medium depends on others, unless the example sets `batch_statistics`."""
        trial = self.trial(fresh(tmp_path))
        if example_of(self.plugin(), fresh(tmp_path)).batch_statistics:
            raise NotApplicable("its example sets `batch_statistics`: layers such as BatchNorm see the entire batch.")
        pairs = 0
        for items in _by_slot(trial):
            for number, item in enumerate(items):
                given = stacked([item, items[number - 1]])
                # the same shapes and the same seed: dropout drops the same numbers
                first = _trained_tokens(trial.encoder, given)
                if not _rewrite({key: value[1:] for key, value in given.items()}):
                    continue
                pairs += 1
                where = difference("token", _trained_tokens(trial.encoder, given), first, max(NEAR, _eps(first)))
                if where:
                    raise Broken(
                        f"in `train()`, {where}, for the medium {_size(item)} next to other numbers.",
                        "Normalise over each medium alone (LayerNorm, GroupNorm), or keep BatchNorm in `eval()`.",
                    )
        if not pairs:
            raise NotApplicable("its items contain no floating-point numbers.")


def _rewrite(items: Mapping[str, Tensor]) -> bool:
    """Write other numbers into the floating-point tensors, in place; False where there are none."""
    floating = [value for value in items.values() if value.is_floating_point() and value.numel()]
    for value in floating:
        value.copy_(value.flip(-1) * 0.5 + 0.25 * value)
    return bool(floating)


def _trained_tokens(encoder: Encoder, items: Mapping[str, Tensor]) -> Tensor:
    """[tokens, D] of the first medium, computed in `train()` by a copy of the encoder."""
    copied = copy.deepcopy(encoder).train()
    with seeded(SEED), torch.no_grad():
        return real_tokens(copied({key: value.clone() for key, value in items.items()}), 0)


def _eps(tokens: Tensor) -> float:
    return 2 * torch.finfo(tokens.dtype).eps


def _by_slot(trial: Trial) -> Iterator[list[Item]]:
    return (trial.items(slot) for slot in trial.slots)


def _all_batches(count: int) -> Iterator[tuple[int, ...]]:
    """As `batches`, after each medium alone."""
    yield from ((number,) for number in range(count))
    yield from batches(count)


def _size(item: Item) -> str:
    """An item by the shapes of its tensors."""
    return "{" + ", ".join(f"{key}: {list(value.shape)}" for key, value in item.items()) + "}"


def _size_with_counts(item: Item) -> str:
    """An item by the shapes of its tensors and the sizes that it contains."""
    counts = {key: value.tolist() for key, value in item.items() if not value.is_floating_point() and value.numel() < 9}
    return f"{_size(item)} {counts}"


def _among(items: Sequence[Item], batch: tuple[int, ...], place: int) -> str:
    """The place of a medium in its batch, as text."""
    if len(batch) == 1:
        return "alone"
    others = [_size(items[number]) for at, number in enumerate(batch) if at != place]
    return f"at place {place} of a batch with {' and '.join(others)}"


def _length(processor: Processor, item: Item) -> int:
    length: object = processor.length(item)
    if type(length) is not int or length < 0:
        raise Broken(
            f"`length` returns {length!r} for {_size(item)}.", "Return an int of at least 0: `int(item['tokens'])`."
        )
    return length


def _check_shapes(features: object, count: int, encoder: Encoder) -> None:
    """Raise Broken if this is not a result for that number of media."""
    if not isinstance(features, Features):
        raise Broken(f"it returns a {type(features).__name__}.", "Return `Features(values, mask, grid)`.")
    for problem in _shape_problems(features, count, encoder.width):
        raise Broken(f"for {count} media, {problem}.")


def _shape_problems(features: Features, count: int, width: int) -> Iterator[str]:
    values, mask, grid = features.values, features.mask, features.grid
    if values.ndim != 3 or len(values) != count or values.shape[2] != width:
        yield f"values have the shape {list(values.shape)}, [{count}, S, {width}] is expected (`width` is {width})"
    elif not values.is_floating_point():
        yield f"values are {values.dtype}, not floating point"
    elif mask.shape != values.shape[:2] or mask.dtype != torch.bool:
        yield f"the mask is {mask.dtype} {list(mask.shape)}, bool {list(values.shape[:2])} is expected"
    elif grid is not None and (grid.ndim != 3 or grid.shape[:2] != mask.shape or grid.is_floating_point()):
        yield f"the grid is {grid.dtype} {list(grid.shape)}, integer {[*mask.shape, 'k']} is expected"


def _check_grid(features: Features, number: int, sizes: tuple[int, ...]) -> None:
    """Raise Broken where the tokens of a medium do not fill the grid in order."""
    if features.grid is None:
        raise Broken(
            f"`processor.grid` returns {sizes}, and `forward` returns no grid.", "Return `Features(..., grid)`."
        )
    layout = Layout(int(features.mask[number].sum()), sizes)
    places = places_of(layout if layout.beside is not None else Layout(math.prod(sizes), sizes))
    found = features.grid[number, features.mask[number]].cpu().long()
    where = difference("place", found, places)
    if where and len(found) <= len(places):  # more tokens are for the rule `length` to tell of
        raise Broken(
            f"`processor.grid` returns {sizes}, and in the grid of `forward` {where}.",
            "Name places as `torch.cartesian_prod` of the ranges does, with -1 for class tokens, which come before the "
            "grid or before each of its frames; or give no grid.",
        )


def _check_masked(features: Features, items: Sequence[Item]) -> None:
    """Raise Broken where consumers of the tokens get something else when those masked out are zero."""
    # sums over other strides are added in another order, which is no fault
    features = features.with_values(features.values.contiguous())
    empty = features.with_values(features.values.masked_fill(~features.mask[..., None], 0.0))
    batch = batch_of(items, features.lengths().tolist())
    embeds = torch.zeros(*batch.input_ids.shape, features.values.shape[2])
    readers = {
        "spliced into the LLM's embeddings": lambda tokens: splice(embeds, {"slot": tokens}, batch),
        "averaged by the mask, as adapters do,": _averaged,
    }
    for how, read in readers.items():
        where = difference("number", read(features), read(empty))
        if where:
            raise Broken(
                f"{how} {where} when the tokens that are masked out are 0.",
                "Set them to 0 before returning: `values.masked_fill(~mask[..., None], 0)`.",
            )


def _averaged(features: Features) -> Tensor:
    """[M, D] the mean of real tokens, by multiplication: NaN times 0 is NaN."""
    weights = features.mask[..., None].to(features.values.dtype)
    return (features.values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
