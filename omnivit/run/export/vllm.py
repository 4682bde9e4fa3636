"""`--to vllm`: a folder that vLLM loads once the distribution omnivit-vllm is installed there.

config.json                  the LLM's settings as `text_config`, and the token of each input
recipe.yaml, provenance.json encoders and adapters; what they were made with
tokenizer*, chat_template    of the LLM, with a token for each input
parts/                       folders and files that the recipe names on the disk
model*.safetensors           `language_model.*`: the LLM, LoRA and new tokens merged, in the names of transformers;
                             `encoders.*` and `adapters.*` in the names of OmniViT
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from omnivit import __version__
from omnivit.errors import RecipeError
from omnivit.model.filled import all_tensors
from omnivit.run.export.chat_files import bos_choices, save_generation_settings, template_of_inputs, tokenizer_of
from omnivit.run.export.general import modules_of, write_recipe
from omnivit.run.export.merged import chosen_dtype
from omnivit.run.export.opened import OpenRun
from omnivit.run.export.options import known_options
from omnivit.run.export.plain import plain_llm, write_weights
from omnivit.run.llm_side import input_side, llm_side

MODEL_TYPE, ARCHITECTURE = "omnivit_vllm", "OmniViTForVllm"


def export(opened: OpenRun, folder: Path, options: Mapping[str, Any]) -> list[Path]:
    """Write the folder.

    Options: `dtype` of the LLM's weights; default: that of the recipe's LLM.

    Raises:
        RecipeError: vLLM could not answer as the run does; says what it would lack.
    """
    dtype = chosen_dtype(opened, known_options(options, {"dtype": None}, "vllm")["dtype"])
    assistant, llm = opened.assistant, opened.llm
    if reasons := [*llm_side(assistant), *input_side(assistant)]:
        raise RecipeError(f"vLLM cannot answer as this run does: {'; '.join(reasons)}. Use `omnivit serve` instead.")
    if llm.config.trust_remote_code:
        raise RecipeError("The LLM runs Python code of its checkpoint, which an export cannot contain.")
    plain = plain_llm(llm)
    chat, tokenizer = assistant.preparer.chat, llm.tokenizer()
    saved = tokenizer_of(tokenizer, chat._prefix)
    # templates of imported checkpoints write media by texts of their own
    inputs = {slot: chat._placeholders.get(slot, f"<|omnivit_{slot}|>") for slot in assistant.slots}
    saved.add_tokens(
        [AddedToken(text, normalized=False, special=True) for text in inputs.values()], special_tokens=True
    )
    saved.chat_template = template_of_inputs(chat, inputs, bos_choices(chat, tokenizer)[0])
    saved.save_pretrained(folder)
    save_generation_settings(chat, llm.hf, folder)
    known = saved.get_vocab()
    ids = {slot: known[text] for slot, text in inputs.items()}
    modules = modules_of(opened)
    _write_config(opened, folder, plain.config, str(dtype).removeprefix("torch."), ids, modules)
    write_recipe(opened, folder, dtype, modules)
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in plain.state.items()}
    parts = {k: v for k, v in all_tensors(assistant.model).items() if k.startswith(("encoders.", "adapters."))}
    write_weights(folder, {f"language_model.{name}": value for name, value in cast.items()} | parts, None)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _write_config(
    opened: OpenRun, folder: Path, llm: Any, dtype: str, ids: Mapping[str, int], modules: Mapping[str, str]
) -> None:
    text = llm.to_dict() | {"architectures": [type(opened.llm.hf).__name__], "dtype": dtype}
    config = {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURE],
        "text_config": text,
        "inputs": dict(ids),
        "dtype": dtype,
        "omnivit_version": __version__,
        "plugins": dict(modules),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n", encoding="utf-8")
