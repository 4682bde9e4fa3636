"""A tokenizer of the `tokenizers` library -> the vocabulary of a GGUF file.

Two kinds can be written: BPE over bytes (GPT-2, Llama 3, Qwen, SmolLM), and BPE over text with bytes as a fallback, as
SentencePiece's models are converted (Llama 1 and 2, Vicuna, Mistral, Gemma). llama.cpp cuts text into words by rules in
its code, chosen by a name (`tokenizer.ggml.pre`). A tokenizer with other rules is refused, because ids would differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnivit.data.chat import Chat
from omnivit.errors import CheckpointError
from omnivit.model.causal import CausalLM
from omnivit.model.weights import is_gguf, locate

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens (`llama_token_type`)."""
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = QWEN.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
PRE = {QWEN: "qwen2", LLAMA_3: "llama-bpe"}
"""Expression that cuts words -> its name in llama.cpp."""


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF says about a tokenizer."""

    model: str
    tokens: Sequence[str]
    types: Sequence[int]
    ids: Mapping[str, int]
    """`bos`, `eos`, ... -> id."""
    add_bos: bool
    pre: str | None = None
    scores: Sequence[float] | None = None
    merges: Sequence[str] | None = None
    flags: Mapping[str, bool] = field(default_factory=dict)
    """Further settings, by their keys."""

    def write(self, writer: Any) -> None:
        """Write all keys `tokenizer.ggml.*`."""
        writer.add_tokenizer_model(self.model)
        if self.pre is not None:
            writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        if self.scores is not None:
            writer.add_token_scores(list(self.scores))
        if self.merges is not None:
            writer.add_token_merges(list(self.merges))
        for name, id in self.ids.items():
            getattr(writer, f"add_{name}_token_id")(id)
        writer.add_add_bos_token(self.add_bos)
        for key, flag in self.flags.items():
            writer.add_bool(key, flag)


def vocabulary_of(llm: CausalLM, chat: Chat, rows: int) -> Vocabulary:
    """The vocabulary of an LLM's tokenizer, with a token for each of the `rows` of its table.

    Raises:
        CheckpointError: llama.cpp has no such tokenizer.
    """
    tokenizer = llm.tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        raise CheckpointError(f"The tokenizer is of type {model['type']}, which cannot be written as GGUF. Known: BPE.")
    by_id = {id: text for text, id in tokenizer.get_vocab().items()}
    tokens = [by_id.get(id, f"[PAD{id}]") for id in range(rows)]
    types = [NORMAL if id in by_id else UNUSED for id in range(rows)]
    for id, token in tokenizer.added_tokens_decoder.items():
        types[id] = CONTROL if token.special else USER
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    ids = {name: id for name, id in ids.items() if id is not None}
    if chat.stop_ids:  # the end of a turn; llama.cpp stops at EOS and at EOT
        ids["eot"] = next((id for id in reversed(chat.stop_ids) if id != ids.get("eos")), chat.stop_ids[0])
    add_bos = bool(chat._prefix) and "bos_token" not in chat._template.text
    parts = Vocabulary("", tokens, types, ids, add_bos)
    return _sentencepiece(parts, content) if model.get("byte_fallback") else _bytes(parts, content, llm)


def _bytes(parts: Vocabulary, content: Mapping[str, Any], llm: CausalLM) -> Vocabulary:
    pre = _words(content, llm)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    # llama.cpp refuses a file without any; of single characters, with which it begins, these never come
    merges = merges or ["<none> <none>"]
    return Vocabulary("gpt2", parts.tokens, parts.types, parts.ids, parts.add_bos, pre, merges=merges)


def _words(content: Mapping[str, Any], llm: CausalLM) -> str:
    """llama.cpp's name for the rule that cuts text into words."""
    if not content["model"]["merges"]:
        return "gpt-2"  # single bytes, whatever the words
    if (name := _name_in_source(llm)) is not None:
        return name
    rule = content["pre_tokenizer"] or {}
    steps = rule.get("pretokenizers", [rule])
    kinds = [step.get("type") for step in steps]
    last = steps[-1]
    if kinds[-1] == "ByteLevel" and not last.get("add_prefix_space"):
        if kinds == ["ByteLevel"] and last.get("use_regex", True):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and last.get("use_regex", True):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not last.get("use_regex", True):
            pattern = steps[0]["pattern"].get("Regex", "")
            if steps[0]["behavior"] == "Isolated" and pattern in PRE:
                return PRE[pattern]
    raise CheckpointError(
        f"The tokenizer cuts text into words by a rule that has no known name in llama.cpp: {json.dumps(rule)[:300]} "
        f"Known: those of GPT-2, SmolLM, Qwen 2 and 3, Llama 3."
    )


def _name_in_source(llm: CausalLM) -> str | None:
    """The name in the GGUF file that the LLM comes from, if it comes from one."""
    place = None if llm.config.path is None or llm.config.tokenizer is not None else locate(llm.config.path)
    if not isinstance(place, Path) or not is_gguf(place):
        return None
    import gguf

    pre = gguf.GGUFReader(place).get_field("tokenizer.ggml.pre")
    return None if pre is None else str(pre.contents())


def _sentencepiece(parts: Vocabulary, content: Mapping[str, Any]) -> Vocabulary:
    """SentencePiece joins the two neighbours whose joined piece has the best score; BPE, whose pair is first in a list.

    The list was made from the scores, so the place of a piece in it is a score of the same order.
    """
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in content["model"]["merges"]]
    first: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        first.setdefault(left + right, rank)
    _check_order(merges, first)
    scores = [-float(first.get(token, 0)) for token in parts.tokens]
    types = list(parts.types)
    for id, token in enumerate(parts.tokens):
        if token.startswith("<0x") and len(token) == 6 and types[id] == NORMAL:
            types[id] = BYTE
    if "unk" in parts.ids:
        types[parts.ids["unk"]] = UNKNOWN
    flags = {"tokenizer.ggml.add_space_prefix": _adds_space(content)}
    return Vocabulary("llama", parts.tokens, types, parts.ids, parts.add_bos, None, scores, None, flags)


def _check_order(merges: Sequence[tuple[str, ...]], first: Mapping[str, int]) -> None:
    """Check that all pairs that give a piece have the same place among those of other pieces."""
    highest = -1
    for left, right in merges:
        rank = first[left + right]
        if rank < highest:
            raise CheckpointError(
                f"The tokenizer joins {left!r} and {right!r} after pieces of lower rank, which the scores of GGUF's "
                "SentencePiece tokenizer cannot express."
            )
        highest = rank


def _adds_space(content: Mapping[str, Any]) -> bool:
    """Whether a space goes before the first word."""
    normalizer, words = content["normalizer"] or {}, content["pre_tokenizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    prepends = any(step.get("type") == "Prepend" for step in steps)
    return prepends or (words.get("type") == "Metaspace" and words.get("prepend_scheme") in ("first", "always"))
