"""What a recipe may say under `trainer:`, and what it writes instead where it may not.

Everything that is allowed goes to Lightning's Trainer as it stands. What would end a stage before its steps are done,
or change what is saved without a word, is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.errors import RecipeError, suggest
from omnivit.model.device import trainer_device
from omnivit.train.loggers import check_loggers

if TYPE_CHECKING:
    from lightning.pytorch.profilers import Profiler

PROFILERS: Mapping[str, str] = {
    "simple": "SimpleProfiler",
    "advanced": "AdvancedProfiler",
    "pytorch": "PyTorchProfiler",
}
"""Name in a recipe -> class in `lightning.pytorch.profilers`."""
COMMON = frozenset({"accelerator", "devices", "num_nodes", "precision", "strategy", "gradient_clip_val",
                    "gradient_clip_algorithm", "log_every_n_steps", "loggers", "profiler", "progress"})  # fmt: skip
"""Options that are checked without Lightning, which takes two seconds to import: its Trainer has them, or they are
ours."""
OWNED = ("accumulate_grad_batches", "max_epochs", "max_steps", "min_epochs", "min_steps", "val_check_interval",
         "callbacks", "default_root_dir", "use_distributed_sampler", "reload_dataloaders_every_n_epochs",
         "check_val_every_n_epoch", "num_sanity_val_steps", "enable_checkpointing", "logger")  # fmt: skip
"""Trainer arguments that the stages set."""
INSTEAD = {
    "limit_train_batches": "A stage runs all of its steps. Set their number: stages.NAME.steps=100",
    "overfit_batches": "Set stages.NAME.data.0.limit=16 and stages.NAME.epochs=50 to train on few samples",
    "fast_dev_run": "`omnivit check` tries a recipe without training; stages.NAME.steps=1 trains one step",
    "max_time": "Use `timeout --signal=TERM 2h omnivit train ...`: the run is saved, and `--resume` continues it",
    "limit_val_batches": "Set stages.NAME.validation.data.0.limit=100 to validate on few samples",
    "limit_test_batches": "The stages test nothing; `evaluation` does",
    "limit_predict_batches": "The stages predict nothing; `evaluation` does",
    "barebones": "It would train without logs. To disable them, set loggers: [] and progress: false",
    "enable_model_summary": "`omnivit check` lists the components and what trains",
    "plugins": "It takes Python objects, which a recipe cannot contain; set `precision` and `strategy` instead",
    "model_registry": "Runs are folders; there is no registry to send them to",
}
"""Trainer arguments that are refused, unless they have Lightning's default -> what to do."""
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")
_SHORT = ("32", "bf16", "16")
_OTHER_PRECISIONS = {
    "bf16-true": "would round all trained weights to 8 bits. Use trainer.precision: bf16-mixed and "
    "model.llm.dtype: bfloat16, which stores the LLM in bfloat16 and keeps what small updates need",
    "16-true": "would store weights and gradients in float16, which overflow. Use trainer.precision: bf16-mixed and "
    "model.llm.dtype: bfloat16, or 16-mixed where the GPU has no bfloat16",
    "64-true": "would leave media and losses in 32 bits. Use 32-true",
    "64": "would leave media and losses in 32 bits. Use 32-true",
    "transformer-engine": "converts modules of encoders and LLMs. Use bf16-mixed",
    "transformer-engine-float16": "converts modules of encoders and LLMs. Use bf16-mixed",
}
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
_SMALLER = (
    "Use ddp. If the model does not fit into one device: model.llm.dtype: bfloat16, "
    "model.llm.gradient_checkpointing: true, or train LoRA, with model.llm.quantize: nf4 (QLoRA)"
)
_OTHER_STRATEGIES = {
    "fsdp": f"distributes weights and optimizer over devices; checkpoints would contain only one part. {_SMALLER}",
    "deepspeed": f"stores weights and optimizer in its own format, which checkpoints do not support. {_SMALLER}",
    "ddp_": "starts processes from this one, which may hang. Use ddp, and start the run with torchrun",
}
"""Beginnings of names -> what is wrong with them."""


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Refuse what Lightning's Trainer does not know, what the stages decide, and what would train less than it says.

    Raises:
        RecipeError: names the key and what to write instead.
    """
    for key, value in options.items():
        if key in OWNED:
            raise RecipeError(f"trainer.{key}: the stages set this (`accumulate`, `epochs`, `steps`, `validation`).")
        if key not in COMMON:
            _check_with_lightning(key, value)
    _check_name("precision", options.get("precision"), (*PRECISIONS, *_SHORT), _OTHER_PRECISIONS)
    if str(options.get("precision")) in ("16", "16-mixed") and trainer_device(options) == "cpu":
        raise RecipeError("trainer.precision: 16-mixed needs a GPU; on a CPU, use bf16-mixed or 32-true.")
    _check_name("strategy", options.get("strategy"), STRATEGIES, _OTHER_STRATEGIES)
    if (profiler := options.get("profiler")) not in (None, *PROFILERS):
        raise RecipeError(f"trainer.profiler: there is no profiler {profiler!r}; {suggest(str(profiler), PROFILERS)}")
    check_loggers(options.get("loggers") or ())


def profiler(name: str | None, path: Path) -> Profiler | None:
    """A profiler that writes into `path/fit-profile.txt`: what it would log is not shown by the command line."""
    if name is None:
        return None
    from lightning.pytorch import profilers

    kind: type[Profiler] = getattr(profilers, PROFILERS[name])
    return kind(dirpath=path, filename="profile")


def _check_with_lightning(key: str, value: object) -> None:
    from lightning.pytorch import Trainer

    known = inspect.signature(Trainer.__init__).parameters
    allowed = sorted({*known, *COMMON} - {"self", *OWNED, *INSTEAD})
    if key in INSTEAD and value not in (None, False, known[key].default):
        raise RecipeError(f"trainer.{key}: this cannot be set in a recipe. {INSTEAD[key]}.")
    if key not in allowed and key not in INSTEAD:
        raise RecipeError(f"trainer.{key}: Lightning's Trainer has no such option; {suggest(key, allowed)}")


def _check_name(key: str, value: object, allowed: tuple[str, ...], others: Mapping[str, str]) -> None:
    name = str(value)
    if value is None or name in allowed:
        return
    for beginning, reason in others.items():
        if name == beginning or (key == "strategy" and name.startswith(beginning)):
            raise RecipeError(f"trainer.{key}: {name} {reason}.")
    raise RecipeError(f"trainer.{key}: there is no {key} {name!r}; {suggest(name, allowed)}")
