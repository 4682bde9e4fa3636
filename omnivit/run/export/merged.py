"""`--to merged`: the LLM as a folder of its own, LoRA and new tokens merged, with its tokenizer and chat template."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from omnivit.errors import OmniVitError
from omnivit.run.export.chat_files import bos_choices, reads_same, save_generation_settings, template_of, tokenizer_of
from omnivit.run.export.opened import DTYPES, OpenRun
from omnivit.run.export.options import known_options
from omnivit.run.export.plain import plain_llm, write_weights

log = logging.getLogger(__name__)


def export(opened: OpenRun, folder: Path, options: Mapping[str, Any]) -> list[Path]:
    """Write config.json, model*.safetensors, tokenizer and chat template: `AutoModelForCausalLM` loads the folder.

    Options: `dtype` of the weights; default: that of the recipe's LLM.

    Raises:
        RecipeError: an adapter changes layers of the LLM.
    """
    dtype = chosen_dtype(opened, known_options(options, {"dtype": None}, "merged")["dtype"])
    llm = opened.llm
    plain = plain_llm(llm)
    chat, tokenizer = opened.assistant.preparer.chat, llm.tokenizer()
    plain.config.dtype, plain.config.architectures = dtype, [type(llm.hf).__name__]
    plain.config.save_pretrained(folder)
    save_generation_settings(chat, llm.hf, folder)
    write_weights(folder, plain.state, dtype)
    bos = bos_choices(chat, tokenizer)[0]
    saved = tokenizer_of(tokenizer, chat._prefix)
    saved.chat_template = template_of(chat, next(iter(opened.assistant.slots), "image"), "", bos)
    saved.save_pretrained(folder)
    if not reads_same(folder, saved):
        log.warning(
            "AutoTokenizer reads this folder as the usual tokenizer of %s, which has other tokens than this one. Read "
            "tokenizer.json with PreTrainedTokenizerFast(tokenizer_file=...) instead.",
            plain.config.model_type,
        )
    return sorted(folder.iterdir())


def chosen_dtype(opened: OpenRun, name: str | None) -> torch.dtype:
    """The dtype of an option. Raises OmniVitError where there is none of this name."""
    if name is None:
        return opened.dtype
    if name not in DTYPES:
        raise OmniVitError(f"dtype={name}: expected one of {', '.join(DTYPES)}.")
    return DTYPES[name]
