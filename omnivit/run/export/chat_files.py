"""Tokenizer and chat template of an export: programs that know nothing of OmniViT make the same prompt with them.

The template gets messages as Hugging Face and OpenAI write them, and gives them to the run's own template in the form
that this one takes. Whether the tokenizer's BOS stands in the template or is put there by the tokenizer depends on the
tokenizer; `omnivit.run.export.trial` tries both.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from omnivit.data.chat import Chat
from omnivit.errors import OmniVitError
from omnivit.model.pretrained import REMOTE_CODE

log = logging.getLogger(__name__)
FORM = """{{#- Written by `omnivit export`: messages in the usual form -> the form that the template below takes. -#}}
{{%- set form = namespace(turns=[]) -%}}
{{%- for message in messages -%}}
  {{%- set turn = namespace(parts=[], text='') -%}}
  {{%- if message['content'] is string -%}}
    {{%- set turn.parts = [{{'type': 'text', 'text': message['content']}}] -%}}
    {{%- set turn.text = message['content'] -%}}
  {{%- else -%}}
    {{%- for part in message['content'] -%}}
      {{%- if part['type'] == 'text' -%}}
        {{%- set turn.parts = turn.parts + [{{'type': 'text', 'text': part['text']}}] -%}}
        {{%- set turn.text = turn.text ~ part['text'] -%}}
      {{%- else -%}}
        {{%- set turn.parts = turn.parts + [{{'type': {slot}, 'placeholder': {medium}}}] -%}}
        {{%- set turn.text = turn.text ~ {medium} -%}}
      {{%- endif -%}}
    {{%- endfor -%}}
  {{%- endif -%}}
  {{%- set form.turns = form.turns + [{{'role': message['role'], 'content': turn.{content}}}] -%}}
{{%- endfor -%}}
{{%- set messages = form.turns -%}}
{bos}"""
"""Jinja before the run's own template."""


def template_of(chat: Chat, slot: str, medium: str, bos: bool) -> str:
    """The chat template of an export.

    Args:
        chat: of the run.
        slot: the input whose media the messages may contain.
        medium: the text that stands for a medium.
        bos: whether the template writes the tokenizer's BOS.
    """
    return _shaped(chat, json.dumps(slot), json.dumps(medium), bos)


def template_of_inputs(chat: Chat, inputs: Mapping[str, str], bos: bool) -> str:
    """As `template_of`, for media of several inputs.

    Args:
        chat: of the run.
        inputs: slot, which is the type of its parts -> the text that stands for a medium.
        bos: whether the template writes the tokenizer's BOS.
    """
    return _shaped(chat, "part['type']", f"{json.dumps(inputs)}[part['type']]", bos)


def template_of_llama_cpp(chat: Chat) -> str:
    """The chat template for llama.cpp, whose messages have a text of its own for each medium.

    A template that writes media by tokens of its own (`placeholders`) finds them by the types of the parts, which
    llama.cpp keeps.
    """
    template = chat._template
    if not template._marker.typed or chat._placeholders:
        return template.text
    return _shaped(chat, "part['type']", "part['text']", bos=False)


def _shaped(chat: Chat, slot: str, medium: str, bos: bool) -> str:
    """The run's template after the one that gives messages its form. `slot` and `medium` are in Jinja."""
    form = FORM.format(
        slot=slot,
        medium=medium,
        content="parts" if chat._template._marker.typed else "text",
        bos="{{- bos_token -}}" if bos else "",
    )
    return f"{form}{chat._template.text}"


def tokenizer_of(tokenizer: PreTrainedTokenizerBase, prefix: Sequence[int]) -> PreTrainedTokenizerBase:
    """A copy of a fast tokenizer that puts `prefix`, and nothing else, before a text."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["post_processor"] = content["padding"] = content["truncation"] = None
    backend = Tokenizer.from_str(json.dumps(content))
    if prefix:
        names = {id: str(tokenizer.convert_ids_to_tokens(id)) for id in prefix}
        opening = [names[id] for id in prefix]
        backend.post_processor = processors.TemplateProcessing(
            single=[*opening, "$A"],
            pair=[*opening, "$A", "$B"],
            special_tokens=[(name, id) for id, name in names.items()],
        )
    special = copy.deepcopy(dict(tokenizer.special_tokens_map))
    special.pop("additional_special_tokens", None)
    copied: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=tokenizer.model_max_length,
        **{name: value for name, value in special.items() if isinstance(value, str)},
    )
    return copied


def reads_same(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether AutoTokenizer reads the tokens of `tokenizer` from a folder that it was saved to."""
    again: Any = AutoTokenizer
    vocabulary: dict[str, int] = again.from_pretrained(folder, local_files_only=True, **REMOTE_CODE).get_vocab()
    return vocabulary == tokenizer.get_vocab()


def bos_choices(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> list[bool]:
    """Whether the template may write the BOS: the possible answers, the better one first."""
    bos = tokenizer.bos_token_id
    return [True, False] if bos is not None and tuple(chat._prefix) == (bos,) else [False]


def save_generation_settings(chat: Chat, hf: Any, folder: Path) -> None:
    """Write generation_config.json; or, where answers end at a text, which it cannot hold, warn of that."""
    if chat.stop_texts:
        warn_of_stop_texts(chat)
    else:
        generation_settings(chat, hf).save_pretrained(folder)


def warn_of_stop_texts(chat: Chat) -> None:
    """Say that the files do not tell where an answer ends, if a text ends it."""
    if chat.stop_texts:
        log.warning(
            "The answers of this run end at the text %r, which is no token of its tokenizer, so the exported files "
            "cannot name it. Give it to the program that loads them as a stop text.",
            chat.stop_texts[0],
        )


def generation_settings(chat: Chat, hf: Any) -> Any:
    """How an export generates unless it is told: greedily, and to where the run's answers end.

    Raises:
        OmniVitError: the answers end at a text that is no token.
    """
    if chat.stop_texts:
        raise OmniVitError(
            f"The answers of this run end at the text {chat.stop_texts[0]!r}, which is no token of its tokenizer."
        )
    settings = copy.deepcopy(hf.generation_config)
    for name in ("temperature", "top_p", "top_k"):
        setattr(settings, name, None)
    settings.do_sample, settings.num_beams = False, 1
    settings.eos_token_id, settings.pad_token_id = list(chat.stop_ids) or None, chat.pad_id
    return settings
