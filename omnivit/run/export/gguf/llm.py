"""An LLM of transformers -> a GGUF file with its tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnivit.data.chat import Chat
from omnivit.errors import CheckpointError
from omnivit.files import replacing
from omnivit.model.causal import CausalLM
from omnivit.run.export.chat_files import template_of_llama_cpp, warn_of_stop_texts
from omnivit.run.export.gguf.architecture import architecture_of, converted, rope_factors, write_settings
from omnivit.run.export.gguf.tokenizer import vocabulary_of
from omnivit.run.export.plain import plain_llm


def write_llm(llm: CausalLM, chat: Chat, file: Path, dtype: str) -> Path:
    """Write the LLM with LoRA merged.

    Args:
        llm: on the CPU.
        chat: has tokenizer and template.
        file: is replaced.
        dtype: of matrices, one of `omnivit.run.export.opened.DTYPES`; vectors are always float32, as llama.cpp
            requires.

    Raises:
        CheckpointError: llama.cpp does not know the LLM or its tokenizer, or would compute something else.
        RecipeError: an adapter changes layers of the LLM.
    """
    import gguf

    plain, config = plain_llm(llm), llm.hf.config.get_text_config()
    architecture = architecture_of(config)
    rows = int(plain.config.get_text_config().vocab_size)
    vocabulary = vocabulary_of(llm, chat, rows)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.name.upper()], config.num_hidden_layers)
    with replacing(file) as partial:
        writer = gguf.GGUFWriter(partial, architecture.name)
        write_settings(writer, config)
        writer.add_vocab_size(rows)
        vocabulary.write(writer)
        writer.add_chat_template(template_of_llama_cpp(chat))
        for name, weight in plain.state.items():
            target = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if target is None:
                raise CheckpointError(f"The LLM's weight {name} has no place in llama.cpp's {architecture.name!r}.")
            add_tensor(writer, target, converted(name, weight, config, architecture), dtype)
        if (factors := rope_factors(config)) is not None:
            add_tensor(writer, "rope_freqs.weight", factors, dtype)
        finish(writer)
    warn_of_stop_texts(chat)
    return file


def add_tensor(writer: Any, name: str, weight: Tensor, dtype: str) -> None:
    """Add a weight; matrices in `dtype`, all others in float32."""
    import gguf

    values = weight.detach().to(torch.float32).numpy()
    if values.ndim < 2 or dtype == "float32":
        writer.add_tensor(name, np.ascontiguousarray(values))
    elif dtype == "float16":
        if not np.isfinite(values.astype(np.float16)).all():
            raise CheckpointError(f"{name} has values that float16 cannot hold. Use dtype=bfloat16 or float32.")
        writer.add_tensor(name, values.astype(np.float16))
    else:
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def finish(writer: Any) -> None:
    """Write everything that was added, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
