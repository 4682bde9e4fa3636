"""Chat: conversation -> token ids, labels, and the rows that are reserved for media.

Laws kept here: a medium takes exactly the rows that its adapter will fill (1, 2); labels follow from roles while the
text is put together, never from a search for patterns afterwards (4); no text that a person typed becomes a control
token or a placeholder (`omnivit.data.guard`).

Supervised is what the model will have to say by itself: the assistant's words, what the template writes before them
and does not give in a generation prompt (the space after `ASSISTANT:`), and what ends the turn (the first control token
after the words, or the line feed of `llava_plain`). A token is supervised if it has at least one character of these. A
template that writes no control token after an answer teaches no end.

Ids and labels are those of LLaVA's train.py, with these exceptions: it counts the tokens of rounds that it encodes
again to place its labels, and masks the whole conversation when the count does not come out (a tokenizer that is not
"legacy", several rounds); here that cannot happen. An empty answer, which it takes for the opening of a turn, is an
answer here.

Shapes: T tokens, media rows included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from omnivit.data.collate import IGNORE, Span
from omnivit.data.guard import GuardedTokenizer, Run
from omnivit.data.sample import Media, Message, Text
from omnivit.data.template import Segment, Template
from omnivit.errors import DataError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Supervise = Literal["all", "last"]


@dataclass(frozen=True)
class EncodedChat:
    """A conversation in tokens."""

    ids: Tensor
    """[T] int64; a reserved id at the rows of media, which the model never embeds."""
    labels: Tensor
    """[T] int64, the token id where it is supervised, IGNORE elsewhere; not shifted."""
    spans: tuple[Span, ...]
    """The place of each medium, in the order of the messages."""
    targets: tuple[int, ...] = ()
    """The place of each head's token, in the order of the messages."""


@dataclass(frozen=True)
class _Piece:
    """A segment on its way to tokens."""

    run: Run
    supervised: bool = False
    medium: int | None = None
    target: bool = False


class Chat:
    """Encodes conversations for one tokenizer and one template. Picklable; holds no weights.

    Args:
        tokenizer: a transformers tokenizer backed by the `tokenizers` library.
        template: None for the tokenizer's own chat template; `vicuna_v1`, `llava_plain`, `llama_2`, `chatml`; or Jinja.
        placeholders: slot -> the text that the template writes for a medium, such as `{"image": "<image>"}` for a
            checkpoint whose own template takes typed content parts. Where that text is a token of the tokenizer, its
            id stands at the medium's rows and the text around it is encoded as beside that token; else the text before
            and after a medium is encoded apart, as LLaVA does.
        add_special_tokens: put the tokenizer's BOS first, unless the template writes it. The named templates but
            `chatml` always do.
        tokens: head -> the token that stands for its targets, one of the tokenizer's own.

    Attributes:
        pad_id: id for padding, and for media without a token of their own.
        stop_ids: ids that end an answer: the tokenizer's EOS and the template's end of turn.

    Raises:
        RecipeError: the template is unknown, missing, or does not fit the tokenizer; the tokenizer has no offsets.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None = None,
        placeholders: Mapping[str, str] | None = None,
        add_special_tokens: bool = False,
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        self._given = (tokenizer, template, placeholders, add_special_tokens)
        self._tokenizer = tokenizer
        self._guard = GuardedTokenizer(tokenizer)
        self._placeholders, self._heads = dict(placeholders or {}), dict(tokens or {})
        for head, token in self._heads.items():
            if token not in self._guard.controls:
                raise RecipeError(f"The token {token!r} of head {head!r} is no token of the tokenizer.")
        self._template = Template(tokenizer, template, self._placeholders, self._heads)
        self._prefix = self._guard.prefix if add_special_tokens or self._template.style.prefix else ()
        reserved = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id, 0)
        self.pad_id: int = next(id for id in reserved if id is not None)
        self._lead, end = self._habits()
        eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        stop = [token.id for token in self._guard.encode([Run(end)])][-1:]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(eos + stop))

    def with_heads(self, tokens: Mapping[str, str]) -> Chat:
        """The same for conversations that hold targets; head -> its token.

        Raises:
            RecipeError: the tokenizer has no such token.
        """
        return Chat(*self._given, tokens=tokens)

    def token_ids(self) -> dict[str, int]:
        """Head -> the id of its token."""
        return {head: self._guard.controls[token] for head, token in self._heads.items()}

    def encode(
        self,
        messages: Sequence[Message],
        lengths: Sequence[int],
        generate: bool = False,
        supervise: Supervise = "all",
    ) -> EncodedChat:
        """Encode a conversation.

        Args:
            messages: at least one.
            lengths: rows of each medium, in the order of the messages.
            generate: end with the opening of the assistant's turn; nothing is supervised.
            supervise: `all` assistant messages or only the `last`.

        Raises:
            DataError: the template refuses or loses a part of the conversation, the lengths do not fit the media,
                nothing is supervised, or the text cannot be written in plain tokens.
        """
        media = [part for message in messages for part in message.parts if isinstance(part, Media)]
        _check_lengths(media, lengths)
        segments = self._template.render(messages, generate)
        pieces = self._pieces(segments, set() if generate else _assistant_turns(messages, supervise))
        ids = list(self._opening(segments))
        labels = [IGNORE] * len(ids)
        spans: dict[int, Span] = {}
        targets = []
        for id, supervised, medium, target in self._tokens(pieces):
            rows = 1 if medium is None else lengths[medium]
            if medium is not None:
                spans[medium] = Span(media[medium].slot, len(ids), rows)
            if target:
                targets.append(len(ids))
            ids += [id] * rows
            labels += [id if supervised and medium is None else IGNORE] * rows
        if not ids:
            raise DataError(f"{self._template.label} makes nothing of the conversation: there is not a single token.")
        if not generate and all(label == IGNORE for label in labels):
            raise DataError("No token is supervised: the conversation holds no answer of the assistant to learn from.")
        found = tuple(spans[index] for index in range(len(media)))
        return EncodedChat(torch.tensor(ids), torch.tensor(labels), found, tuple(targets))

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Token ids [T] -> text, without special tokens."""
        values = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        text = self._tokenizer.decode(values, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def fingerprint(self) -> str:
        """Changes with whatever changes the tokens: tokenizer, template, placeholders. 16 hex digits."""
        facts = [self._guard.digest, self._template.text, sorted(self._placeholders.items()), self._prefix, self.pad_id]
        facts += [sorted(self._heads.items())] if self._heads else []
        facts.append(sorted((name, str(token)) for name, token in self._tokenizer.special_tokens_map.items()))
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _opening(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        bos = self._tokenizer.bos_token
        first = segments[0] if segments else Segment("")
        return () if bos and first.turn is None and first.text.startswith(bos) else self._prefix

    def _pieces(self, segments: Sequence[Segment], supervised: Set[int]) -> list[_Piece]:
        """Mark what is learnt: the content of the supervised turns, what leads to it, and what ends it."""
        pieces = []
        turn = None
        for index, segment in enumerate(segments):
            if segment.medium is not None:
                pieces.append(_Piece(Run(segment.text), medium=segment.medium))
            elif segment.turn is not None:
                run = Run(segment.text, typed=not segment.target)
                pieces.append(_Piece(run, segment.turn in supervised, target=segment.target))
            else:
                following = segments[index + 1].turn if index + 1 < len(segments) else None
                ends, leads = (near in supervised and turn != following for near in (turn, following))
                pieces += self._literal(segment.text, ends, leads)
            turn = segment.turn
        return pieces

    def _literal(self, text: str, ends: bool, leads: bool) -> list[_Piece]:
        """The template's own text after (`ends`) or before (`leads`) supervised content, in pieces."""
        end = self._end_of(text) if ends else ""
        lead = self._lead if leads and text[len(end) :].endswith(self._lead) else ""
        middle = text[len(end) : len(text) - len(lead)]
        return [_Piece(Run(end), True), _Piece(Run(middle)), _Piece(Run(lead), True)]

    def _end_of(self, text: str) -> str:
        """What of the template's text after an answer ends the assistant's turn."""
        end = self._template.style.end
        return end if end and text.startswith(end) else self._guard.end_of(text)

    def _tokens(self, pieces: Sequence[_Piece]) -> Iterator[tuple[int, bool, int | None, bool]]:
        """Each token's id, whether it is supervised, the medium that it stands for, and whether it is a head's."""
        heads = set(self.token_ids().values())
        for apart, group in groupby(pieces, self._stands_apart):
            together = list(group)
            if apart:
                yield from ((self.pad_id, False, piece.medium, False) for piece in together)
                continue
            for token in self._guard.encode([piece.run for piece in together]):
                touched = [together[index] for index in token.runs]
                medium = next((piece.medium for piece in touched if piece.medium is not None), None)
                target = token.id in heads and any(piece.target for piece in touched)
                yield token.id, any(piece.supervised for piece in touched), medium, target

    def _stands_apart(self, piece: _Piece) -> bool:
        return piece.medium is not None and piece.run.text not in self._guard.controls

    def _habits(self) -> tuple[str, str]:
        """What the template writes between a generation prompt and the answer, and what it ends an answer with."""
        question, answer = Message("user", (Text("a"),)), Message("assistant", (Text("b"),))
        try:
            prompt = "".join(segment.text for segment in self._template.render([question], generate=True))
            whole = self._template.render([question, answer])
        except DataError:  # a template may insist on more than this: then the EOS alone is known
            return "", ""
        place = next(index for index, segment in enumerate(whole) if segment.turn == 1)
        before = "".join(segment.text for segment in whole[:place])
        after = "".join(segment.text for segment in whole[place + 1 :])
        return before[len(prompt) :] if before.startswith(prompt) else "", self._end_of(after)


def _assistant_turns(messages: Sequence[Message], supervise: Supervise) -> set[int]:
    """The turns that are learnt: of those that `supervise` asks for, all whose record does not say otherwise."""
    turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
    return {index for index in (turns if supervise == "all" else turns[-1:]) if messages[index].learn}


def _check_lengths(media: Sequence[Media], lengths: Sequence[int]) -> None:
    if len(media) != len(lengths):
        raise DataError(f"The conversation holds {len(media)} media, but {len(lengths)} lengths are given.")
    for medium, length in zip(media, lengths, strict=True):
        if length < 0:
            raise DataError(f"Medium {medium} (slot {medium.slot!r}) takes {length} rows.")
