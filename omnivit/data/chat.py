"""Chat: conversation -> token ids, labels, and the rows that are reserved for media.

Laws kept here: a medium takes exactly the rows that its adapter will fill (1, 2); labels follow from roles while the
text is put together, never from a search for patterns afterwards (4); no text that a person typed becomes a control
token or a placeholder (`omnivit.data.guard`).

Supervised is what the model will have to say by itself: the assistant's words, what the template writes before them
and does not give in a generation prompt (the space after `ASSISTANT:`), what it writes between a thought and the
answer, and what ends the turn (the first control token after the words, or the line feed of `llava_plain`). A token is
supervised if it has at least one character of these. A template that writes no control token after an answer teaches
no end.

Ids and labels are those of LLaVA's train.py, with these exceptions: it counts the tokens of rounds that it encodes
again to place its labels, and masks the whole conversation when the count does not come out (a tokenizer that is not
"legacy", several rounds); here that cannot happen. An empty answer, which it takes for the opening of a turn, is an
answer here.

Shapes: T tokens, media rows included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Media, Message, Text
from omnivit.data.assembly import Assembly, EncodedChat, Piece
from omnivit.data.guard import ANY, GuardedTokenizer, Token
from omnivit.data.marks import Segment
from omnivit.data.run import Run
from omnivit.data.template import Template
from omnivit.errors import DataError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from omnivit.contracts.llm import LanguageModel

Supervise = Literal["all", "last"]


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
        markup: tokens of the tokenizer that are tokens in answers too, not only where the template writes them: their
            texts, or globs over those that the tokenizer does not call special (`<loc*>`); default: all of these.
            Heads' tokens, placeholders and what ends an answer are never among them. None: nothing is declared, so
            none is, and `undeclared` finds them.

    Attributes:
        pad_id: id for padding, and for media without a token of their own.
        stop_ids: ids that end an answer: the tokenizer's EOS and the template's end of turn.

    Raises:
        RecipeError: the template is unknown, missing, or does not fit the tokenizer; the tokenizer has no offsets, or
            not the tokens that are named.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None = None,
        placeholders: Mapping[str, str] | None = None,
        add_special_tokens: bool = False,
        tokens: Mapping[str, str] | None = None,
        markup: Sequence[str] | None = (ANY,),
    ) -> None:
        self._given = (tokenizer, template, placeholders, add_special_tokens)
        self._tokenizer, self._markup = tokenizer, markup
        self._guard = GuardedTokenizer(tokenizer, markup or ())
        self._placeholders, self._heads = dict(placeholders or {}), dict(tokens or {})
        for head, token in self._heads.items():
            if token not in self._guard.controls:
                raise RecipeError(f"The token {token!r} of head {head!r} is no token of the tokenizer.")
        self._template = Template(tokenizer, template, self._placeholders, self._heads)
        self._prefix = self._guard.prefix if add_special_tokens or self._template.style.prefix else ()
        reserved = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id, 0)
        self.pad_id: int = next(id for id in reserved if id is not None)
        self._opening_of_turn, self._lead, end = self._habits()
        eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        stop = [token.id for token in self._guard.encode([Run(end)])][-1:]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(eos + stop))
        self._hold_back(markup or ())

    def with_heads(self, tokens: Mapping[str, str]) -> Chat:
        """The same for conversations that hold targets; head -> its token.

        Raises:
            RecipeError: the tokenizer has no such token.
        """
        return Chat(*self._given, tokens=tokens, markup=self._markup)

    def with_markup(self, markup: Sequence[str] | None) -> Chat:
        """The same with other tokens that answers may hold.

        Raises:
            RecipeError: the tokenizer has no such token, or it ends an answer.
        """
        return Chat(*self._given, tokens=self._heads, markup=markup)

    def undeclared(self, messages: Sequence[Message]) -> str | None:
        """A token that an answer spells, and that `markup` could make one, where nothing is declared; None: none."""
        if self._markup is not None:
            return None
        answers = [turn for turn in messages if turn.role == "assistant"]
        texts = (part.text for turn in answers for part in turn.parts if isinstance(part, Text))
        tokens = (token for text in texts for token in self._guard.controls_in(text))
        return next((token for token in tokens if token not in self._apart), None)

    def token_ids(self) -> dict[str, int]:
        """Head -> the id of its token."""
        return {head: self._guard.controls[token] for head, token in self._heads.items()}

    def encode(
        self,
        messages: Sequence[Message],
        lengths: Sequence[int],
        generate: bool = False,
        supervise: Supervise = "all",
        limit: int | None = None,
        exact: bool = True,
    ) -> EncodedChat:
        """Encode a conversation.

        Args:
            messages: at least one.
            lengths: rows of each medium, in the order of the messages.
            generate: end with the opening of the assistant's turn; nothing is supervised.
            supervise: `all` assistant messages or only the `last`; never one whose record says that it is not learnt.
            limit: no more has to be encoded once it is known that there are more tokens than this.
            exact: the first `limit` tokens are wanted then, and not only that there are more.

        Raises:
            DataError: the template refuses or loses a part of the conversation, the lengths do not fit the media,
                nothing is supervised, or the text cannot be written in plain tokens.
        """
        media = [part for message in messages for part in message.parts if isinstance(part, Media)]
        _check_lengths(media, lengths)
        learnt = set() if generate else _assistant_turns(messages, supervise)
        answers = {index for index, message in enumerate(messages) if message.role == "assistant"}
        segments = self._template.render(messages, generate)
        if not generate and not learnt:
            raise DataError("No token is supervised: the conversation holds no answer of the assistant to learn from.")
        found = Assembly(list(self._opening(segments)))
        heads = set(self.token_ids().values())
        for apart, group in groupby(self._pieces(segments, learnt, answers), self._stands_apart):
            if found.cut or (limit is not None and len(found.ids) > limit):
                found.cut = True
                break
            pieces = list(group)
            if apart:
                found.add_media(pieces, media, lengths, self.pad_id)
            else:
                room = None if limit is None else limit - len(found.ids)
                tokens, found.cut = self._encoded([piece.run for piece in pieces], room, exact)
                found.add_text(tokens, pieces, media, lengths, heads)
        if not found.ids:
            raise DataError(f"{self._template.label} makes nothing of the conversation: there is not a single token.")
        if not generate and not found.cut and all(label == IGNORE for label in found.labels):
            raise DataError("No token is supervised: the conversation holds no answer of the assistant to learn from.")
        return found.whole()

    def _encoded(self, runs: Sequence[Run], room: int | None, exact: bool) -> tuple[list[Token], bool]:
        if room is None:
            return self._guard.encode(runs), False
        return self._guard.encode_first(runs, room, exact)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Token ids [T] -> text, without special tokens."""
        values = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        text = self._tokenizer.decode(values, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def fingerprint(self) -> str:
        """Changes with whatever changes the tokens: tokenizer, template, placeholders. 16 hex digits."""
        facts = [self._guard.digest, self._template.text, sorted(self._placeholders.items()), self._prefix, self.pad_id]
        facts += [sorted(self._heads.items())] if self._heads else []
        facts += [sorted(self._guard.markup)] if self._guard.markup else []
        facts.append(sorted((name, str(token)) for name, token in self._tokenizer.special_tokens_map.items()))
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _opening(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        bos = self._tokenizer.bos_token
        first = segments[0] if segments else Segment("")
        return () if bos and first.turn is None and first.text.startswith(bos) else self._prefix

    def _pieces(self, segments: Sequence[Segment], supervised: Set[int], answers: Set[int]) -> list[Piece]:
        """Mark what is learnt: the content of the supervised turns, what leads to it, and what ends it."""
        pieces = []
        for index, segment in enumerate(segments):
            if segment.medium is not None:
                pieces.append(Piece(Run(segment.text), medium=segment.medium))
            elif segment.turn is not None:
                learnt = segment.turn in supervised
                run = Run(segment.text, typed=not segment.target, markup=segment.turn in answers)
                pieces.append(Piece(run, learnt, target=segment.target))
            else:
                before, after = (
                    segments[index - 1] if index else None,
                    segments[index + 1] if index + 1 < len(segments) else None,
                )
                pieces += self._literal(segment.text, before, after, supervised)
        return pieces

    def _literal(self, text: str, before: Segment | None, after: Segment | None, supervised: Set[int]) -> list[Piece]:
        """The template's own text between two stretches of content, in pieces: what the model has to say of it "
        "itself."""
        left, right = (None if near is None else near.turn for near in (before, after))
        if left == right and left in supervised and before is not None and after is not None:
            inside = before.medium is None and after.medium is None  # the end of a thought, as a rule
            return [Piece(Run(text), inside)]
        end = self._end_of(text) if left in supervised else ""
        rest = text[len(end) :]
        lead = self._lead_of(rest) if right in supervised else ""
        return [Piece(Run(end), True), Piece(Run(rest[: len(rest) - len(lead)])), Piece(Run(lead), True)]

    def _lead_of(self, text: str) -> str:
        """What of the template's text before an answer comes after the opening that a generation prompt gives."""
        opening = self._opening_of_turn
        if opening and opening in text:
            return text.rpartition(opening)[2]
        return self._lead if text.endswith(self._lead) else ""

    def _end_of(self, text: str) -> str:
        """What of the template's text after an answer ends the assistant's turn."""
        end = self._template.style.end
        return end if end and text.startswith(end) else self._guard.end_of(text)

    def _stands_apart(self, piece: Piece) -> bool:
        return piece.medium is not None and piece.run.text not in self._guard.controls

    def _habits(self) -> tuple[str, str, str]:
        """How the template opens an answer in a prompt, what it writes between that and the answer, and how it ends "
        "one."""
        question, answer = Message("user", (Text("a"),)), Message("assistant", (Text("b"),))
        try:
            prompt = "".join(segment.text for segment in self._template.render([question], generate=True))
            asked = "".join(segment.text for segment in self._template.render([question]))
            whole = self._template.render([question, answer])
        except DataError:  # a template may insist on more than this: then the EOS alone is known
            return "", "", ""
        opening = prompt[len(asked) :] if prompt.startswith(asked) else ""
        place = next(index for index, segment in enumerate(whole) if segment.turn == 1)
        before = "".join(segment.text for segment in whole[:place])
        after = "".join(segment.text for segment in whole[place + 1 :])
        return opening, before[len(prompt) :] if before.startswith(prompt) else "", self._end_of(after)

    def _hold_back(self, markup: Sequence[str]) -> None:
        """Keep tokens that mean something else out of what answers may hold."""
        ends = {token for token, id in self._guard.controls.items() if id in self.stop_ids}
        apart = dict.fromkeys(ends, "ends an answer") | dict.fromkeys(
            self._placeholders.values(), "stands for a medium"
        )
        apart |= dict.fromkeys(self._heads.values(), "stands for a head's target")
        for token in markup:
            if token in apart:
                raise RecipeError(f"{token!r} {apart[token]}, so that no answer can hold it as text. Leave it out.")
        self._apart = frozenset(apart)
        self._guard.hold_back(apart)


def chat_of(llm: LanguageModel, template: str | None = None) -> Chat:
    """The chat encoder of an LLM: its own, or the usual one over its tokenizer.

    Args:
        llm: with its tokenizer.
        template: overrides the LLM's usual one.
    """
    own: Chat | None = llm.chat(template)
    return Chat(llm.tokenizer(), template) if own is None else own


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
