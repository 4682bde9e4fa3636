"""Preflight: everything that can be known about a run before a weight is read.

The model is built on the meta device: shapes and names are real, memory is not touched.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_

import torch
from torch import Tensor, nn

from omnivit.contracts.sample import Media
from omnivit.data.mixture import Mixture
from omnivit.data.plan import StagePlan
from omnivit.data.sources import open_mixture, open_stages, skips_allowed
from omnivit.data.wording import Wordings
from omnivit.errors import DataError
from omnivit.evaluate.run import check_evaluation
from omnivit.model.blueprint import ModelBlueprint
from omnivit.model.build import complete, preparer_of
from omnivit.model.omni import OmniModel
from omnivit.recipe import Recipe, Stage
from omnivit.run.check_samples import Checked, check_samples, complaint
from omnivit.run.overlap import Content, Overlap, overlap_of
from omnivit.run.precision import settled_here
from omnivit.run.start_sources import open_sources
from omnivit.seeds import derive_seed
from omnivit.train.check import check_stages, warn_of_emulation, warn_of_open_end
from omnivit.train.freeze import match
from omnivit.train.masters import state_bytes
from omnivit.train.optimizer_kinds import kind_of


@dataclass(frozen=True)
class StageSummary:
    """What a stage will do."""

    name: str
    rates: dict[str, float]
    """Parameter -> learning rate."""
    steps: int | None
    samples: int | None
    longest: int | None
    """Tokens of the longest record; media that were not opened are taken for as short as the shortest that was."""
    supervised: float | None
    """Share of their tokens that carry loss."""
    refused: list[str] = field(default_factory=list)
    """Reason of every bad record, where the recipe skips such."""
    opened: int = 0
    """Records whose media were opened."""
    question: str = ""
    """A question as training will ask it, where the recipe gives questions their words; media as `<slot>`."""
    state_bytes: Callable[[Tensor], float] = state_bytes
    """What the optimizer keeps for each number of a parameter."""


@dataclass(frozen=True)
class Summary:
    """What `omnivit check` found."""

    recipe: Recipe
    """With what this machine decides, such as `dtype: fastest`, settled."""
    model: OmniModel
    stages: list[StageSummary]
    rows: dict[str, int]
    """Slot -> LLM rows of the first medium looked at."""
    precision: str
    """What `trainer.precision` and `dtype: fastest` are on this machine, in words."""
    asked: int = 0
    """Questions of the evaluation."""
    overlap: Overlap | None = None
    """What the evaluation shares with the training data; None without an evaluation, or without data."""


def check(recipe: Recipe, with_data: bool = True, everything: bool = False) -> Summary:
    """Validate a recipe: plugins, options, patterns, trainer settings, every record, and the media of some.

    Args:
        recipe: the recipe.
        with_data: False: the data is elsewhere.
        everything: open the media of all records, not of a sample.

    Raises:
        OmniVitError: the first thing that is wrong, or all records that are.
    """
    settled = settled_here(recipe)
    recipe = settled.recipe
    mixtures = open_stages(recipe) if with_data else {}
    model = build_on_meta(recipe)
    check_stages(recipe, model, mixtures)
    warn_of_emulation(recipe, model)
    rows: dict[str, int] = {}
    stages: list[StageSummary] = []
    trained = Content()
    for stage in recipe.stages:
        summary, checked = _stage(recipe, stage, mixtures.get(stage.name), model, rows, everything)
        stages.append(summary)
        trained |= checked.content if checked is not None else Content()
    asked = _check_questions(recipe, model, everything) if with_data else []
    overlap = overlap_of(trained, reduce(or_, (part.content for part in asked))) if asked else None
    return Summary(recipe, model, stages, rows, settled.line, sum(part.records for part in asked), overlap)


def build_on_meta(recipe: Recipe) -> OmniModel:
    """The model without memory: names, shapes, adapters installed, LoRA added, and those of `init_from` compared."""
    plan = ModelBlueprint.of(recipe)
    start = open_sources(recipe, read=False) if recipe.init_from else None
    with torch.device("meta"):
        model = plan.build()
        if start is not None:
            start.fill(model)
        complete(model, plan)
        if start is not None:
            start.finish(model)
    return model


def count(module: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def memory(model: OmniModel, stage: StageSummary, micro_batch: int) -> dict[str, float]:
    """Estimated bytes on a device: weights, gradients, what the optimizer keeps, and activations.

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
        "optimizer": float(sum(p.numel() * stage.state_bytes(p) for p in trained)),
        "activations": 34.0 * wide * micro_batch * (stage.longest or 0) * width * layers,
    }


def _layers(llm: nn.Module) -> int:
    stacks = [len(m) for m in llm.modules() if isinstance(m, nn.ModuleList)]
    return max(stacks, default=1)


def _stage(
    recipe: Recipe, stage: Stage, mixture: Mixture | None, model: OmniModel, rows: dict[str, int], everything: bool
) -> tuple[StageSummary, Checked | None]:
    rates = match((name for name, _ in model.named_parameters()), stage.train, f"stages.{stage.name}.train")
    if mixture is None:
        return StageSummary(stage.name, rates, None, None, None, None, state_bytes=kind_of(stage).bytes), None
    plan = StagePlan(mixture, stage, recipe.seed, 0.0)
    preparer = preparer_of(model, recipe, stage)
    warn_of_open_end(preparer.chat, stage)
    # with the longest wording of each question, so that none is too long when it is drawn
    wordings = preparer.wordings
    preparer = replace(preparer, wordings=replace(wordings, longest=True))
    checked = check_samples(mixture, preparer, everything)
    _judge(recipe, checked, f"stages.{stage.name}.data")
    if stage.validation is not None:
        held = open_mixture(stage.validation.data, recipe.data.root)
        _judge(recipe, check_samples(held, preparer, everything), f"stages.{stage.name}.validation.data")
    for sample in checked.opened:
        for span in sample.spans:
            rows.setdefault(span.slot, span.length)
    facts = checked.longest, checked.supervised, checked.refused, len(checked.opened)
    example = _drawn_question(mixture, wordings, recipe.seed)
    return StageSummary(stage.name, rates, plan.steps, len(mixture), *facts, example, kind_of(stage).bytes), checked


def _drawn_question(mixture: Mixture, wordings: Wordings, seed: int) -> str:
    """The first question of a mixture in the words that the first epoch draws; empty if the record has its words."""
    try:
        sample = wordings(mixture[0], derive_seed(seed, 0))
    except DataError:
        return ""  # the check of all samples has named it
    asked = next((message for message in sample.messages if message.role == "user"), None)
    if asked is None or not sample.worded:
        return ""
    return "".join(f"<{part.slot}>" if isinstance(part, Media) else getattr(part, "text", "") for part in asked.parts)


def _check_questions(recipe: Recipe, model: OmniModel, everything: bool) -> list[Checked]:
    """What is asked after training."""
    evaluation = recipe.evaluation
    if evaluation is None:
        return []
    check_evaluation(evaluation, recipe.data.root, recipe.where("evaluation"))
    # asked as `omnivit.run.assistant` asks: a question may fill the LLM's context
    context = model.llm.context or sys.maxsize
    preparer = replace(preparer_of(model, recipe), max_length=context, truncate=False, reads_targets=False)
    checked_sources = []
    for where, sources in (("data", evaluation.data), ("linear_probe", evaluation.linear_probe)):
        for source in sources:
            checked = check_samples(open_mixture([source], recipe.data.root), preparer, everything, asks=True)
            _judge(recipe, checked, f"evaluation.{where}")
            checked_sources += [checked] if where == "data" else []
    return checked_sources


def _judge(recipe: Recipe, checked: Checked, where: str) -> None:
    """Refuse what training would refuse.

    Raises:
        DataError: names the bad records.
    """
    refused, records = checked.refused, checked.records
    allowed = skips_allowed(recipe.data, records) if recipe.data.on_bad_sample == "skip" else 0
    if len(refused) > allowed or not checked.opened:
        advice = "Set `data.on_bad_sample: skip` to skip and count such samples."
        if recipe.data.on_bad_sample == "skip":
            advice = f"`data.skip_budget: {recipe.data.skip_budget}` allows {allowed} of them."
        raise DataError(f"{complaint(refused, records, where)}\n{advice}")
