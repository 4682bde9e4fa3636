"""Which samples come in which micro-batch, on which rank; and the loaders that prepare them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lightning.pytorch import Trainer
from prepare_support import NO_SEED, small_preparer
from tests_support import picture_record, text_record, write_jsonl

from omnivit.data import order_v1
from omnivit.data.mixture import Mixture
from omnivit.data.module import BadSample, Collator, Index, MicroBatch, MicroBatches, PreparedSamples, StageData
from omnivit.data.plan import StagePlan
from omnivit.data.sources import open_mixture, open_source
from omnivit.errors import DataError, PluginError, RecipeError
from omnivit.recipe import Data, DataSource, Stage
from omnivit.seeds import derive_seed

COUNT = 22
BROKEN = (3, 10)


@pytest.fixture
def mixture(tmp_path: Path) -> Mixture:
    """22 samples: every third one is text, two have a broken picture."""
    names = {i: "broken.png" if i in BROKEN else "a.png" for i in range(COUNT)}
    records = [
        picture_record(f"p{i}", names[i], "red") if i % 3 or i in BROKEN else text_record(f"t{i}", "x" * i, "it")
        for i in range(COUNT)
    ]
    write_jsonl(tmp_path / "data.jsonl", records)
    return open_mixture([DataSource("data.jsonl")], tmp_path)


def stage(**changes: Any) -> Stage:
    settings: dict[str, Any] = {"name": "s", "data": [], "train": {}, "epochs": 3, "batch_size": 8}
    return Stage(**(settings | changes))


def plan(mixture: Mixture, seed: int = 5, **changes: Any) -> StagePlan:
    return StagePlan(mixture, stage(**changes), seed, medium_tokens=3.0)


def shown(micro_batches: Iterable[list[Index]]) -> list[Index]:
    return [index for batch in micro_batches for index in batch]


def test_steps_follow_from_epochs_or_are_given(mixture: Mixture) -> None:
    assert plan(mixture).steps_per_epoch == 3
    assert (plan(mixture).steps, plan(mixture).samples) == (9, 66)
    assert (plan(mixture, steps=4).steps, plan(mixture, steps=4).samples) == (4, 22 + 8)
    assert (plan(mixture, batch_size=100).steps, plan(mixture, batch_size=100).samples) == (3, 66)
    assert len(list(plan(mixture, steps=4).step_batches(0))) == 4


@pytest.mark.parametrize("changes", [{}, {"steps": 4}, {"steps": 7}, {"group_by_length": False}])
def test_the_number_of_samples_is_what_is_shown(mixture: Mixture, changes: dict[str, Any]) -> None:
    one = plan(mixture, **changes)
    assert one.samples == len(shown(MicroBatches(one, 0, 0, 1)))


@pytest.mark.parametrize("group", [True, False])
def test_every_epoch_shows_every_sample_once_the_short_batch_last(mixture: Mixture, group: bool) -> None:
    steps = list(plan(mixture, group_by_length=group).step_batches(0))
    assert [(epoch, len(indices)) for epoch, indices in steps] == [(e, n) for e in range(3) for n in (8, 8, 6)]
    orders = [[int(i) for e, indices in steps if e == epoch for i in indices] for epoch in range(3)]
    assert all(sorted(order) == list(range(COUNT)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("steps", [None, 7, 20])
def test_a_start_in_the_middle_gives_exactly_the_rest(mixture: Mixture, accumulate: int, steps: int | None) -> None:
    one = plan(mixture, accumulate=accumulate, steps=steps)
    whole = list(MicroBatches(one, 0, 0, 1))
    assert len(whole) == one.steps * accumulate == len(MicroBatches(one, 0, 0, 1))
    for start in range(one.steps + 1):
        rest = MicroBatches(one, start, 0, 1)
        assert list(rest) == whole[start * accumulate :] and len(rest) == len(whole) - start * accumulate


@pytest.mark.parametrize(("accumulate", "world"), [(1, 2), (2, 1), (2, 2), (4, 2)])
def test_ranks_and_accumulation_share_out_each_step(mixture: Mixture, accumulate: int, world: int) -> None:
    one = plan(mixture, accumulate=accumulate)
    ranks = [list(MicroBatches(one, 0, rank, world)) for rank in range(world)]
    assert all(len(rank) == one.steps * accumulate for rank in ranks)  # else a rank would wait for ever
    for step, (epoch, indices) in enumerate(one.step_batches(0)):
        parts = [rank[step * accumulate + micro] for rank in ranks for micro in range(accumulate)]
        assert Counter(shown(parts)) == Counter((epoch, int(index)) for index in indices)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_plan_depends_on_the_seed(mixture: Mixture) -> None:
    first, again, other = (list(MicroBatches(plan(mixture, seed=s), 0, 0, 1)) for s in (5, 5, 6))
    assert first == again != other


def test_a_plan_of_the_first_order_has_the_batches_of_old_runs(mixture: Mixture) -> None:
    old, new = (StagePlan(mixture, stage(), 5, 3.0, version) for version in (1, 2))
    text, media = mixture.lengths()
    order = order_v1.epoch_order([COUNT], [1.0], 5, 1)
    expected = order_v1.batches(order, text / 4 + media * 3.0, 8, 5, 1, True)
    assert [batch.tolist() for _, batch in old.step_batches(3)][:3] == [batch.tolist() for batch in expected]
    assert [batch.tolist() for _, batch in new.step_batches(3)][:3] != [batch.tolist() for batch in expected]
    with pytest.raises(ValueError, match="order 3 is unknown"):
        next(StagePlan(mixture, stage(), 5, 3.0, 3).step_batches(0))


def test_a_bad_sample_comes_back_as_its_reason(mixture: Mixture) -> None:
    samples = PreparedSamples(mixture, small_preparer(), seed=None)
    found = [samples[0, index] for index in range(COUNT)]
    assert [i for i, sample in enumerate(found) if isinstance(sample, BadSample)] == list(BROKEN)
    assert isinstance(found[3], BadSample) and "sample 'p3'" in found[3].reason and "data.jsonl:4" in found[3].reason


def test_augmentation_depends_on_the_epoch_and_is_off_without_a_seed(mixture: Mixture) -> None:
    def seed(samples: PreparedSamples, epoch: int) -> int:
        sample = samples[epoch, 1]
        assert not isinstance(sample, BadSample)
        return int(sample.items[0]["seed"])

    training, validation = (PreparedSamples(mixture, small_preparer(), s) for s in (7, None))
    assert [seed(training, e) for e in (0, 1)] == [derive_seed(derive_seed(7, e), "p1", 0) % 2**62 for e in (0, 1)]
    assert [seed(validation, e) for e in (0, 1)] == [NO_SEED, NO_SEED]


def test_a_micro_batch_may_hold_nothing_but_refusals(mixture: Mixture) -> None:
    samples = PreparedSamples(mixture, small_preparer(), None)
    collator = Collator(("image", "audio"), 256)
    assert collator([]) == MicroBatch(None)
    refused = collator([samples[0, i] for i in BROKEN])
    assert refused.batch is None and len(refused.refused) == 2
    mixed = collator([samples[0, i] for i in (1, 3, 4)]).to("cpu")
    assert mixed.batch is not None and [n.split()[1] for n in mixed.batch.names] == ["'p1'", "'p4'"]
    assert len(mixed.refused) == 1 and "p3" in mixed.refused[0]


def loaded(micro_batches: Iterable[MicroBatch]) -> tuple[Counter[str], list[str]]:
    """How often each sample was shown, and the reasons of the others."""
    names: Counter[str] = Counter()
    reasons: list[str] = []
    for micro in micro_batches:
        names.update(micro.batch.names if micro.batch is not None else ())
        reasons += micro.refused
    return names, reasons


@pytest.mark.parametrize("workers", [0, 1])
def test_the_training_loader_shows_the_rest_of_the_stage(mixture: Mixture, workers: int) -> None:
    data = StageData(plan(mixture, epochs=2), small_preparer(), Data(workers=workers), None, start=3)
    names, reasons = loaded(data.train_dataloader())
    assert len(names) == COUNT - 2 and set(names.values()) == {1}
    assert sorted(reason.split("'")[1] for reason in reasons) == ["p10", "p3"]
    assert all("broken.png: is broken" in reason for reason in reasons)
    assert data.val_dataloader() == []


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_validation_loaders_cover_every_sample_once(mixture: Mixture, world: int) -> None:
    ranks = []
    for rank in range(world):
        data = StageData(plan(mixture), small_preparer(), Data(workers=0), mixture, 0)
        data.trainer = cast(Trainer, SimpleNamespace(global_rank=rank, world_size=world))
        [loader] = data.val_dataloader()
        ranks.append(list(loader))
    assert len({len(rank) for rank in ranks}) == 1  # ranks that differ would wait for each other for ever
    names, reasons = loaded(micro for rank in ranks for micro in rank)
    assert len(names) == COUNT - 2 and set(names.values()) == {1} and len(reasons) == 2


def test_a_limit_and_a_weight(mixture: Mixture, tmp_path: Path) -> None:
    del mixture  # wrote the file
    limited = open_mixture([DataSource("data.jsonl", limit=5), DataSource("data.jsonl", limit=4, weight=2.0)], tmp_path)
    assert limited.sizes == (5, 4) and plan(limited, epochs=1).samples == 5 + 8


def test_ratios_hold_whatever_the_sizes_of_the_files(mixture: Mixture, tmp_path: Path) -> None:
    del mixture
    sources = [DataSource("data.jsonl", limit=COUNT, ratio=1), DataSource("data.jsonl", limit=4, ratio=3)]
    mixed = open_mixture(sources, tmp_path)
    assert [weight * size for weight, size in zip(mixed.weights, mixed.sizes, strict=True)] == pytest.approx(
        [(COUNT + 4) / 4, 3 * (COUNT + 4) / 4]
    )
    assert plan(mixed, epochs=1).samples == COUNT + 4  # an epoch has as many samples as the files
    with pytest.raises(RecipeError, match=r"data\[1\].*: `ratio` is missing"):
        open_mixture([DataSource("data.jsonl", ratio=1), DataSource("data.jsonl")], tmp_path)
    with pytest.raises(RecipeError, match=r"data\[0\]\.weight.*: a file has a `weight` or a `ratio`"):
        open_mixture([DataSource("data.jsonl", ratio=1, weight=2.0)], tmp_path)


def test_sources_outside_the_root_are_refused(mixture: Mixture, tmp_path: Path) -> None:
    del mixture
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.jsonl").symlink_to(tmp_path / "data.jsonl")
    (root / "good.jsonl").write_bytes((tmp_path / "data.jsonl").read_bytes())
    for path in ("../data.jsonl", str(tmp_path / "data.jsonl"), "link.jsonl"):
        with pytest.raises(DataError, match=r"path .*data\.jsonl of a data source is outside `data.root` .*root"):
            open_source(DataSource(path), root)
    with pytest.raises(DataError, match=r"media_root .* of a data source is outside"):
        open_source(DataSource("good.jsonl", media_root=".."), root)
    assert len(open_source(DataSource("good.jsonl"), root)) == COUNT


def test_sources_that_cannot_be_opened(mixture: Mixture, tmp_path: Path) -> None:
    del mixture
    with pytest.raises(DataError, match=r"data\.json"):
        open_source(DataSource("dta.jsonl"), tmp_path)
    with pytest.raises(PluginError, match="did you mean 'messages'"):
        open_source(DataSource("data.jsonl", reader="mesages"), tmp_path)
