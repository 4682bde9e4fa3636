"""The contenders of `train.py`: each trains one stage in a process of its own, watched by the same meter.

All get their samples from the same preparation (`omnivit.data.prepare`: the same tokens, labels and pixels, read by
the same number of loader workers), begin with the same weights, and use AdamW with the same settings.

Shapes: B samples, T tokens (padded), N supervised tokens, V vocabulary.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _workload import CHECKPOINT, IMPORTED, PREPARED, RECORDS
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, Subset

from omnivit.data.collate import EncodedSample, collate
from omnivit.data.module import PreparedSamples
from omnivit.data.order import Epoch
from omnivit.data.sources import open_mixture
from omnivit.model.omni import ModelOutput, OmniModel
from omnivit.recipe import DataSource, load
from omnivit.recipe.yaml_tree import dump
from omnivit.run.train import loss_curves, peak_memory_mb
from omnivit.train import checkpoint
from omnivit.train.stages import Run, run_stage

RATES = {1: 1e-3, 2: 2e-4}
"""Stage -> learning rate, falling linearly to 0, without warmup: the Trainer's default schedule."""
CLIP = 1.0
"""Largest gradient norm: the Trainer's default."""


@dataclass(frozen=True)
class Job:
    """What one process does."""

    contender: str
    stage: int
    """1: the projector trains; 2: the projector and the LLM."""
    precision: str
    """`float32`, or `bfloat16` by autocast."""
    folder: str
    """Where the workload lies."""
    run: str
    """A new folder for what the contender writes."""
    steps: int
    warmup: int
    """First steps that are not timed."""
    batch: int
    workers: int
    seed: int
    check: bool
    """Same batches in the same order for all, to compare losses."""


@dataclass(frozen=True)
class Result:
    """What one process found."""

    tokens: int
    """Real tokens of all steps: no padding, rows of pictures included."""
    tokens_per_second: float
    """Of the steps after the warm-up."""
    seconds_per_step: float
    padding: float
    """Share of the positions that were padding."""
    peak_mb: float
    losses: list[float]
    """Of every step; only where the job is a check."""


@dataclass
class Meter:
    """Watches forward passes and optimizer steps of any contender in this process."""

    job: Job
    stamps: list[float] = field(default_factory=list)
    """When each optimizer step ended."""
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._hook = register_optimizer_step_post_hook(lambda *_: self.stamps.append(time.perf_counter()))

    def saw(self, mask: Tensor) -> None:
        """Count a batch by its mask [B, T]."""
        self.tokens.append(int(mask.sum()))
        self.positions.append(mask.numel())

    def result(self, losses: list[float]) -> Result:
        """Stop watching. Raises RuntimeError where a contender did not take the steps that were asked for."""
        self._hook.remove()
        first, steps = self.job.warmup, self.job.steps
        if not len(self.stamps) == len(self.tokens) == steps:
            raise RuntimeError(
                f"{self.job.contender} took {len(self.stamps)} steps and saw {len(self.tokens)} batches, not {steps}"
            )
        seconds, total = self.stamps[-1] - self.stamps[first - 1], sum(self.tokens)
        return Result(
            tokens=total,
            tokens_per_second=sum(self.tokens[first:]) / seconds,
            seconds_per_step=seconds / (steps - first),
            padding=1 - total / sum(self.positions),
            peak_mb=peak_memory_mb(),
            losses=losses,
        )


def contend(job: Job) -> Result:
    """Run a job in this process."""
    return CONTENDERS[job.contender](job, Meter(job))


def omnivit(job: Job, meter: Meter, group: bool = True, all_logits: bool = False) -> Result:
    """The stage runner as `omnivit train` uses it: its loggers, its progress lines, its checkpoint at the end."""
    from omnivit.console import quieten_lightning
    from omnivit.model.build import load_model, preparer_of

    quieten_lightning()
    recipe = load(_write_recipe(job, group and not job.check))
    model = load_model(recipe)
    standing = checkpoint.latest(Path(job.folder, IMPORTED, "checkpoints"))
    assert standing is not None
    checkpoint.load_weights(model, standing.weights(), standing.path)
    model.register_forward_pre_hook(lambda _, inputs: meter.saw(inputs[0].mask))
    if all_logits:
        _keep_all_logits(model)
    stage = recipe.stages[0]
    mixtures = {stage.name: open_mixture(stage.data, recipe.data.root)}
    run = Run(recipe, Path(job.run), model, preparer_of(model, recipe), mixtures)
    run_stage(run, 0, stage, None)
    curve = loss_curves(run.path, [stage.name])[stage.name]
    return meter.result([loss for _, loss in curve] if job.check else [])


def trainer(job: Job, meter: Meter) -> Result:
    """`LlavaForConditionalGeneration` under transformers' Trainer, its defaults."""
    from transformers import Trainer, TrainingArguments

    model = _llava(job, meter)
    losses: list[float] = []
    if job.check:
        model.register_forward_hook(lambda _, __, output: losses.append(float(output.loss.detach())))
    arguments = TrainingArguments(
        output_dir=job.run,
        per_device_train_batch_size=job.batch,
        max_steps=job.steps,
        learning_rate=RATES[job.stage],
        max_grad_norm=CLIP,
        bf16=job.precision == "bfloat16",
        dataloader_num_workers=job.workers,
        train_sampling_strategy="sequential" if job.check else "random",
        seed=job.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    Trainer(model, arguments, data_collator=_collator(job), train_dataset=_samples(job)).train()
    return meter.result(losses)


def loop(job: Job, meter: Meter) -> Result:
    """`LlavaForConditionalGeneration` in the shortest loop of plain PyTorch."""
    model = _llava(job, meter).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATES[job.stage], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / job.steps)
    torch.manual_seed(job.seed)
    loader: DataLoader[Any] = DataLoader(
        _samples(job), job.batch, shuffle=not job.check, num_workers=job.workers, collate_fn=_collator(job)
    )
    losses: list[float] = []
    low = job.precision == "bfloat16"
    for _, batch in zip(range(job.steps), loader, strict=False):
        with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return meter.result(losses if job.check else [])


CONTENDERS: dict[str, Callable[[Job, Meter], Result]] = {
    "omnivit": omnivit,
    "trainer": trainer,
    "loop": loop,
    "omnivit, no grouping": lambda job, meter: omnivit(job, meter, group=False),
    "omnivit, all logits": lambda job, meter: omnivit(job, meter, all_logits=True),
    "omnivit, neither": lambda job, meter: omnivit(job, meter, group=False, all_logits=True),
}
"""The first three compete; the others show what a part of ours contributes."""


def _write_recipe(job: Job, group: bool) -> Path:
    """The recipe of one stage over the imported checkpoint."""
    rate = RATES[job.stage]
    stage = {
        "name": f"stage{job.stage}",
        "data": [{"path": RECORDS, "reader": "llava"}],
        "train": {"adapters.*": rate} | ({"llm.*": rate} if job.stage == 2 else {}),
        "steps": job.steps,
        "batch_size": job.batch,
        "schedule": {"name": "linear", "warmup": 0.0},
        "group_by_length": group,
    }
    precision = {"float32": "32-true", "bfloat16": "bf16-mixed"}[job.precision]
    content = {
        "extends": str(Path(job.folder, IMPORTED, "recipe.yaml")),
        "stages": [stage],
        "data": {"root": job.folder, "workers": job.workers},
        "trainer": {"accelerator": "cpu", "precision": precision, "gradient_clip_val": CLIP},
        "seed": job.seed,
    }
    path = Path(job.run, "benchmark.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(dump(content), encoding="utf-8")
    return path


def _keep_all_logits(model: OmniModel) -> None:
    """Make the head and the softmax see every position, padding too, as transformers' models do."""

    def widen(_: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return inputs, options | {"keep": torch.ones_like(inputs[0].mask)}

    def narrow(_: Any, inputs: tuple[Any, ...], __: dict[str, Any], output: ModelOutput) -> ModelOutput:
        scores = torch.log_softmax(output.logits.float(), dim=-1)  # the loss of these equals that of the logits
        return output._replace(logits=scores[inputs[0].targets().flatten()])

    model.register_forward_pre_hook(widen, with_kwargs=True)
    model.register_forward_hook(narrow, with_kwargs=True)


def _llava(job: Job, meter: Meter) -> Any:
    """The checkpoint with what the stage does not train frozen."""
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(Path(job.folder, CHECKPOINT))
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    if job.stage == 2:
        model.model.language_model.requires_grad_(True)
        model.lm_head.requires_grad_(True)
    model.register_forward_pre_hook(lambda _, __, options: meter.saw(options["attention_mask"]), with_kwargs=True)
    return model


def _samples(job: Job) -> Any:
    mixture = open_mixture([DataSource(RECORDS, "llava")], job.folder)
    preparer = pickle.loads(Path(job.folder, PREPARED).read_bytes())  # written by this benchmark
    epoch = Epoch(mixture.sizes, mixture.weights, job.seed, 0)
    indices = [(0, int(index)) for index in epoch[np.arange(len(epoch))]]
    return Subset(PreparedSamples(mixture, preparer, job.seed), indices)  # type: ignore[arg-type]


def _collator(job: Job) -> Callable[[Sequence[EncodedSample]], dict[str, Tensor]]:
    preparer = pickle.loads(Path(job.folder, PREPARED).read_bytes())
    return Padded(preparer.chat.pad_id)


@dataclass(frozen=True)
class Padded:
    """Pads to the longest sample of the batch and names tensors as transformers' models do."""

    pad_id: int

    def __call__(self, samples: Sequence[EncodedSample]) -> dict[str, Tensor]:
        batch = collate(samples, ("image",), self.pad_id)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long(), "labels": batch.labels}
        return inputs | ({"pixel_values": batch.media["image"].items["pixels"]} if batch.media else {})
