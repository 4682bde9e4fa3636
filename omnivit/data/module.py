"""A stage's data for Lightning: the samples of each batch of each step, and the loaders that prepare them.

Everything is a pure function of (seed, stage, epoch, step): resuming needs only the number of the next step.

Shapes: a step is one optimizer step; it has `accumulate` micro-batches on each of `world` ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset, Sampler, get_worker_info

from omnivit.contracts.batch import Batch
from omnivit.data import privacy
from omnivit.data.collate import EncodedSample, collate
from omnivit.data.loader import Loader
from omnivit.data.mixture import Mixture, split
from omnivit.data.plan import StagePlan
from omnivit.data.prepare import Preparer
from omnivit.data.transport import owned, packed
from omnivit.errors import DataError
from omnivit.recipe import LM, Data
from omnivit.seeds import derive_seed

Index = tuple[int, int]
"""(epoch, global index in the mixture)"""


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be used, and why."""

    reason: str


@dataclass(frozen=True)
class MicroBatch:
    """The input of one forward pass: a batch (None if all its samples are bad), and why its bad samples are bad."""

    batch: Batch | None
    refused: tuple[str, ...] = ()
    step: Mapping[str, int] = field(default_factory=dict)
    """In a stage that trains heads: head -> its targets in the entire step on this rank; `lm` -> supervised tokens."""
    loading: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Slot -> the number of its media, and the seconds that reading and preparing them took."""
    slowest: tuple[tuple[float, str, str], ...] = ()
    """The medium of each slot that took longest: seconds, slot, name of its sample."""
    sources: tuple[int, ...] = ()
    """The number of the data source of each sample in the batch."""

    def to(self, device: torch.device | str) -> MicroBatch:
        return replace(self, batch=self.batch.to(device) if self.batch else None)

    def pin_memory(self) -> MicroBatch:
        return replace(self, batch=self.batch.pin_memory() if self.batch else None)


class PreparedSamples(Dataset["EncodedSample | BadSample"]):
    """Prepares the sample at (epoch, index). A bad one is returned as `BadSample`, because exceptions change when they
    leave a loader worker."""

    def __init__(
        self, mixture: Mixture, preparer: Preparer, seed: int | None, private: bool = False, root: str = ""
    ) -> None:
        """Args: the samples; their preparer; the seed of augmentation; `data.privacy`; `data.root`."""
        self.mixture, self.preparer, self.seed, self.private, self.root = mixture, preparer, seed, private, root

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: Index) -> EncodedSample | BadSample:
        epoch, position = index
        seed = None if self.seed is None else derive_seed(self.seed, epoch)
        try:
            encoded = self.preparer(self.mixture[position], seed)
        except DataError as error:
            return BadSample(privacy.reason(error, self._place(position), self.private, self.root))
        name = self._place(position) if self.private else encoded.name
        return replace(encoded, name=name, source=self.mixture.source_of(position))

    def _place(self, position: int) -> str:
        """The sample's number, from 0, and that of its data source."""
        _, number = self.mixture.locate(position)
        return f"sample {number} of data[{self.mixture.source_of(position)}]"


@dataclass(frozen=True)
class Collator:
    """Samples of one micro-batch -> `MicroBatch`."""

    slots: tuple[str, ...]
    pad_id: int
    packs: bool = False
    """Whether the samples follow one another in one row."""

    def __call__(self, samples: Sequence[EncodedSample | BadSample]) -> MicroBatch:
        good = [sample for sample in samples if isinstance(sample, EncodedSample)]
        refused = tuple(sample.reason for sample in samples if isinstance(sample, BadSample))
        batch = collate(good, self.slots, self.pad_id, packs=self.packs) if good else None
        if batch is not None and get_worker_info() is not None:  # it has to cross a process
            batch = packed(batch)
        sources = tuple(sample.source for sample in good)
        return MicroBatch(batch, refused, loading=_loading(good), slowest=_slowest(good), sources=sources)


def _loading(samples: Sequence[EncodedSample]) -> dict[str, tuple[int, float]]:
    """Slot -> number of media, and the seconds that preparing them took."""
    loading: dict[str, tuple[int, float]] = {}
    for sample in samples:
        for span, seconds in zip(sample.spans, sample.seconds, strict=True):
            count, total = loading.get(span.slot, (0, 0.0))
            loading[span.slot] = count + 1, total + seconds
    return loading


def _slowest(samples: Sequence[EncodedSample]) -> tuple[tuple[float, str, str], ...]:
    """The medium of each slot that took longest: seconds, slot, name of its sample."""
    slowest: dict[str, tuple[float, str, str]] = {}
    for sample in samples:
        for span, seconds in zip(sample.spans, sample.seconds, strict=True):
            if seconds > slowest.get(span.slot, (-1.0,))[0]:
                slowest[span.slot] = seconds, span.slot, sample.name
    return tuple(slowest.values())


class CountedSteps:
    """Micro-batches with the counts of their step, so all micro-batches of a step are loaded before the first is used.

    A head's loss is a mean over its targets in the step, and the LM loss is a mean over supervised tokens. Their sum
    over micro-batches needs both counts.
    """

    def __init__(self, loader: Loader[EncodedSample | BadSample], accumulate: int) -> None:
        self.loader, self.accumulate = loader, accumulate

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[MicroBatch]:
        loaded: Iterator[MicroBatch] = iter(self.loader)
        # a step may have many micro-batches: in shared memory each would keep a file open until the step is over
        owning = (replace(micro, batch=owned(micro.batch) if micro.batch else None) for micro in loaded)
        while micros := list(islice(owning, self.accumulate)):
            step: Counter[str] = Counter()
            for micro in micros:
                step.update(losses_in(micro.batch))
            yield from (replace(micro, step=dict(step)) for micro in micros)


def losses_in(batch: Batch | None) -> dict[str, int]:
    """The number of terms of each loss of a batch: `lm`, and heads by their name."""
    if batch is None:
        return {}
    return {LM: len(batch.places.targets)} | {head: len(trigger.places) for head, trigger in batch.triggers.items()}


class MicroBatches(Sampler[list[Index]]):
    """The micro-batches of one rank, in order, starting at a given step."""

    def __init__(self, plan: StagePlan, start: int, rank: int, world: int) -> None:
        self.plan, self.start, self.rank, self.world = plan, start, rank, world

    def __iter__(self) -> Iterator[list[Index]]:
        parts = self.plan.stage.accumulate * self.world
        for epoch, indices in self.plan.step_batches(self.start):
            for micro in range(self.plan.stage.accumulate):
                part = split(indices, parts, micro * self.world + self.rank)
                yield [(epoch, int(index)) for index in part]

    def __len__(self) -> int:
        return (self.plan.steps - self.start) * self.plan.stage.accumulate


class StageData(LightningDataModule):
    """Loaders of one stage, starting at optimizer step `start`."""

    def __init__(self, plan: StagePlan, preparer: Preparer, data: Data, validation: Mixture | None, start: int) -> None:
        super().__init__()
        self.plan, self.preparer, self.data, self.validation, self.start = plan, preparer, data, validation, start
        self.collator = Collator(tuple(preparer.slots), preparer.chat.pad_id, plan.stage.batching.kind == "packed")

    def train_dataloader(self) -> Iterable[MicroBatch]:
        rank, world = self._place()
        samples = PreparedSamples(self.plan.mixture, self.preparer, self.plan.seed, self.data.privacy, self.data.root)
        loader = self._loader(samples, MicroBatches(self.plan, self.start, rank, world))
        if set(self.plan.stage.losses) <= {LM}:
            return loader
        return CountedSteps(loader, self.plan.stage.accumulate)

    def val_dataloader(self) -> list[Loader[EncodedSample | BadSample]]:
        if self.validation is None:
            return []
        rank, world = self._place()
        size = max(1, self.plan.stage.batch_size // (self.plan.stage.accumulate * world))
        every = [list(range(i, min(i + size, len(self.validation)))) for i in range(0, len(self.validation), size)]
        # all ranks need the same number of batches, or collective operations would hang
        every += [[]] * (-len(every) % world)
        mine = [[(0, index) for index in indices] for indices in every[rank::world]]
        samples = PreparedSamples(self.validation, self.preparer, None, self.data.privacy, self.data.root)
        return [self._loader(samples, mine)]

    def _loader(
        self, samples: PreparedSamples, sampler: Sampler[list[Index]] | list[list[Index]]
    ) -> Loader[EncodedSample | BadSample]:
        return Loader(
            samples,
            batch_sampler=sampler,
            collate_fn=self.collator,
            num_workers=self.data.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else every new iterator would draw from the global one
            persistent_workers=False,
        )

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
