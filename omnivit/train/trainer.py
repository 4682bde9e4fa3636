"""Lightning's Trainer for a stage: what the recipe asks for, and what OmniViT does instead of Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer

from omnivit.errors import RecipeError
from omnivit.recipe import Recipe, Stage
from omnivit.train.launch import take_over
from omnivit.train.loggers import LOCAL, make_loggers
from omnivit.train.state import StagePosition
from omnivit.train.trainer_options import INSTEAD, profiler
from omnivit.train.validation import ValidationPlan


def stage_trainer(recipe: Recipe, folder: Path, position: StagePosition, callbacks: Sequence[Callback]) -> Trainer:
    """The trainer of a stage.

    Args:
        recipe: whose `trainer` block is passed to Lightning.
        folder: of the run; logs and profiles are written into it.
        position: of the stage.
        callbacks: besides that of validation.

    Raises:
        RecipeError: Lightning refuses the settings.
    """
    options = {key: value for key, value in recipe.trainer.items() if key not in INSTEAD}
    stage, logs = position.stage, folder / "logs"
    loggers = make_loggers(options.pop("loggers", LOCAL) or (), folder, stage.name, recipe)
    settings: dict[str, Any] = {
        "accelerator": "auto",
        "devices": "auto",
        "log_every_n_steps": 1,
        "enable_model_summary": False,
    }
    settings |= options
    settings.pop("progress", None)
    settings |= {
        "max_epochs": 1,
        "accumulate_grad_batches": stage.accumulate,
        "val_check_interval": 1.0,  # at the end; ValidationPlan says when else
        "num_sanity_val_steps": 0,
        "limit_val_batches": 1.0 if stage.validation else 0,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
        "callbacks": [*callbacks, ValidationPlan(position)],
        "enable_progress_bar": False,  # ours knows of stages
        "logger": loggers,
        "profiler": profiler(settings.pop("profiler", None), logs / stage.name),
        "default_root_dir": folder,
    }
    return _make(settings)


def bare_trainer(recipe: Recipe) -> Trainer:
    """A trainer that is only asked where and how a stage would run."""
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "plugins")
    asked = {name: recipe.trainer[name] for name in names if name in recipe.trainer}
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return _make({"accelerator": "auto", "devices": "auto", **asked, **silent})


def _make(settings: dict[str, Any]) -> Trainer:
    try:
        trainer = Trainer(**settings)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise RecipeError(f"trainer: Lightning refuses these settings: {error}") from error
    take_over(trainer)
    return trainer


def check_split(stage: Stage, trainer: Trainer) -> None:
    """Refuse a batch size that cannot be split evenly over accumulation and devices.

    Raises:
        RecipeError: says which multiple to use.
    """
    parts = stage.accumulate * trainer.world_size
    if stage.batch_size % parts:
        raise RecipeError(
            f"stages.{stage.name}.batch_size: {stage.batch_size} cannot be split evenly into {stage.accumulate} "
            f"micro-batches (`accumulate`) on {trainer.world_size} devices. Use a multiple of {parts}."
        )
