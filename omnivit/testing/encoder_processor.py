"""The contract of encoders: rules for the processor, which works in loader workers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnivit.contracts.encoder import DescribingProcessor, PrefacingProcessor, Processor
from omnivit.contracts.sample import Media
from omnivit.seeds import seed_all
from omnivit.testing.plugin import ConfiguredContract, fresh
from omnivit.testing.rules import Broken, NotApplicable, rule
from omnivit.testing.trial import Item, Trial, built, item_difference
from omnivit.testing.variants import variants
from omnivit.testing.worker import LARGEST, Unpicklable, pickled, work

RESERVED = "instruction."
"""What keys of an item must not begin with: the collator puts the adapter's instruction there."""


class ProcessorRules(ConfiguredContract):
    """Rules for `Encoder.processor()`."""

    def trial(self, folder: Path) -> Trial:
        """The plugin's example, built."""
        return Trial.of(self.plugin(), folder)

    def prepare(self, folder: Path) -> None:
        """Build the encoder and its processor."""
        self.trial(fresh(folder))

    @rule
    def test_items(self, tmp_path: Path) -> None:
        """A processor returns named, finite CPU tensors, with equal names, dtypes and ranks for all media of a slot."""
        trial = self.trial(tmp_path)
        for media in trial.slots.values():
            first: Item | None = None
            for one in media:
                item = trial.processor(one)
                check_item(item, str(one))
                if first is not None:
                    _check_alike(item, first, f"{one} and {media[0]}")
                first = first or item

    @rule(needs=("items",))
    def test_determinism(self, tmp_path: Path) -> None:
        """A medium without a seed becomes the same tensors whenever it is prepared: nothing is random."""
        trial = self.trial(tmp_path)
        _check_repeats(trial.processor, [replace(one, seed=None) for one in trial.media], "without a seed")

    @rule(needs=("determinism",))
    def test_seed(self, tmp_path: Path) -> None:
        """A medium with the same `seed` becomes the same tensors: augmentation draws from that seed alone."""
        trial = self.trial(tmp_path)
        media = [replace(medium, seed=7) for medium in trial.media]
        _check_repeats(trial.processor, media, "with seed 7 both times")
        for medium in (*media, *trial.media):
            before = _generators()
            trial.processor(medium)
            if changed := [name for name, state in _generators().items() if state != before[name]]:
                raise Broken(
                    f"{medium}: preparing it draws from, or seeds, {changed[0]}.",
                    "Create a local generator: `numpy.random.default_rng(media.seed)`.",
                )

    @rule(needs=("items",))
    def test_preface(self, tmp_path: Path) -> None:
        """What a processor writes before a medium is text, and always the same."""
        trial = self.trial(tmp_path)
        if not isinstance(trial.processor, PrefacingProcessor):
            raise NotApplicable("its processor has no `preface`: the LLM reads nothing before a medium.")
        for media in trial.media:
            preface: object = trial.processor.preface(media)
            if not isinstance(preface, str):
                raise Broken(
                    f"before {media} it returns {_short(repr(preface))}, a {type(preface).__name__}.", "Return a str."
                )
            if (again := trial.processor.preface(media)) != preface:
                raise Broken(
                    f"before {media} it returns {_short(preface)}, then {_short(again)}.",
                    "Return what the file contains.",
                )

    @rule(needs=("items",))
    def test_description(self, tmp_path: Path) -> None:
        """What a processor writes after a medium is text, and depends on the prepared medium alone."""
        trial = self.trial(tmp_path)
        if not isinstance(trial.processor, DescribingProcessor):
            raise NotApplicable("its processor has no `description`: the LLM reads nothing after a medium.")
        for media in trial.media:
            item = trial.processor(media)
            first, second = (trial.processor.description(item) for _ in range(2))
            if not isinstance(first, str):
                raise Broken(f"after {media} it returns a {type(first).__name__}.", "Return a str.")
            if first != second:
                does = f"after {media} it returns {_short(first)}, then {_short(second)}."
                raise Broken(does, "Use the item and nothing else.")

    @rule
    def test_pickle(self, tmp_path: Path) -> None:
        """A processor pickles to less than 1 MiB, since every loader worker is sent one."""
        try:
            size = len(pickled(self.trial(tmp_path).processor)[0])
        except Unpicklable as error:
            raise Broken(
                str(error), "Make it a dataclass of plain settings at the top of its module: no lambdas, no open files."
            ) from error
        if size > LARGEST:
            raise Broken(f"{size:,} bytes.", "Keep only settings in it: tables and models belong to the encoder.")

    @rule(needs=("pickle",))
    def test_weightless(self, tmp_path: Path) -> None:
        """A processor contains no weights: they would be copied into every loader worker and trained in none."""
        weights = pickled(self.trial(tmp_path).processor)[1]
        if weights:
            numbers = sum(found.numel() for found in weights)
            raise Broken(
                f"its pickle contains {len(weights)} parameters ({numbers:,} numbers), first {list(weights[0].shape)}.",
                "Use weights in `forward`; give the processor only settings.",
            )

    @rule(needs=("pickle", "determinism"))
    def test_worker(self, tmp_path: Path) -> None:
        """A loader worker that is started with spawn prepares the same tensors, and creates no weights."""
        trial = self.trial(tmp_path)
        own = steady_items(trial.processor, trial.media)
        sent, weights = pickled(trial.processor)
        report = work(sent, trial.media)
        for media, here, there in zip(trial.media, own, report.items, strict=True):
            where = item_difference(there, here)
            if where:
                raise Broken(f"{media}: {where}, in the worker.", "Make the tensors depend on pickled settings only.")
        made = report.weights - len(weights)
        if made > 0:
            raise Broken(f"{made} parameters were created in the worker.", "Use weights in `forward`.")

    @rule(needs=("pickle",))
    def test_fingerprint(self, tmp_path: Path) -> None:
        """The fingerprint is a string that is the same for the same settings, in every process."""
        trial = self.trial(tmp_path)
        fingerprint: object = trial.processor.fingerprint()
        if not isinstance(fingerprint, str) or not fingerprint:
            raise Broken(f"it is {fingerprint!r}.", "Return a short string, such as `repr` of a dataclass of settings.")
        again = built(trial.cls, trial.config).processor().fingerprint()
        there = work(pickled(trial.processor)[0], ()).fingerprint
        for where, other in (("of an encoder built again", again), ("in another process", there)):
            if other != fingerprint:
                raise Broken(
                    f"it is {_short(fingerprint)} here and {_short(other)} {where}.",
                    "Build it from settings alone: no addresses, no times, no `hash()`.",
                )

    @rule(needs=("fingerprint", "seed"))
    def test_fingerprint_changes(self, tmp_path: Path) -> None:
        """The fingerprint changes if the same medium would give other tensors: caches and exact resume need it."""
        trial = self.trial(tmp_path)
        media = [medium[0] for medium in trial.slots.values()]
        seen = [replace(medium, seed=seed) for medium in media for seed in (None, 7)]
        items = steady_items(trial.processor, seen)
        own = trial.processor.fingerprint()
        for change, processor in variants(trial.cls, trial.config):
            if processor.fingerprint() == own:
                for medium, item in zip(seen, items, strict=True):
                    where = item_difference(processor(medium), item)
                    if where:
                        raise Broken(
                            f"with {change}, {medium} gives other tensors ({where}) and the same fingerprint.",
                            "Put every setting into it that the tensors depend on.",
                        )


def check_item(item: object, name: str) -> None:
    """Raise Broken if this is not an item."""
    if not isinstance(item, dict) or not item:
        raise Broken(f"{name} becomes {type(item).__name__} {_short(str(item))}.", "Return a dict of tensors.")
    for key, value in item.items():
        problem = _problem(key, value)
        if problem:
            raise Broken(f"{name}: `{key}` {problem}.")


def _problem(key: object, value: object) -> str:
    if not isinstance(key, str):
        return f"is a {type(key).__name__}; keys are texts"
    if key.startswith(RESERVED):
        return f"begins with `{RESERVED}`, which is the collator's"
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}; a tensor is expected; write a number as a tensor without dimensions"
    if value.device.type != "cpu":
        return f"lies on {value.device}; the trainer moves it"
    if value.requires_grad:
        return "has a graph; detach it"
    wrong = ~value.isfinite() if value.is_floating_point() else value.new_zeros(0, dtype=torch.bool)
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        return f"holds {value[place].item()} at {list(place)}; raise MediaError for such a medium"
    return ""


def _check_alike(item: Item, first: Item, names: str) -> None:
    """Raise Broken where the collator could not stack two items."""
    if item.keys() != first.keys():
        raise Broken(f"{names} have the keys {sorted(item)} and {sorted(first)}.", "Return the same keys for all.")
    for key, value in item.items():
        one, other = (value.dtype, value.ndim), (first[key].dtype, first[key].ndim)
        if one != other:
            raise Broken(
                f"{names}: `{key}` is {one[0]} with {one[1]} dimensions and {other[0]} with {other[1]}.",
                "Return one dtype and one number of dimensions; only sizes may vary.",
            )


def _check_repeats(processor: Processor, media: list[Media], how: str) -> None:
    """Raise Broken if media become different tensors in another order or after other random draws."""
    with _shaken(1):
        first = [processor(medium) for medium in media]
    with _shaken(2):
        again = [processor(medium) for medium in reversed(media)][::-1]
    for medium, before, after in zip(media, first, again, strict=True):
        where = item_difference(after, before)
        if where:
            raise Broken(
                f"{medium}, prepared twice {how}: {where}.",
                "Draw from `numpy.random.default_rng(media.seed)`, and only where there is a seed; keep no state.",
            )


def steady_items(processor: Processor, media: Sequence[Media]) -> list[Item]:
    """What media become. If that changes, which the rules `determinism` and `seed` report, nothing can be compared."""
    items: list[Item] = [processor(one) for one in media]
    for one, item in zip(media, items, strict=True):
        if item_difference(processor(one), item):
            raise NotApplicable(f"{one} becomes other tensors each time: see the rules `determinism` and `seed`.")
    return items


def _generators() -> dict[str, object]:
    """Name -> state of every global generator."""
    numpys: tuple[Any, ...] = np.random.get_state()  # type: ignore[assignment]
    return {
        "the global generator of torch": torch.get_rng_state().tolist(),
        "the global generator of numpy": (numpys[1].tolist(), *numpys[2:]),
        "the global generator of Python's `random`": random.getstate(),
    }


@contextmanager
def _shaken(seed: int) -> Iterator[None]:
    """Inside, every global generator has another state; afterwards, its earlier one."""
    plain, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed_all(seed)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(numpys)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
