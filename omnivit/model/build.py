"""A recipe -> the model with its weights, and the path from its samples to tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from omnivit.contracts.adapter import Adapter, Positions
from omnivit.contracts.faults import naming
from omnivit.contracts.head import Head
from omnivit.contracts.views import EncoderView, owner_of
from omnivit.data.box_codecs import codec_named
from omnivit.data.boxes import BoxWriter
from omnivit.data.chat import Chat, chat_of
from omnivit.data.head_targets import HeadPreparer
from omnivit.data.prepare import Preparer
from omnivit.data.slot import Combine, InstructionReader, SlotPreparer
from omnivit.data.wording import wordings_of
from omnivit.errors import RecipeError
from omnivit.model.blueprint import Blueprint, ModelBlueprint, branches_of
from omnivit.model.lora import add_lora
from omnivit.model.omni import OmniModel
from omnivit.model.patching import LayerPatching
from omnivit.model.staging import configure
from omnivit.model.start import Start
from omnivit.model.tokens import read_tokenizer
from omnivit.recipe import Recipe, Stage
from omnivit.seeds import derive_seed, seeded


def load_model(recipe: Recipe, start: Start | None = None) -> OmniModel:
    """Build a recipe's model with its pretrained weights, adapters installed and LoRA added; in `eval()`, frozen.

    Args:
        recipe: the recipe.
        start: the weights that its `init_from` names, as `omnivit.run.start` reads them.

    Raises:
        RecipeError, PluginError: a component cannot be built or loaded, or `start` does not fit.
    """
    if recipe.init_from and start is None:
        raise RecipeError(f"{recipe.where('init_from')}: its weights were not read. Open them with omnivit.run.start.")
    plan = ModelBlueprint.of(recipe)
    model = plan.build()
    for part, planned in parts_of(model, plan).items():
        with naming(planned.where, type(part), "while it loaded weights"):
            part.load()
    if start is not None:
        start.fill(model)
    complete(model, plan)
    if start is not None:
        start.finish(model)
    return model.eval().requires_grad_(False)


def parts_of(model: OmniModel, plan: ModelBlueprint) -> dict[Any, Blueprint]:
    """Each component of a model, a shared one once, with its blueprint."""
    parts: dict[Any, Blueprint] = {model.llm: plan.llm}
    for slot, plans in plan.inputs.items():
        for branch, planned in zip(model.branches(slot), plans, strict=True):
            parts.setdefault(owner_of(branch.encoder), planned.encoder)
            parts.setdefault(branch.adapter, planned.adapter)
    return parts | {head: plan.heads[name] for name, head in model.named_heads()}


def complete(model: OmniModel, plan: ModelBlueprint) -> None:
    """What follows the pretrained weights: the adapters' changes to the LLM, then LoRA, then the heads' tokens.

    Raises:
        RecipeError: the LLM cannot be changed in this way, or LoRA has a target that is not there; names the place.
    """
    seed = plan.seed
    for slot in model.adapters:
        branches = model.branches(slot)
        for number, branch in enumerate(branches):
            path = f"model.inputs.{slot}[{number}].adapter" if len(branches) > 1 else f"model.inputs.{slot}.adapter"
            changing = naming(path, type(branch.adapter), "while it changed the LLM")
            with seeded(derive_seed(seed, "install", slot, *([number] if number else []))), changing:
                before = _changes(model)
                branch.adapter.install(model.llm, owner_of(branch.encoder), slot)
                if _changes(model) > before:
                    patching: Any = model.llm.patching
                    patching.places.append(f"{path} ({plan.inputs[slot][number].adapter.name})")
    _add_lora_beside_llm(model, plan)
    with seeded(derive_seed(seed, "peft")):
        model.llm.add_peft()
    heads = model.tokens()
    if tokens := dict.fromkeys([*model.llm.content_tokens, *heads.values()]):
        with _named(f"model.heads ({', '.join(heads)})" if heads else "model.llm.tokens"):
            model.llm.add_tokens(list(tokens))


def _add_lora_beside_llm(model: OmniModel, plan: ModelBlueprint) -> None:
    """LoRA on encoders and adapters, before the LLM's layers are changed: what they call then has its LoRA."""
    replaced: dict[nn.Module, nn.Module] = {}
    for part, planned in parts_of(model, plan).items():
        if planned.lora is not None:
            kind = planned.path.rpartition(".")[2]
            with seeded(derive_seed(plan.seed, "peft", f"{kind}s", *planned.keys)), _named(str(planned.where)):
                replaced |= add_lora(part, None, planned.lora, f"the {kind} {planned.name}")
    patching = getattr(model.llm, "_patching", None)
    if replaced and isinstance(patching, LayerPatching):
        patching.follow(replaced)


def _changes(model: OmniModel) -> int:
    """The number of changes to the layers of the LLM that are noted so far."""
    patching = getattr(model.llm, "_patching", None)
    return patching.count if isinstance(patching, LayerPatching) else 0


@contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}" if path else str(error)) from error


def preparer_of(model: OmniModel, recipe: Recipe, stage: Stage | None = None) -> Preparer:
    """The path from sample to tokens that fits a model, the same for training and for answering.

    Args:
        model: built from the recipe.
        recipe: says how long a sample may be.
        stage: has its chat template, its markup, the turns that it learns, and options of encoders, with which the
            model is configured; None, for a model in use: the LLM's own template, the markup and the prompts of all
            stages, and the options of the last.

    Raises:
        RecipeError: the stage's template, markup or options do not fit the model, or there is no such codec of boxes.
    """
    configure(model, recipe, stage)
    tokens = model.tokens()
    with _named(f"stages.{stage.name}.template" if stage is not None and stage.template else ""):
        chat = chat_of(model.llm, None if stage is None else stage.template)
    chat = chat.with_heads(tokens) if tokens else chat
    stages = [stage] if stage is not None else recipe.stages
    with _named(f"stages.{stage.name}.markup" if stage is not None else "markup of the stages"):
        asked = _question_tokens(chat, [stage for stage in stages if stage.markup_questions])
        chat = chat.with_markup(_markup(stages))
    return Preparer(
        chat if stage is not None else chat.in_use(),
        slots_of(model, recipe),
        recipe.data.max_length,
        recipe.data.truncate,
        {name: _head_preparer(head, f"model.heads.{name}") for name, head in model.named_heads()},
        supervise="last" if stage is not None and stage.supervise == "last" else "all",
        wordings=wordings_of(recipe, stage),
        question_tokens=asked,
        boxes=_box_writer(recipe),
    )


def slots_of(model: OmniModel, recipe: Recipe) -> dict[str, SlotPreparer]:
    """What prepares the media of each input, as the model is configured now. Raises RecipeError as `preparer_of`."""
    return {slot: _slot_preparer(model, slot, _combine(model, recipe, slot)) for slot in model.encoders}


def _box_writer(recipe: Recipe) -> BoxWriter | None:
    boxes = recipe.model.boxes
    if boxes is None:
        return None
    with _named(str(recipe.where("model.boxes.codec"))):
        codec_named(boxes.codec)
    return BoxWriter(boxes.codec, boxes.outside)


def _markup(stages: Sequence[Stage]) -> list[str] | None:
    """The markup of all stages together; None where no stage declares any."""
    declared = [stage.markup for stage in stages if stage.markup is not None]
    return list(dict.fromkeys(token for markup in declared for token in markup)) if declared else None


def _question_tokens(chat: Chat, stages: Sequence[Stage]) -> frozenset[str]:
    """The tokens that questions of files may contain, of stages whose `markup` holds for questions, too."""
    for stage in stages:
        if not stage.markup:
            raise RecipeError("`markup_questions` needs the tokens that it is about: list them in `markup`.")
    return chat.with_markup(_markup(stages)).markup_tokens if stages else frozenset()


def _head_preparer(head: Head, path: str) -> HeadPreparer:
    with naming(path, type(head), "while it created its processor"):
        return HeadPreparer(head.token, head.reads_before, head.processor())


def _combine(model: OmniModel, recipe: Recipe, slot: str) -> Combine:
    """What the media of a turn become in an input.

    Raises:
        RecipeError: they are combined, but an adapter of the input needs tokens of each medium.
    """
    path, branch = branches_of(recipe, slot)[0]
    if branch.combine == "tokens":
        return "tokens"
    for part in model.branches(slot):
        parts = [module for module in part.adapter.modules() if isinstance(module, Adapter)]
        # a chain hands `install` on to its steps, which are parts of it
        changing = [each for each in parts if type(each).install is not Adapter.install and not _holds(each)]
        if changing or part.adapter.positions is not None:
            raise RecipeError(
                f"{recipe.where(path)}: `combine: {branch.combine}` adds the tokens of several media, but the adapter "
                f"{type(changing[0] if changing else part.adapter).__name__} changes layers or positions for the "
                "tokens of each. Use adapters that return tokens alone, such as `linear`, `mlp` or `qformer`."
            )
    return branch.combine


def _holds(adapter: Adapter) -> bool:
    """Whether an adapter has others inside."""
    return any(isinstance(module, Adapter) for module in adapter.modules() if module is not adapter)


def _slot_preparer(model: OmniModel, slot: str, combine: Combine) -> SlotPreparer:
    encoders = model.slot_encoders(slot)
    processors = []
    for encoder in encoders:
        with naming(f"model.inputs.{slot}", type(encoder), "while it created its processor"):
            processors.append(encoder.processor())
    branches = model.branches(slot)
    views = tuple(b.encoder.processor() if isinstance(b.encoder, EncoderView) else None for b in branches)
    return SlotPreparer(
        tuple(processors),
        tuple((encoders.index(owner_of(branch.encoder)), branch.adapter.length) for branch in branches),
        _positions([branch.adapter for branch in branches], f"model.inputs.{slot}"),
        _instruction_reader([branch.adapter for branch in branches], f"model.inputs.{slot}"),
        combine,
        views if any(views) else (),
    )


def _positions(adapters: Sequence[Adapter], path: str) -> Positions | None:
    if len(adapters) > 1 and any(adapter.positions is not None for adapter in adapters):
        raise RecipeError(f"{path}: an adapter with its own positions must be the only branch of its input.")
    return adapters[0].positions


def _instruction_reader(adapters: Sequence[Adapter], path: str) -> InstructionReader | None:
    settings = {(a.instruction_tokenizer, a.instruction_limit) for a in adapters if a.instruction_tokenizer is not None}
    if not settings:
        return None
    if len(settings) > 1:
        raise RecipeError(
            f"{path}: its adapters read the instruction with different tokenizers. Use the same tokenizer for all."
        )
    tokenizer, limit = settings.pop()
    assert tokenizer is not None
    return InstructionReader(read_tokenizer(tokenizer), limit)
