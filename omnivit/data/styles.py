"""The named chat templates, and the properties of a template that are not in its Jinja text.

A recipe gives them in a block (`omnivit.recipe.ChatTemplate`); the templates of `templates/*.jinja` have them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING

from omnivit.errors import RecipeError, suggest
from omnivit.recipe.schema import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Style:
    """Properties of a template that are not in its Jinja text."""

    prefix: bool = False
    """The tokenizer's BOS goes before the text (written in Jinja, it would change how the first word is split)."""
    end: str = ""
    """The end of an answer, where that is not a control token."""
    drops: frozenset[str] = frozenset()
    """Roles whose text the template omits on purpose."""
    needs: tuple[str, ...] = ()
    """Control tokens that the tokenizer must have."""
    roles: bool = False
    """Training learns the names of roles before answers, and the mark before a question, too, as the original does."""

    @property
    def stop(self) -> str:
        """The text before which an answer is cut; empty where its end is white space, which a token id stops at."""
        return self.end.strip()


_EOS = ("eos_token",)
NAMED: Mapping[str, Style] = {
    "vicuna_v1": Style(prefix=True, needs=_EOS),
    "llava_plain": Style(prefix=True, end="\n", drops=frozenset({"user"})),
    "llama_2": Style(prefix=True, needs=("bos_token", "eos_token")),
    "chatml": Style(needs=("<|im_start|>", "<|im_end|>")),
    "alpaca": Style(prefix=True, needs=_EOS),
    "clever_flamingo": Style(prefix=True, needs=("eos_token", "<|endofchunk|>")),
    "cogvlm_base": Style(prefix=True, needs=_EOS),
    "cogvlm_chat": Style(prefix=True, needs=_EOS),
    "cogvlm_vqa": Style(prefix=True, needs=_EOS),
    "fuyu": Style(prefix=True, needs=_EOS),
    "husky": Style(prefix=True, needs=_EOS),
    "internlm": Style(prefix=True, needs=("<TOKENS_UNUSED_0>", "<TOKENS_UNUSED_1>")),
    "lavin": Style(prefix=True, needs=_EOS),
    "minigpt_4": Style(prefix=True, end="###"),
    "minigpt_v2": Style(prefix=True, needs=("bos_token", "eos_token")),
    "mplug_owl": Style(prefix=True, needs=_EOS),
    "mplug_owl2": Style(prefix=True, needs=_EOS),
    "multimodal_gpt": Style(prefix=True, needs=("bos_token", "eos_token")),
    "otter": Style(prefix=True, end="<|endofchunk|>", needs=("eos_token", "<answer>", "<|endofchunk|>")),
    "pandagpt": Style(prefix=True, end="\n###"),
    "plain_text": Style(needs=_EOS),
    "sparkles": Style(prefix=True, end="###"),
    "vicuna_v0": Style(prefix=True, end="\n###", roles=True),
    "video_llama": Style(prefix=True, end="\n###", roles=True),
}
"""The templates of `templates/*.jinja`."""


@dataclass(frozen=True)
class TemplateSource:
    """A template before it is compiled."""

    text: str
    """Jinja."""
    style: Style
    label: str
    """What errors call it."""
    named: bool
    """It is one of `NAMED`."""


def source_of(tokenizer: PreTrainedTokenizerBase, template: str | ChatTemplate | None) -> TemplateSource:
    """The Jinja text of a template and its properties.

    Args:
        tokenizer: has the default template.
        template: None for the tokenizer's own; a name in `NAMED`, or Jinja; or a block of a recipe.

    Raises:
        RecipeError: there is no such template, or the block sets nothing.
    """
    block = template if isinstance(template, ChatTemplate) else ChatTemplate(template)
    text, named = _text(tokenizer, block.jinja), block.jinja in NAMED
    style = NAMED.get(block.jinja or "", Style())
    if block.end:
        style = replace(style, end=block.end)
    if block.bos is not None:
        style = replace(style, prefix=block.bos)
    return TemplateSource(text, style, f"template {block.jinja!r}" if named else "the chat template", named)


def _text(tokenizer: PreTrainedTokenizerBase, template: str | None) -> str:
    if template in NAMED:
        return resources.files("omnivit.data").joinpath("templates", f"{template}.jinja").read_text(encoding="utf-8")
    if template is None:
        return _default(tokenizer)
    if "{{" in template or "{%" in template:
        return template
    raise RecipeError(f"There is no chat template {template!r}; {suggest(template, NAMED)} Jinja text works too.")


def _default(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise RecipeError(
            f"The tokenizer has no chat template of its own. Choose one with `template: ...`. {suggest('', NAMED)}"
        ) from error
