"""The loggers of `trainer.loggers`: CSV and TensorBoard in the run's folder, and services for experiments by name.

Those of services are Lightning's; each has an experiment for every stage. Their packages are imported only where a
recipe names them.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from omnivit.errors import RecipeError, suggest
from omnivit.recipe import Recipe, to_yaml

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

NAME = re.compile(r"[\w-]+")
"""Keys that every service accepts; MLflow refuses most others."""
LOCAL = ("csv", "tensorboard")
"""Written into the run's folder; used unless the recipe names others."""
CLOSED = MappingProxyType(
    {
        "neptune": "Neptune has ended its service, and Lightning has removed its logger. Use wandb, mlflow, comet or "
        "tensorboard"
    }
)
"""Names that are known, and refused -> why."""


@dataclass(frozen=True)
class Service:
    """A service for experiments that Lightning has a logger for."""

    logger: str
    """Class in `lightning.pytorch.loggers`."""
    modules: tuple[str, ...]
    """One of them has to be importable."""
    install: str
    defaults: Callable[[Path, str], dict[str, Any]]
    """Run folder, stage -> options that the recipe may replace."""
    end: str
    """Method of the experiment that ends it, so that the next stage begins another; empty: Lightning ends it."""
    address: frozenset[str] = frozenset()
    """Options that say together where it writes: a recipe that has one of them gets no default of the others."""


SERVICES: Mapping[str, Service] = MappingProxyType(
    {
        "wandb": Service(
            "WandbLogger",
            ("wandb",),
            "pip install wandb",
            lambda run, stage: {
                "project": "omnivit", "group": run.name, "name": f"{run.name}/{stage}", "save_dir": str(run / "logs"),
            },
            "finish",
        ),
        "mlflow": Service(
            "MLFlowLogger",
            ("mlflow",),
            "pip install mlflow",
            lambda run, stage: {
                "experiment_name": "omnivit", "run_name": f"{run.name}/{stage}", **_mlflow_address(run),
            },
            "",
            frozenset({"tracking_uri", "artifact_location", "save_dir"}),
        ),
        "comet": Service(
            "CometLogger",
            ("comet_ml",),
            "pip install comet-ml",
            lambda run, stage: {
                "project": "omnivit", "name": f"{run.name}/{stage}", "offline_directory": str(run / "logs/comet"),
            },
            "end",
        ),
    }
)  # fmt: skip
"""Name in a recipe -> the service."""
NAMES = (*LOCAL, *SERVICES)
SAMPLES = "samples"
"""Our own option of services: whether they get the wrong answers of the evaluation with their media."""


def check_loggers(entries: object) -> None:
    """Refuse loggers that do not exist, that need a package which is missing, or that have no such option.

    Args:
        entries: `trainer.loggers`: names, or mappings of one name to options.

    Raises:
        RecipeError: says what to install or to write.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise RecipeError(f"trainer.loggers: expected a list, such as [csv, tensorboard], but got {entries!r}.")
    for name, options in map(named, entries):
        if name in CLOSED:
            raise RecipeError(f"trainer.loggers: {CLOSED[name]}.")
        if name not in NAMES:
            raise RecipeError(f"trainer.loggers: there is no logger {name!r}; {suggest(name, NAMES)}")
        if name in LOCAL:
            if options:
                raise RecipeError(f"trainer.loggers: {name} has no options; it writes into the folder of the run.")
            continue
        if not isinstance(options.pop(SAMPLES, False), bool):
            raise RecipeError(f"trainer.loggers: {SAMPLES} of {name} must be true or false.")
        service = SERVICES[name]
        if not any(importlib.util.find_spec(module) for module in service.modules):
            raise RecipeError(
                f"trainer.loggers: {name} needs a package that is not installed. Run `{service.install}`, or remove "
                f"{name} from the list."
            )
        _check_options(name, options)
        if name == "comet" and options.get("online") is False:
            raise RecipeError(
                "trainer.loggers: with `online: false`, Lightning's logger for Comet writes nothing. Remove it, "
                "and set the environment variable COMET_START_ONLINE=false: the experiments are then kept in the "
                "run's folder, in logs/comet."
            )


def make_loggers(entries: Sequence[Any], run: Path, stage: str, recipe: Recipe) -> list[Logger]:
    """The loggers of a stage.

    Args:
        entries: `trainer.loggers`, checked.
        run: its folder.
        stage: name.
        recipe: is sent to services as the settings of the experiment.

    Raises:
        RecipeError: a service refuses; names it.
    """
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # takes two seconds, and `check` needs none

    logs = run / "logs"
    local: dict[str, Callable[[], Logger]] = {
        "csv": lambda: CSVLogger(logs, name=stage),
        "tensorboard": lambda: TensorBoardLogger(logs / "tensorboard", name=stage),
    }
    made: list[Logger] = []
    for name, options in map(named, entries):
        made.append(local[name]() if name in local else _of_service(name, options, run, stage, recipe))
    return made


def end_experiments(loggers: Sequence[Logger]) -> None:
    """End the experiments of services, so that the next stage begins its own."""
    for service in SERVICES.values():
        for logger in loggers:
            if not service.end or type(logger).__name__ != service.logger:
                continue
            experiment = getattr(logger, "_experiment", None)  # `experiment` would begin one where none was begun
            if experiment is not None:
                with suppress(Exception):  # a service that cannot be reached must not end a run
                    getattr(experiment, service.end)()


def sends_samples(entry: object) -> bool:
    """Whether a logger gets samples: those that write into the run's folder do, services only where it is asked for."""
    name, options = named(entry)
    return name in LOCAL or bool(options.get(SAMPLES, False))


def _of_service(name: str, options: Mapping[str, Any], run: Path, stage: str, recipe: Recipe) -> Logger:
    service = SERVICES[name]
    (run / "logs").mkdir(parents=True, exist_ok=True)
    chosen = {option: value for option, value in options.items() if option != SAMPLES}
    unused = service.address if service.address & chosen.keys() else frozenset()
    defaults = {key: value for key, value in service.defaults(run.resolve(), stage).items() if key not in unused}
    try:
        logger: Logger = _class_of(service)(**{**defaults, **chosen})
        logger.log_hyperparams(settings(yaml.safe_load(to_yaml(recipe))))
    except Exception as error:
        raise RecipeError(
            f"trainer.loggers: {name} cannot be used: {error}\nCheck its options, the login and the network, or remove "
            f"it from the list."
        ) from error
    return logger


def settings(value: Any) -> Any:
    """A recipe as services take it: a mapping with keys that are no names, such as `adapters.*`, becomes text."""
    if isinstance(value, Mapping):
        if all(NAME.fullmatch(str(key)) for key in value):
            return {str(key): settings(entry) for key, entry in value.items()}
        return json.dumps(value)
    return [settings(entry) for entry in value] if isinstance(value, list) else value


def _mlflow_address(run: Path) -> dict[str, str]:
    """Where MLflow writes: at `MLFLOW_TRACKING_URI`, else into the run's folder, as a database, since MLflow 3 refuses
    folders of plain files."""
    ours, asked = f"sqlite:///{run / 'logs/mlflow.db'}", os.environ.get("MLFLOW_TRACKING_URI")
    if asked and asked != ours:  # MLflow sets the variable to what it was given
        return {"tracking_uri": asked}
    return {"tracking_uri": ours, "artifact_location": (run / "logs/mlflow").as_uri()}


def _class_of(service: Service) -> type[Logger]:
    kind: type[Logger] = getattr(importlib.import_module("lightning.pytorch.loggers"), service.logger)
    return kind


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise RecipeError for an option that the logger does not have; `**kwargs` take any."""
    parameters = inspect.signature(_class_of(SERVICES[name]).__init__).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            allowed = sorted({*parameters, SAMPLES} - {"self"})
            raise RecipeError(f"trainer.loggers: {name} has no option {option!r}; {suggest(option, allowed)}")


def named(entry: object) -> tuple[str, dict[str, Any]]:
    """`wandb`, or `{wandb: {project: x}}`, as name and options."""
    if isinstance(entry, Mapping):
        if len(entry) != 1:
            raise RecipeError(
                f"trainer.loggers: expected a name or one name with its options, such as {{wandb: {{project: x}}}}, "
                f"but got {dict(entry)!r}."
            )
        [(name, options)] = entry.items()
        if options is not None and not isinstance(options, Mapping):
            raise RecipeError(f"trainer.loggers: the options of {name} must be a mapping, but are {options!r}.")
        return str(name), dict(options or {})
    return str(entry), {}
