"""A tokenizer that tells the template's control tokens from the same characters typed by somebody.

A Hugging Face tokenizer finds its added tokens (`</s>`, `<|im_end|>`, ...) wherever their text stands, so a person who
types that text could end a turn or speak as the assistant. Here a private copy of the tokenizer knows every control
token by another, unguessable name. The template's own occurrences are renamed before encoding, a person's are not.
All else (normalisation, splitting, merges, the flags of added tokens) is the tokenizer's own, and one call encodes
the whole text, so the ids are those of the plain tokenizer wherever nobody typed a control token.

Tokens that a recipe declares as `markup` are tokens in answers too, where the model is to learn them, and nowhere else.

This module knows no roles and no templates.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import secrets
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from omnivit.data.bounded import CHARACTERS, GROWTH, LONGEST, beginning, check_size, size_of
from omnivit.data.places import Places
from omnivit.data.run import Run
from omnivit.errors import DataError, RecipeError, suggest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PRIVATE = 0xE000
"""Start of Unicode's private use area: no normaliser touches it."""
ANY = "*"
"""The declaration of every token that the tokenizer does not call special."""
SLACK = 64
"""Tokens by which a text that is cut anywhere may differ at its end."""


@dataclass(frozen=True)
class Token:
    """A token id and the runs that it has at least one character of."""

    id: int
    runs: tuple[int, ...]


def secret_name() -> str:
    """16 private-use characters that nobody can guess, to name what must never be confused with text."""
    return "".join(chr(_PRIVATE + byte) for byte in secrets.token_bytes(16))


def is_control(token: AddedToken) -> bool:
    """Whether an added token may come from the template only.

    All are, save white space that is not special: some tokenizers (GPT-NeoX, Gemma) add runs of spaces or line feeds,
    and those are ordinary text.
    """
    return bool(token.special) or not token.content.isspace()


class GuardedTokenizer:
    """Encodes runs of text; see the module's docstring.

    Args:
        tokenizer: a transformers tokenizer that is backed by the `tokenizers` library.
        markup: control tokens that are such in runs of `markup` too: their texts, or globs over those that the
            tokenizer does not call special.

    Attributes:
        markup: the texts of those tokens.
        controls: text of each control token -> its id.
        prefix: ids that the tokenizer itself puts before a text (a BOS, as a rule).
        digest: SHA-256 of the tokenizer's definition.

    Raises:
        RecipeError: the tokenizer has no such backend, or no token that `markup` names.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, markup: Sequence[str] = ()) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise RecipeError(
                f"The tokenizer ({type(tokenizer).__name__}) reports no character offsets, which the labels need. "
                "Use one backed by the `tokenizers` library (a folder with a tokenizer.json)."
            )
        self._tokenizer = tokenizer
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
        # Special tokens, and only those, are passed over from here on: that is what the old names become.
        copy.add_special_tokens([AddedToken(token.content, special=True) for token in added.values()])
        copy.encode_special_tokens = True
        # ByteLevel's post-processor would take the spaces out of the offsets.
        copy.post_processor = None
        self._ids = {copy.token_to_id(self._names[content]): id for content, id in self.controls.items()}
        self._break_id = copy.token_to_id(self._break)
        self._contents = {id: content for content, id in self.controls.items()}
        self._copy = copy

    def __reduce__(self) -> tuple[Any, ...]:
        return GuardedTokenizer, (self._tokenizer, tuple(sorted(self.markup)))

    def hold_back(self, tokens: Collection[str]) -> None:
        """Take tokens out of the markup."""
        self.markup -= frozenset(tokens)

    def controls_in(self, text: str) -> Iterator[str]:
        """The control tokens whose texts stand in `text`."""
        if not self._firsts.isdisjoint(text):  # a thousand tokens are not to be tried at every letter of every answer
            yield from (found.group() for found in self._pattern.finditer(text))

    def end_of(self, text: str) -> str:
        """The white space and control token that `text` begins with; empty if it begins otherwise."""
        found = self._end.match(text)
        return found.group() if found else ""

    def encode(self, runs: Sequence[Run]) -> list[Token]:
        """Encode the runs as one text, in which only runs that are not typed hold control tokens.

        Raises:
            DataError: the tokenizer's model makes a control token of typed text, and it cannot be spelled otherwise.
        """
        tokens, forged = self._encode(runs, broken=False)
        if forged:
            # The model itself (Unigram, as a rule) has the token in its vocabulary: spell it letter by letter.
            tokens, forged = self._encode(runs, broken=True)
        if forged:
            raise DataError(
                f"The text holds {forged!r}, and this tokenizer cannot write that other than by its control token. "
                "Remove it from the text."
            )
        return tokens

    def encode_first(self, runs: Sequence[Run], limit: int, exact: bool) -> tuple[list[Token], bool]:
        """Encode no more of the runs than it takes to know their first tokens.

        Args:
            runs: as `encode`.
            limit: tokens that are wanted.
            exact: the first `limit` tokens are wanted as they are; else only whether there are more of them.

        Returns:
            All tokens and False; or, where there are more than `limit`, the first of them, at least `limit`, and True.

        Raises:
            DataError: as `encode`; or the text is too long, and cannot be cut.
        """
        characters, size = CHARACTERS * (limit + 1), size_of(runs)
        while characters < size:
            part, enough = self._beginning(runs, characters, exact), limit
            if part is None and not exact:
                # Near such a cut tokens are others than in the whole: far more than the limit is too many for sure.
                part, enough = beginning(runs, characters, None), 2 * limit + SLACK
            if part is None:
                break
            tokens = self.encode(part)
            if len(tokens) > enough:
                return tokens, True
            characters = GROWTH * size_of(part)
        if exact and size > characters:
            check_size(runs)
        return self.encode(runs), False

    def _beginning(self, runs: Sequence[Run], characters: int, exact: bool) -> list[Run] | None:
        """The runs up to a place where no token reaches across; None: none is there, or too far away to be of use."""
        part = beginning(runs, characters, self._places)
        far = part is not None and size_of(part) > (LONGEST if exact else GROWTH * characters)
        return None if far else part

    @cached_property
    def _places(self) -> Places:
        """Made when a text is long: it holds the vocabulary."""
        model: Any = self._copy.model
        normalizer: Any = self._copy.normalizer
        kind = type(model).__name__
        marked = any(getattr(model, name, None) for name in ("continuing_subword_prefix", "end_of_word_suffix"))
        inside = kind == "Unigram" or (kind == "BPE" and not marked and not getattr(model, "ignore_merges", False))
        return Places(self._copy.get_vocab(), normalizer.normalize_str if normalizer else str, inside)

    def _encode(self, runs: Sequence[Run], broken: bool) -> tuple[list[Token], str | None]:
        texts = [self._text(run, broken) for run in runs]
        starts = [0]
        for text in texts:
            starts.append(starts[-1] + len(text))
        whole = "".join(texts)
        encoding = self._copy.encode(whole, add_special_tokens=False)
        tokens = []
        for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if id == self._break_id:
                continue
            first, last = bisect_right(starts, start) - 1, bisect_right(starts, max(start, end - 1)) - 1
            touched = tuple(index for index in range(first, last + 1) if index < len(runs) and texts[index])
            # Unknown characters make the unknown token, which is a control token too: that is no forgery.
            if whole[start:end].strip() == self._contents.get(id) and any(runs[index].typed for index in touched):
                return [], self._contents[id]
            tokens.append(Token(self._ids.get(id, id), touched))
        return tokens, None

    def _text(self, run: Run, broken: bool) -> str:
        if run.typed and not broken and not (run.markup and self.markup):
            return run.text
        return self._pattern.sub(lambda found: self._spelled(found.group(), run, broken), run.text)

    def _spelled(self, token: str, run: Run, broken: bool) -> str:
        """The text of a control token in a run: by its secret name where it is one there, else as plain text."""
        if not run.typed or (run.markup and token in self.markup):
            return self._names[token]
        return self._break.join(token) if broken else token


def _renamed(token: AddedToken, name: str) -> AddedToken:
    # normalized=False: the name is found before normalisation, whatever the normaliser does to text.
    return AddedToken(name, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False, special=False)


def _matching(patterns: Sequence[str], tokens: Sequence[AddedToken]) -> Iterator[str]:
    """The texts of the tokens that are declared: named as they are, or by a glob over those that are not special."""
    names = [token.content for token in tokens]
    ordinary = [token.content for token in tokens if not token.special]
    for pattern in patterns:
        found = [pattern] if pattern in names else fnmatch.filter(ordinary, pattern)
        if not found and pattern != ANY:
            raise RecipeError(
                f"the tokenizer has no token {pattern!r}; {suggest(pattern, names)} (A glob such as '<loc*>' "
                "means "
                "tokens that the tokenizer does not call special; name special ones in full.)"
            )
        yield from found


def _prefix(tokenizer: Tokenizer) -> Iterator[int]:
    encoding = tokenizer.encode("a", add_special_tokens=True)
    for id, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
        if not special:
            return
        yield id
