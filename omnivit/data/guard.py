"""A tokenizer that distinguishes the template's control tokens from the same characters typed by a person.

A Hugging Face tokenizer encodes its added tokens (`</s>`, `<|im_end|>`, ...) wherever their text occurs, so a person
who types that text could end a turn or speak as the assistant. Here a private copy of the tokenizer knows every control
token by another, unguessable name. The template's occurrences are renamed before encoding, a person's are not.
Everything else (normalization, splitting, merges, the flags of added tokens) is the tokenizer's own, and one call
encodes the entire text, so the ids are those of the plain tokenizer wherever nobody typed a control token.

Tokens that a recipe declares as `markup` are also tokens in answers, because the model learns to write them, and
nowhere else.

This module knows no roles and no templates.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import secrets
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from omnivit.data.cut_points import CutPoints
from omnivit.data.long_text import CHARACTERS, GROWTH, LONGEST, beginning, check_size, size_of
from omnivit.data.text_span import TextSpan
from omnivit.errors import DataError, RecipeError, suggest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PRIVATE = 0xE000
"""Start of Unicode's private use area: normalizers do not change it."""
ANY = "*"
"""The declaration of every token that the tokenizer does not call special."""
SLACK = 64
"""The number of tokens by which a text that is cut anywhere may differ at its end."""

_SHORT, _KEPT = 256, 1024
"""Texts of up to this many characters are encoded once, and the tokens of this many are kept (about 10 MB at most):
what a template writes before a question, common questions, and the answers of a few classes."""


@dataclass(frozen=True)
class GuardedToken:
    """A token id, and the indices of the spans of which it covers at least one character."""

    id: int
    spans: tuple[int, ...]


def secret_name() -> str:
    """16 private-use characters that nobody can guess: a name that cannot occur in a text."""
    return "".join(chr(_PRIVATE + byte) for byte in secrets.token_bytes(16))


def is_control(token: AddedToken) -> bool:
    """Whether an added token may come from the template only.

    All may, except white space that is not special: some tokenizers (GPT-NeoX, Gemma) add sequences of spaces or line
    feeds, and those are ordinary text.
    """
    return bool(token.special) or not token.content.isspace()


class GuardedTokenizer:
    """Encodes spans of text; see the module's docstring.

    Args:
        tokenizer: a transformers tokenizer that is backed by the `tokenizers` library.
        markup: control tokens that are also control tokens in spans of `markup`: their texts, or globs over the
            tokens that the tokenizer does not call special.

    Attributes:
        markup: the texts of those tokens.
        controls: text of each control token -> its id.
        prefix: ids that the tokenizer itself puts before a text (usually a BOS).
        digest: SHA-256 of the tokenizer's definition.

    Raises:
        RecipeError: the tokenizer has no such backend, or `markup` names a token that it does not have.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, markup: Sequence[str] = ()) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise RecipeError(
                f"The tokenizer ({type(tokenizer).__name__}) reports no character offsets, which are needed to compute "
                "the labels. Use one that is backed by the `tokenizers` library (a folder with a tokenizer.json)."
            )
        self._tokenizer = tokenizer
        self._short = dict[tuple[TextSpan, ...], tuple[GuardedToken, ...]]()
        copy = Tokenizer.from_str(backend.to_str())
        copy.no_truncation()
        copy.no_padding()
        self.digest = hashlib.sha256(copy.to_str().encode()).hexdigest()
        self.prefix = tuple(_prefix(copy))
        added = {id: token for id, token in copy.get_added_tokens_decoder().items() if is_control(token)}
        self.controls = {token.content: id for id, token in added.items()}
        self.markup = frozenset(_matching(markup, list(added.values())))
        self._rename(copy, added)
        longest_first = sorted(self.controls, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._firsts = frozenset(token[0] for token in longest_first if token)
        self._end = re.compile(rf"\s*(?:{self._pattern.pattern})")

    def _rename(self, copy: Tokenizer, added: dict[int, AddedToken]) -> None:
        secret = secret_name()
        self._names = {token.content: f"{secret}{id}{secret}" for id, token in added.items()}
        self._break = f"{secret}break{secret}"
        copy.add_tokens([_renamed(token, self._names[token.content]) for token in added.values()])
        copy.add_tokens([AddedToken(self._break, normalized=False)])
        # With `encode_special_tokens` a special token's text is encoded as plain text: so the old names lose their ids.
        copy.add_special_tokens([AddedToken(token.content, special=True) for token in added.values()])
        copy.encode_special_tokens = True
        # ByteLevel's post-processor would remove the spaces from the offsets.
        copy.post_processor = None
        self._ids = {copy.token_to_id(self._names[content]): id for content, id in self.controls.items()}
        self._break_id = copy.token_to_id(self._break)
        self._contents = {id: content for content, id in self.controls.items()}
        self._copy = copy

    def __reduce__(self) -> tuple[Any, ...]:
        return GuardedTokenizer, (self._tokenizer, tuple(sorted(self.markup)))

    def hold_back(self, tokens: Collection[str]) -> None:
        """Remove tokens from the markup."""
        self.markup -= frozenset(tokens)
        self._short.clear()

    def controls_in(self, text: str) -> Iterator[str]:
        """The control tokens whose texts occur in `text`."""
        if not self._firsts.isdisjoint(text):  # a pattern of a thousand tokens is slow at every letter of every answer
            yield from (match.group() for match in self._pattern.finditer(text))

    def end_of(self, text: str) -> str:
        """The white space and control token that `text` begins with; empty if it begins otherwise."""
        match = self._end.match(text)
        return match.group() if match else ""

    def encode(self, spans: Sequence[TextSpan]) -> list[GuardedToken]:
        """Encode the spans as one text, in which only spans that are not typed contain control tokens.

        Raises:
            DataError: the tokenizer's model encodes typed text as a control token, and has no other spelling for it.
        """
        key = tuple(spans)
        if (kept := self._short.get(key)) is not None:
            return list(kept)
        tokens = self._encode_all(spans)
        if size_of(spans) <= _SHORT:
            if len(self._short) >= _KEPT:
                with suppress(KeyError, RuntimeError):  # another thread was faster
                    self._short.pop(next(iter(self._short)))  # the oldest
            self._short[key] = tuple(tokens)
        return tokens

    def _encode_all(self, spans: Sequence[TextSpan]) -> list[GuardedToken]:
        tokens, forged = self._encode(spans, broken=False)
        if forged:
            # The model itself (usually Unigram) has the token in its vocabulary: spell it character by character.
            tokens, forged = self._encode(spans, broken=True)
        if forged:
            raise DataError(
                f"The text contains {forged!r}, and this tokenizer can encode it only as its control token. Remove it "
                "from the text."
            )
        return tokens

    def encode_first(self, spans: Sequence[TextSpan], limit: int, exact: bool) -> tuple[list[GuardedToken], bool]:
        """Encode no more of the spans than is needed to know their first tokens.

        Args:
            spans: as `encode`.
            limit: the number of tokens that are needed.
            exact: True: the first `limit` tokens must be exact; False: only whether there are more matters.

        Returns:
            All tokens and False; or, where there are more than `limit`, the first of them, at least `limit`, and True.

        Raises:
            DataError: as `encode`; or the text is too long and cannot be cut.
        """
        characters, size = CHARACTERS * (limit + 1), size_of(spans)
        while characters < size:
            part, enough = self._beginning(spans, characters, exact), limit
            if part is None and not exact:
                # Tokens near an arbitrary cut differ from those of the full text. So only a number far above the limit
                # proves that there are more.
                part, enough = beginning(spans, characters, None), 2 * limit + SLACK
            if part is None:
                break
            tokens = self.encode(part)
            if len(tokens) > enough:
                return tokens, True
            characters = GROWTH * size_of(part)
        if exact and size > characters:
            check_size(spans)
        return self.encode(spans), False

    def _beginning(self, spans: Sequence[TextSpan], characters: int, exact: bool) -> list[TextSpan] | None:
        """The spans up to a cut point; None: there is none, or it is too far away to save work."""
        part = beginning(spans, characters, self._cut_points)
        far = part is not None and size_of(part) > (LONGEST if exact else GROWTH * characters)
        return None if far else part

    @cached_property
    def _cut_points(self) -> CutPoints:
        """Built only for a long text, because it keeps the vocabulary in memory."""
        model: Any = self._copy.model
        normalizer: Any = self._copy.normalizer
        kind = type(model).__name__
        marked = any(getattr(model, name, None) for name in ("continuing_subword_prefix", "end_of_word_suffix"))
        inside = kind == "Unigram" or (kind == "BPE" and not marked and not getattr(model, "ignore_merges", False))
        return CutPoints(self._copy.get_vocab(), normalizer.normalize_str if normalizer else str, inside)

    def _encode(self, spans: Sequence[TextSpan], broken: bool) -> tuple[list[GuardedToken], str | None]:
        """The tokens of the spans and None; or no tokens and the control token that typed text became."""
        texts = [self._text(span, broken) for span in spans]
        starts = [0]
        for text in texts:
            starts.append(starts[-1] + len(text))
        joined = "".join(texts)
        encoding = self._copy.encode(joined, add_special_tokens=False)
        tokens = []
        for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if id == self._break_id:
                continue
            # offsets -> the spans that the token covers; a token of no characters belongs to the span at its start
            first, last = bisect_right(starts, start) - 1, bisect_right(starts, max(start, end - 1)) - 1
            touched = tuple(index for index in range(first, last + 1) if index < len(spans) and texts[index])
            # Unknown characters become the unknown token, which is a control token too: that is not a forgery.
            if joined[start:end].strip() == self._contents.get(id) and any(spans[index].typed for index in touched):
                return [], self._contents[id]
            tokens.append(GuardedToken(self._ids.get(id, id), touched))
        return tokens, None

    def _text(self, span: TextSpan, broken: bool) -> str:
        if span.typed and not broken and not (span.markup and self.markup):
            return span.text
        return self._pattern.sub(lambda match: self._spelled(match.group(), span, broken), span.text)

    def _spelled(self, token: str, span: TextSpan, broken: bool) -> str:
        """The text to encode for a control token's text: its secret name if it is a token in this span, else itself."""
        if not span.typed or (span.markup and token in self.markup):
            return self._names[token]
        return self._break.join(token) if broken else token


def _renamed(token: AddedToken, name: str) -> AddedToken:
    # normalized=False: the name is matched before normalization, so no normalizer can change it.
    return AddedToken(name, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False, special=False)


def _matching(patterns: Sequence[str], tokens: Sequence[AddedToken]) -> Iterator[str]:
    """The texts of the tokens that are declared, by their full text or by a glob over those that are not special."""
    names = [token.content for token in tokens]
    ordinary = [token.content for token in tokens if not token.special]
    for pattern in patterns:
        matching = [pattern] if pattern in names else fnmatch.filter(ordinary, pattern)
        if not matching and pattern != ANY:
            raise RecipeError(
                f"the tokenizer has no token {pattern!r}; {suggest(pattern, names)} (A glob such as '<loc*>' matches "
                "only tokens that are not special; write special tokens in full.)"
            )
        yield from matching


def _prefix(tokenizer: Tokenizer) -> Iterator[int]:
    encoding = tokenizer.encode("a", add_special_tokens=True)
    for id, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
        if not special:
            return
        yield id
