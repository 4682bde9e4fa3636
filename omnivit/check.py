"""Preflight: everything that can be known about a run before a weight is read.

The model is built on the meta device: shapes and names are real, memory is not touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import nn

from omnivit.data.collate import EncodedSample
from omnivit.data.mixture import Mixture
from omnivit.data.module import StagePlan
from omnivit.data.prepare import Preparer
from omnivit.errors import DataError
from omnivit.evaluate.run import check_evaluation
from omnivit.model.build import ModelBlueprint, complete, preparer_of
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe, Stage
from omnivit.train.freeze import match
from omnivit.train.masters import state_bytes
from omnivit.train.run_precision import settled_here, warn_of_emulation
from omnivit.train.stages import check_stages, open_stages

LOOKED_AT = 16
"""Samples of every stage that are really prepared."""


@dataclass(frozen=True)
class StageSummary:
    """What a stage will do."""

    name: str
    rates: dict[str, float]
    """Parameter -> learning rate."""
    steps: int | None
    samples: int | None
    longest: int | None
    """Tokens of the longest sample looked at."""
    supervised: float | None
    """Share of their tokens that carry loss."""
    refused: list[str] = field(default_factory=list)
    """Reason of every bad one among the samples looked at, where the recipe skips such."""


@dataclass(frozen=True)
class Summary:
    """What `omnivit check` found."""

    model: OmniModel
    stages: list[StageSummary]
    rows: dict[str, int]
    """Slot -> LLM rows of the first medium looked at."""
    precision: str
    """What `trainer.precision` and `dtype: fastest` are on this machine, in words."""


def check(recipe: Recipe, with_data: bool = True) -> Summary:
    """Validate a recipe: plugins, options, patterns, trainer settings, data files, and the first samples of each stage.

    Raises:
        OmniVitError: the first thing that is wrong.
    """
    settled = settled_here(recipe)
    recipe = settled.recipe
    mixtures = open_stages(recipe) if with_data else {}
    model = build_on_meta(recipe)
    check_stages(recipe, model)
    warn_of_emulation(recipe, model)
    rows: dict[str, int] = {}
    stages = [_stage(recipe, stage, mixtures.get(stage.name), model, rows) for stage in recipe.stages]
    if with_data and recipe.evaluation is not None:
        check_evaluation(recipe.evaluation, recipe.data.root)
    return Summary(model, stages, rows, settled.line)


def build_on_meta(recipe: Recipe) -> OmniModel:
    """The model without memory: names, shapes, adapters installed and LoRA added."""
    plan = ModelBlueprint.of(recipe)
    with torch.device("meta"):
        model = plan.build()
        complete(model, recipe.seed)
    return model


def count(module: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def memory(model: OmniModel, stage: StageSummary, micro_batch: int) -> dict[str, float]:
    """Estimated bytes on a device: weights, gradients, AdamW's two moments (and masters), and activations.

    Activations follow Korthikanti et al., arXiv 2205.05198, eq. 2 without the attention matrix (fused kernels do not
    keep it): 34 bytes x tokens x width x layers at 16 bits, twice that at 32. An estimate: encoders are left out.
    """
    trained = [p for name, p in model.named_parameters() if name in stage.rates]
    bytes_of = [p.numel() * p.element_size() for p in trained]
    width, layers = model.llm.width, _layers(model.llm)
    wide = next(model.llm.parameters()).element_size() / 2
    return {
        "weights": float(sum(p.numel() * p.element_size() for p in model.parameters())),
        "gradients": float(sum(bytes_of)),
        "optimizer": float(sum(p.numel() * state_bytes(p) for p in trained)),
        "activations": 34.0 * wide * micro_batch * (stage.longest or 0) * width * layers,
    }


def _layers(llm: nn.Module) -> int:
    stacks = [len(m) for m in llm.modules() if isinstance(m, nn.ModuleList)]
    return max(stacks, default=1)


def _stage(
    recipe: Recipe, stage: Stage, mixture: Mixture | None, model: OmniModel, rows: dict[str, int]
) -> StageSummary:
    rates = match((name for name, _ in model.named_parameters()), stage.train, f"stages.{stage.name}.train")
    if mixture is None:
        return StageSummary(stage.name, rates, None, None, None, None)
    plan = StagePlan(mixture, stage, recipe.seed, 0.0)
    preparer = preparer_of(model, recipe, stage.template)
    samples, refused = _look_at(mixture, preparer, skip=recipe.data.on_bad_sample == "skip")
    for sample in samples:
        for span in sample.spans:
            rows.setdefault(span.slot, span.length)
    tokens = sum(len(s.ids) for s in samples)
    supervised = sum(int((s.labels >= 0).sum()) for s in samples) / tokens
    longest = max(len(s.ids) for s in samples)
    return StageSummary(stage.name, rates, plan.steps, len(mixture), longest, supervised, refused)


def _look_at(mixture: Mixture, preparer: Preparer, skip: bool) -> tuple[list[EncodedSample], list[str]]:
    """Some good samples, and why the bad ones among them are bad."""
    samples, refused = [], []
    for index in islice(range(0, len(mixture), max(1, len(mixture) // LOOKED_AT)), LOOKED_AT):
        try:
            samples.append(preparer(mixture[index]))
        except DataError as error:
            if not skip:
                raise
            refused.append(str(error))
    if not samples:
        raise DataError(f"all {len(refused)} samples that were looked at are bad. The last: {refused[-1]}")
    return samples, refused
