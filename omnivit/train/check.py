"""What of a recipe's stages is refused before anything trains."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Mapping

from omnivit.contracts.adapter import Adapter
from omnivit.data.chat import Chat
from omnivit.data.mixture import Mixture
from omnivit.errors import RecipeError
from omnivit.model.device import trainer_device
from omnivit.model.lora import check_mergeable, lora_layers
from omnivit.model.omni import OmniModel
from omnivit.model.precision import EmulatedPrecision, asked, emulation
from omnivit.recipe import Recipe, Stage
from omnivit.train.blind import check_inputs_are_fed
from omnivit.train.freeze import base_beside_lora, high_learning_rates, match
from omnivit.train.leader import is_leader
from omnivit.train.masters import check_trainable
from omnivit.train.optimizer import check_optimizer
from omnivit.train.trainer_options import check_trainer_options

log = logging.getLogger(__name__)

NEW_TOKENS = "llm.tokens."
"""What the paths of their embeddings begin with (`omnivit.contracts.llm.LanguageModel.add_tokens`)."""


def check_stages(recipe: Recipe, model: OmniModel, mixtures: Mapping[str, Mixture]) -> None:
    """Refuse, before anything trains, patterns that match nothing, and parts that nothing would teach.

    Args:
        recipe: whose stages are checked.
        model: with its names and shapes, if only on the meta device.
        mixtures: the stages' data by name; a stage whose data is elsewhere may be left out.
    """
    check_trainer_options(recipe.trainer)
    parameters = dict(model.named_parameters())
    names = list(parameters)
    trained: set[str] = set()
    for number, stage in enumerate(recipe.stages):
        _check_merge(recipe, number, model, trained)
        where = f"stages.{stage.name}.train"
        matched = match(names, stage.train, where)
        check_trainable(((name, parameters[name]) for name in matched), where)
        check_optimizer(stage, [(name, parameters[name]) for name in matched])
        trained |= matched.keys()
        _check_packing(stage, model, recipe.data.max_length)
        if stage.name in mixtures:
            check_inputs_are_fed(stage, model, matched, mixtures[stage.name])
        warnings = filter(None, (base_beside_lora(matched, where), high_learning_rates(stage.train, where)))
        for warning in warnings if is_leader() else ():
            log.warning("%s", warning)
        for head in recipe.model.heads:
            if not stage.losses.get(head) and any(name.startswith(f"heads.{head}.") for name in matched):
                raise RecipeError(
                    f"stages.{stage.name}: the stage trains heads.{head}, but `losses` gives it no weight, so it would "
                    f"learn nothing. Write `losses: {{lm: 1, {head}: 1}}`, or remove the head from `train`."
                )
    tokens = [*model.llm.content_tokens, *model.tokens().values()]
    rows = {name for name in names if name.startswith(NEW_TOKENS)} if tokens else set()
    if recipe.stages and rows and not rows & trained and not recipe.init_from:
        raise RecipeError(
            f"stages: no stage trains {NEW_TOKENS}*, the embeddings of the new tokens ({', '.join(tokens)}), "
            f'so the LLM would never learn to write them. Write `train: {{"{NEW_TOKENS}*": 1.0e-3, ...}}`.'
        )


def _check_packing(stage: Stage, model: OmniModel, longest: int) -> None:
    """Refuse packed batches where samples would not be kept apart."""
    if stage.batching.kind != "packed":
        return
    where = f"stages.{stage.name}.batching.kind"
    problem = model.llm.packing_problem(longest)
    if problem:
        raise RecipeError(f"{where}: the LLM cannot be trained on packed samples: {problem}. Write `kind: padded`.")
    for path, adapter in model.adapters.named_modules():
        changes = isinstance(adapter, Adapter) and type(adapter).install is not Adapter.install
        inside = any(isinstance(part, Adapter) for part in adapter.modules() if part is not adapter)
        if changes and not inside and not adapter.in_encoder and not adapter.packs:
            raise RecipeError(
                f"{where}: adapters.{path} ({type(adapter).__name__}) changes the LLM's layers and does not keep "
                "packed samples apart. Write `kind: padded`."
            )


def warn_of_open_end(chat: Chat, stage: Stage) -> None:
    """Warn where a stage's template teaches no end of an answer.

    Args:
        chat: of the stage.
        stage: is named.
    """
    if chat.open_end is None:
        return
    where = f"stages.{stage.name}.template" if stage.template is not None else "model.llm.template"
    after = f"comes {chat.open_end[:60]!r}" if chat.open_end else "nothing comes"
    log.warning(
        "%s: the template teaches no end of an answer, so the model will not learn to stop: after an answer %s. End "
        "answers with `{{ eos_token }}`, or name the text after each answer: `template: {jinja: ..., end: ...}`.",
        where,
        after,
    )


def _check_merge(recipe: Recipe, number: int, model: OmniModel, trained: Collection[str]) -> None:
    """Refuse `merge_lora` where there is no LoRA to merge, or none that can be merged.

    Args:
        recipe: the recipe.
        number: of the stage.
        model: the model.
        trained: names of the parameters that the stages before it train.
    """
    if not recipe.stages[number].merge_lora:
        return
    where = recipe.where(f"stages[{number}].merge_lora")
    check_mergeable(lora_layers(model), where)
    if not recipe.init_from and not any(".lora_" in name for name in trained):
        raise RecipeError(f"{where}: no stage before this one trains LoRA, so nothing can be merged. Remove it.")


def warn_of_emulation(recipe: Recipe, model: OmniModel) -> None:
    """Warn where training computes in a dtype that this machine emulates."""
    text = emulation(asked(model, recipe.trainer.get("precision")), trainer_device(recipe.trainer))
    if text:
        warnings.warn(text, EmulatedPrecision, stacklevel=2)
