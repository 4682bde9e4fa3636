"""A tokenizer that tells the template's control tokens from the same characters typed by somebody.

A Hugging Face tokenizer finds its added tokens (`</s>`, `<|im_end|>`, ...) wherever their text stands, so a person who
types that text could end a turn or speak as the assistant. Here a private copy of the tokenizer knows every control
token by another, unguessable name. The template's own occurrences are renamed before encoding, a person's are not.
All else (normalisation, splitting, merges, the flags of added tokens) is the tokenizer's own, and one call encodes
the whole text, so the ids are those of the plain tokenizer wherever nobody typed a control token.

This module knows no roles and no templates.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from omnivit.errors import DataError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PRIVATE = 0xE000
"""Start of Unicode's private use area: no normaliser touches it."""


@dataclass(frozen=True)
class Run:
    """A stretch of text. `typed`: somebody wrote it, so no control token may come of it."""

    text: str
    typed: bool = False


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

    Attributes:
        controls: text of each control token -> its id.
        prefix: ids that the tokenizer itself puts before a text (a BOS, as a rule).
        digest: SHA-256 of the tokenizer's definition.

    Raises:
        RecipeError: the tokenizer has no such backend.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
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
        self._rename(copy, added)
        longest_first = sorted(self.controls, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
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
        return GuardedTokenizer, (self._tokenizer,)

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
        if not run.typed:
            return self._pattern.sub(lambda found: self._names[found.group()], run.text)
        if broken:
            return self._pattern.sub(lambda found: self._break.join(found.group()), run.text)
        return run.text


def _renamed(token: AddedToken, name: str) -> AddedToken:
    # normalized=False: the name is found before normalisation, whatever the normaliser does to text.
    return AddedToken(name, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False, special=False)


def _prefix(tokenizer: Tokenizer) -> Iterator[int]:
    encoding = tokenizer.encode("a", add_special_tokens=True)
    for id, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
        if not special:
            return
        yield id
