"""LLaVA and LLaVA-NeXT checkpoints of Hugging Face transformers -> a run folder: LLM, encoder, adapter and recipe.

    RUN/recipe.yaml      the model, its paths relative to the run folder
    RUN/llm/             the language model and the tokenizer, with the checkpoint's chat template
    RUN/encoder/         the vision tower and the settings of its image processor
    RUN/checkpoints/     the projector, as the adapter of the slot `image`

Weights are read from safetensors only, and nothing of a checkpoint is executed. The vision tower's and the LLM's
folders are such as transformers itself reads and writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedModel,
)

from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.errors import CheckpointError, OmniVitError
from omnivit.files import appearing
from omnivit.model.blueprint import ModelBlueprint
from omnivit.model.build import preparer_of
from omnivit.model.filled import empty_model
from omnivit.model.pretrained import REMOTE_CODE, unasked
from omnivit.recipe import load as load_recipe
from omnivit.recipe.yaml_tree import dump
from omnivit.run.export.chat_files import reads_same
from omnivit.run.folder import RECIPE
from omnivit.run.importing import Request
from omnivit.run.importing.imported import check_fit, save_imported
from omnivit.train import checkpoint

SLOT = "image"
PLAIN, TILED = "llava", "llava_next"
"""Types of models that can be imported; images of the second are cut into tiles."""
CLASS_TOKEN = {"clip_vision_model": True, "siglip_vision_model": False}
"""Type of a vision tower that can be imported -> whether it has a class token. (Pixtral's gives rows by size.)"""
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""Name of a projector's activation in transformers -> in the adapter `mlp`."""
IDENTITY = "linear"
"""What transformers calls the activation that changes nothing: `omnivit export` writes the adapter `linear` with it."""
DERIVED = ("position_ids", "rotary_emb.inv_freq")
"""Tensors of old checkpoints that are computed from the config now."""


def import_run(source: Path, run: Path, request: Request) -> None:
    """Create a run from a LLaVA checkpoint. Raises as `import_llava`."""
    import_llava(source, run, request.template)


def import_llava(path: Path, out: Path, template: str | None = None) -> None:
    """Create a run folder from a LLaVA checkpoint.

    Args:
        path: folder of a `LlavaForConditionalGeneration`: config.json, *.safetensors (one or sharded), tokenizer,
            image processor, chat template.
        out: the run folder; must not exist. It appears only when it is complete.
        template: a named chat template or Jinja text, where the checkpoint brings none or another is wanted.

    Raises:
        CheckpointError: `path` is no such checkpoint, something in it is missing or not supported, or `out` exists.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists. Choose another --out, or remove it first.")
    config = read_config(path)
    processor = _processor(path, config, template)
    model = _model(path, config.model_type)
    try:
        with appearing(out) as partial:
            _language_model(model).save_pretrained(partial / "llm")
            apart = _save_tokenizer(processor.tokenizer, partial)
            model.model.vision_tower.save_pretrained(partial / "encoder")
            _images(processor.image_processor, config).save_pretrained(partial / "encoder")
            (partial / RECIPE).write_text(_recipe_text(path, model, processor, template, apart), encoding="utf-8")
            _save_adapter(partial, model)
            _try(partial, path)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written: {error}") from error


def _try(run: Path, source: Path) -> None:
    """Open what was written as `omnivit.load` does, short of reading the LLM's weights, and prepare a question.

    Raises:
        CheckpointError: it cannot be used; says why.
    """
    try:
        recipe = load_recipe(run / RECIPE)
        with torch.device("meta"):
            model = empty_model(recipe)
        opened = checkpoint.latest(run / checkpoint.CHECKPOINTS)
        assert opened is not None, "it was just written"
        check_fit(model, opened.weights(), (), source)
        picture = Media(SLOT, Image.new("RGB", (64, 48)))
        preparer_of(model, recipe)(Sample("trial", (Message("user", (picture, Text("?"))),)), generate=True)
    except OmniVitError as error:
        raise CheckpointError(f"the imported run cannot be used, and was not kept: {error}") from error


def read_config(path: Path) -> Any:
    """The `LlavaConfig` of a LLaVA checkpoint that can be imported.

    Raises:
        CheckpointError: it is no LLaVA checkpoint, or one with settings that are not supported; names them.
    """
    file = path / "config.json"
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        held = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else []
        raise CheckpointError(
            f"{path} is not a checkpoint folder: {file.name} cannot be read ({error}). "
            f"It contains: {', '.join(held) or 'nothing'}. Expected the folder of a LlavaForConditionalGeneration."
        ) from error
    if kind not in (PLAIN, TILED):
        raise CheckpointError(
            f"{file}: model_type {kind!r} is not supported. Supported: 'llava' (LLaVA-1.5 and models of its form, "
            f"LlavaForConditionalGeneration) and 'llava_next'. Other models arrange the tokens of images differently."
        )
    with unasked():
        config: Any = (LlavaNextConfig if kind == TILED else LlavaConfig).from_pretrained(path, local_files_only=True)
    problems = list(_unsupported(config))
    if problems:
        raise CheckpointError(f"{file}: " + " ".join(problems))
    return config


def _unsupported(config: Any) -> list[str]:
    tower, act = config.vision_config.model_type, config.projector_hidden_act
    problems = []
    layer, depth = config.vision_feature_layer, getattr(config.vision_config, "num_hidden_layers", 0)
    if not isinstance(layer, int):
        problems.append(f"vision_feature_layer {layer} joins several layers; supported: one layer (a number).")
    elif not 1 <= (layer if layer >= 0 else depth + 1 + layer) <= depth:
        problems.append(
            f"vision_feature_layer {layer} is the output of no layer (0 is what enters the first); supported for this "
            f"tower: 1 to {depth}, or -1 to -{depth}."
        )
    if tower not in CLASS_TOKEN:
        problems.append(f"a vision tower of type {tower!r} is not supported. Supported: {', '.join(CLASS_TOKEN)}.")
    elif config.vision_feature_select_strategy == "default" and not CLASS_TOKEN[tower]:
        problems.append(
            f"vision_feature_select_strategy 'default' drops the class token, but {tower} has none, so a patch "
            "would be lost. Supported here: 'full'."
        )
    if config.model_type == TILED and _grids(config) is None:
        problems.append(
            f"image_grid_pinpoints {config.image_grid_pinpoints} are not all several tiles of "
            f"{config.vision_config.image_size} pixels."
        )
    if act not in (*ACTIVATIONS, IDENTITY):
        available = ", ".join((*ACTIVATIONS, IDENTITY))
        problems.append(f"projector_hidden_act {act!r} is not supported. Supported: {available}.")
    return problems


def _grids(config: Any) -> list[list[int]] | None:
    """Rows and columns of the tiles of a LLaVA-NeXT; None where an image may be one tile, or parts of tiles."""
    side = config.vision_config.image_size
    grids = [[height // side, width // side] for height, width in config.image_grid_pinpoints]
    whole_tiles = [[y * side, x * side] for y, x in grids] == [list(size) for size in config.image_grid_pinpoints]
    return grids if whole_tiles and min((y * x for y, x in grids), default=0) > 1 else None


def _processor(path: Path, config: Any, template: str | None) -> Any:
    """The checkpoint's processor, its tokenizer carrying the chat template."""
    try:
        with unasked():
            cls: Any = LlavaNextProcessor if config.model_type == TILED else LlavaProcessor
            processor = cls.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its processor cannot be read: {error}. Needed: tokenizer.json, tokenizer_config.json, and "
            "preprocessor_config.json or processor_config.json."
        ) from error
    if processor.image_token_id != config.image_token_id:
        raise CheckpointError(
            f"{path}: config.json gives {config.image_token_id} as the token of images, but the tokenizer's "
            f"{processor.image_token!r} is {processor.image_token_id}. Correct image_token_index."
        )
    chat_template = processor.chat_template or processor.tokenizer.chat_template
    chat_template = chat_template.get("default") if isinstance(chat_template, Mapping) else chat_template
    if chat_template is None and template is None:
        raise CheckpointError(
            f"{path} contains no chat template (chat_template.jinja). Name one: `--template vicuna_v1` for LLaVA-1.5."
        )
    processor.tokenizer.chat_template = chat_template
    return processor


def _model(path: Path, kind: str) -> Any:
    """The checkpoint's model on the CPU in its own dtype, every tensor of it from the checkpoint."""
    if not any(path.glob("*.safetensors")):
        raise CheckpointError(
            f"{path} contains no *.safetensors, and other weight files can run code when they are loaded. "
            "Convert it: `LlavaForConditionalGeneration.from_pretrained(...).save_pretrained(...)`."
        )
    opened: Any
    try:
        with unasked():
            cls: Any = LlavaNextForConditionalGeneration if kind == TILED else LlavaForConditionalGeneration
            opened = cls.from_pretrained(
                path, dtype="auto", use_safetensors=True, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its weights cannot be read: {error}") from error
    model, report = opened
    unknown = [name for name in report["unexpected_keys"] if not name.endswith(DERIVED)]
    for what, names in (("not in the checkpoint", report["missing_keys"]), ("unknown to the model", unknown)):
        if names:
            shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise CheckpointError(f"{path}: tensors {what} ({len(names)}): {shown}. The checkpoint is damaged.")
    return model


def _language_model(model: Any) -> PreTrainedModel:
    """The LLM inside a LLaVA model as a causal LM of its own, sharing its tensors."""
    config = model.config.text_config
    config.tie_word_embeddings = model.config.tie_word_embeddings
    with torch.device("meta"):
        from_config: Any = AutoModelForCausalLM.from_config
        causal: Any = from_config(config, dtype=model.dtype, **REMOTE_CODE)
    setattr(causal, causal.base_model_prefix, model.model.language_model)
    causal.set_output_embeddings(model.lm_head)
    causal.generation_config = model.generation_config
    left = [name for name, tensor in causal.state_dict().items() if tensor.is_meta]
    if left:
        missing = ", ".join(left[:5])
        raise CheckpointError(f"LLaVA with a {config.model_type} LLM is not supported: it has no {missing}.")
    checked: PreTrainedModel = causal
    return checked


def _save_tokenizer(tokenizer: Any, run: Path) -> str | None:
    """Write the tokenizer into the LLM's folder -> None; or, where transformers would read another one there, into a
    folder of its own -> its name for the recipe.

    AutoTokenizer goes by the type of the model beside it: for Qwen 2, say, it adds `<|endoftext|>` to a tokenizer that
    has no such token.
    """
    tokenizer.save_pretrained(run / "llm")
    if reads_same(run / "llm", tokenizer):
        return None
    tokenizer.save_pretrained(run / "tokenizer")
    return "./tokenizer"


def _recipe_text(path: Path, model: Any, processor: Any, template: str | None, tokenizer: str | None) -> str:
    config, dtype = model.config, str(model.dtype).removeprefix("torch.")
    keeps = CLASS_TOKEN[config.vision_config.model_type] and config.vision_feature_select_strategy == "full"
    llm = {
        "name": "causal",
        "path": "./llm",
        "dtype": dtype,
        "template": template,
        "placeholders": {SLOT: processor.image_token},
        "add_special_tokens": True,
        **({} if tokenizer is None else {"tokenizer": tokenizer}),
    }
    encoder = {
        "name": "clip",
        "path": "./encoder",
        "layer": config.vision_feature_layer,
        "class_token": "keep" if keeps else "drop",
        "dtype": dtype,
    }
    adapter = _adapter(model)
    if config.model_type == TILED:
        encoder = _tiled(encoder, config)
        adapter = {"name": "chain", "steps": [*adapter.get("steps", [adapter]), {"name": "markers", "row": True}]}
    content = {
        "data": {"max_length": getattr(config.text_config, "max_position_embeddings", 2048)},
        "model": {"llm": llm, "inputs": {SLOT: {"encoder": encoder, "adapter": adapter}}},
    }
    return f"# Imported from {path.name} (LLaVA, Hugging Face transformers).\n" + dump(content)


def _images(process: Any, config: Any) -> Any:
    """The image processor of the encoder: that of the checkpoint; of LLaVA-NeXT, what it does to each tile."""
    if config.model_type != TILED:
        return process
    side = config.vision_config.image_size
    kept = {key: getattr(process, key) for key in ("image_mean", "image_std", "rescale_factor", "resample")}
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **kept)


def _tiled(encoder: dict[str, Any], config: Any) -> dict[str, Any]:
    """The block of the encoder that cuts images into tiles as LLaVA-NeXT does."""
    cut = {"cropping": "any_resolution", "grids": _grids(config), "joined": True, "global_beside": True}
    return {"name": "document", **cut, "encoder": encoder}


def _adapter(model: Any) -> dict[str, Any]:
    """The block of the adapter: `mlp`, or, without an activation, `linear` once, or twice where the second changes
    something."""
    config, projector = model.config, model.model.multi_modal_projector
    bias = config.multimodal_projector_bias
    if config.projector_hidden_act != IDENTITY:
        return {"name": "mlp", "depth": 2, "activation": ACTIVATIONS[config.projector_hidden_act], "bias": bias}
    step = {"name": "linear", "bias": bias}
    second = projector.linear_2
    changes = not torch.equal(second.weight, torch.eye(len(second.weight), dtype=second.weight.dtype))
    if changes or (second.bias is not None and bool(second.bias.any())):
        return {"name": "chain", "steps": [{**step, "width": len(second.weight)}, step]}
    return step


def _save_adapter(run: Path, model: Any) -> None:
    """Write the projector as the run's only checkpoint, under the names that the recipe's adapter gives its layers."""
    plan = ModelBlueprint.of(load_recipe(run / RECIPE)).inputs[SLOT][0].adapter
    projector = model.model.multi_modal_projector
    with torch.device("meta"):
        adapter = plan.cls(plan.config, projector.linear_1.in_features, projector.linear_2.out_features)
    layers = [(name, module) for name, module in adapter.named_modules() if isinstance(module, nn.Linear)]
    weights: dict[str, Tensor] = {}
    for (name, _), layer in zip(layers, (projector.linear_1, projector.linear_2), strict=False):
        weights |= {f"adapters.{SLOT}.{name}.{key}": value for key, value in layer.state_dict().items()}
    newline = getattr(model.model, "image_newline", None)
    if newline is not None:
        name = next(name for name, _ in adapter.named_parameters() if name.endswith(".row"))
        weights[f"adapters.{SLOT}.{name}"] = newline.detach()
    save_imported(run, weights)
