"""`--to hf`: a folder that transformers loads, of one of its own classes where that computes the same.

A run that is one of transformers' own models becomes that (`omnivit.run.export.llava`). Each other becomes a folder
whose model class comes with OmniViT (`omnivit.run.export.general`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnivit.errors import OmniVitError
from omnivit.run.export import general
from omnivit.run.export.chat_files import bos_choices
from omnivit.run.export.llava import Llava, llava_of, processor_of
from omnivit.run.export.llava_parts import NotLlava
from omnivit.run.export.merged import chosen_dtype
from omnivit.run.export.opened import OpenRun
from omnivit.run.export.options import known_options
from omnivit.run.export.trial import TOLERANCE, differing_prompt, largest_difference

log = logging.getLogger(__name__)
FORMS = ("auto", "native", "any")


def export(opened: OpenRun, folder: Path, options: Mapping[str, Any]) -> list[Path]:
    """Write the folder.

    Options: `form`: `native` (a class of transformers, or an error that says why not), `any` (OmniViT's class), or
    `auto`, which is the default: the first if possible. `dtype` of the weights; default: that of the recipe's LLM.

    Raises:
        OmniVitError: the run cannot be exported in this form.
    """
    chosen = known_options(options, {"form": "auto", "dtype": None}, "hf")
    form, dtype = chosen["form"], chosen_dtype(opened, chosen["dtype"])
    if form not in FORMS:
        raise OmniVitError(f"form={form}: expected one of {', '.join(FORMS)}.")
    if form != "any":
        try:
            llava, processor = _tried(opened)
            llava.save(folder, dtype, processor)
            return sorted(folder.iterdir())
        except (NotLlava, OmniVitError) as reason:
            text = f"This run is no model that transformers has: {str(reason).rstrip('.')}."
            if form == "native":
                raise OmniVitError(
                    f"{text} `form=any` writes a folder that loads with `import omnivit.hf`."
                ) from reason
            log.warning("%s The folder loads with `import omnivit.hf`.", text)
    return general.write(opened, folder, dtype)


def _tried(opened: OpenRun) -> tuple[Llava, Any]:
    """The run as a LLaVA, after its prompts and logits were compared with the run's own.

    Raises:
        NotLlava: it is none, or computes something else; says what.
        OmniVitError: the LLM cannot be written alone.
    """
    llava = llava_of(opened)
    differing = None
    for bos in bos_choices(opened.assistant.preparer.chat, opened.llm.tokenizer()):
        processor = processor_of(opened, llava, bos)
        differing = differing_prompt(opened.assistant, processor, llava.image.id)
        if differing is None:
            break
    else:
        raise NotLlava(f"its prompts cannot be written as a chat template alone: {differing}")
    difference = largest_difference(opened.assistant, processor, llava.model())
    if not difference <= TOLERANCE:
        raise NotLlava(f"LLaVA with this LLM gives other logits (they differ by {difference:.2g})")
    return llava, processor
