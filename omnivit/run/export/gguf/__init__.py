"""`gguf`: files for llama.cpp and what is built on it.

    llm.gguf       the LLM, LoRA merged, with tokenizer and chat template; for any composition whose LLM it knows
    mmproj.gguf    the encoder and adapter of images, on request, where llama.cpp has their graph

What llama.cpp computes otherwise is refused, never approximated. docs/decisions/0019-gguf.md has the evidence.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnivit.errors import CheckpointError, OmniVitWarning, suggest
from omnivit.model.weights import require
from omnivit.run.export import known_options
from omnivit.run.export.gguf.llm import write_llm
from omnivit.run.export.gguf.mmproj import problem_of, write_mmproj
from omnivit.run.export.opened import DTYPES, OpenRun

PARTS = ("llm", "all")
RESIZES = (
    "llama.cpp resizes images itself, and otherwise than this run: it answers as the run does only for images that "
    "have {size} x {size} pixels already. Resize them first."
)


def export(opened: OpenRun, folder: Path, options: Mapping[str, Any]) -> list[Path]:
    """Write `llm.gguf` and, with `parts=all`, `mmproj.gguf`.

    Args:
        opened: the run, on the CPU.
        folder: where the files go.
        options: `parts`: `llm` (default), or `all`, which fails where there can be no mmproj; `dtype` of matrices:
            float32, float16 or bfloat16; default: that of the recipe's LLM.

    Raises:
        CheckpointError: llama.cpp would compute something else, or does not know the LLM or its tokenizer; says why.
        PluginError: gguf is not installed.
    """
    require("gguf", extra="gguf", purpose="to write GGUF files")
    chosen = known_options(options, {"parts": "llm", "dtype": str(opened.dtype).removeprefix("torch.")}, "gguf")
    parts, dtype = chosen["parts"], chosen["dtype"]
    for name, value, known in (("parts", parts, PARTS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise CheckpointError(f"{name}={value}: {suggest(value, known)}")
    model, preparer = opened.assistant.model, opened.assistant.preparer
    if parts == "all" and (problem := problem_of(model, preparer)):
        raise CheckpointError(f"There can be no mmproj.gguf for this run: {problem} `parts=llm` writes the LLM alone.")
    written = [write_llm(opened.llm, preparer.chat, folder / "llm.gguf", dtype)]
    if parts == "all":
        written.append(write_mmproj(model, preparer, folder / "mmproj.gguf", dtype))
        encoder: Any = model.branches(next(iter(preparer.slots)))[0].encoder
        size = encoder.tower.config.image_size
        warnings.warn(RESIZES.format(size=size), OmniVitWarning, stacklevel=2)
    return written
