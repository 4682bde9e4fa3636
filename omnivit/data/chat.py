"""Chat: conversation -> token ids, labels, and the places that are reserved for the tokens of media.

This module keeps three laws: a medium takes exactly as many tokens as its adapter will return (1, 2); labels follow
from roles while the text is encoded, never from a search for patterns afterwards (4); no text that a person typed
becomes a control token or a placeholder (`omnivit.data.guard`).

Supervised is everything that the model has to generate: the text of the assistant; what the template writes before it
that is not part of a generation prompt (the space after `ASSISTANT:`); what it writes between reasoning and answer; and
what ends the turn: the first control token after the text, or the text that the template's block in the recipe calls
its `end`, such as `###`. A token is supervised if at least one of its characters is. If a template writes neither after
an answer, the model does not learn to end one; `open_end` says so. Two templates teach the names of roles, too, as
their original code does (`omnivit.data.roles`).

Ids and labels are those of LLaVA's train.py, with two exceptions. To place its labels, it counts the tokens of rounds
that it encodes again, and masks the entire conversation if the counts differ (a tokenizer that is not "legacy", several
rounds); here that cannot happen. It treats an empty answer as the opening of a turn; here it is an answer.

Shapes: T tokens, those of media included.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Set
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Media, Message, Text
from omnivit.data.chat_checks import check_lengths, check_tokens
from omnivit.data.guard import ANY, GuardedToken, GuardedTokenizer
from omnivit.data.habits import habits_of
from omnivit.data.labels import Assembly, EncodedChat, Piece
from omnivit.data.marks import Segment
from omnivit.data.roles import with_roles
from omnivit.data.template import Template
from omnivit.data.text_span import TextSpan
from omnivit.errors import DataError, RecipeError, suggest
from omnivit.recipe.schema import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from omnivit.contracts.llm import LanguageModel

Supervise = Literal["all", "last"]

_NOTHING_SUPERVISED = "No token is supervised: the conversation contains no answer of the assistant to train on."


class Chat:
    """Encodes conversations for one tokenizer and one template. Picklable; has no weights.

    Args:
        tokenizer: a transformers tokenizer backed by the `tokenizers` library.
        template: None for the tokenizer's own chat template; a name in `omnivit.data.styles.NAMED`; Jinja; or a block
            of a recipe, with the text that ends an answer.
        placeholders: slot -> the text that the template writes for a medium, such as `{"image": "<image>"}` for a
            checkpoint whose own template takes typed content parts. If that text is a token of the tokenizer, its id
            is at the medium's tokens, and the text around it is encoded together with it; else the text before and
            after a medium is encoded separately, as in LLaVA.
        add_special_tokens: put the tokenizer's BOS first, unless the template writes it. All named templates except
            `chatml` do so.
        tokens: head -> the token of its targets, which is a token of the tokenizer.
        markup: tokens of the tokenizer that are tokens in answers too, not only where the template writes them: their
            texts, or globs over those that the tokenizer does not call special (`<loc*>`); default: all of these.
            Tokens of heads, placeholders and ends of answers are always excluded. None: nothing is declared, so an
            answer's text has no tokens, and `undeclared` finds those that it spells.
        content: tokens of the tokenizer that data may write as parts (`omnivit.contracts.sample.Token`), as well as
            those of `markup`.
        ends: tokens of the tokenizer that end an answer, besides its EOS and the template's end of turn.

    Attributes:
        pad_id: id for padding, and for media whose placeholder is not a token.
        stop_ids: ids that end an answer: the tokenizer's EOS, the template's end of turn, and `ends`.
        stop_texts: texts that end an answer wherever it contains them, because no token does so in this template.

    Raises:
        RecipeError: the template is unknown, missing, or does not fit the tokenizer; or the tokenizer lacks offsets or
            a token that is named.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | ChatTemplate | None = None,
        placeholders: Mapping[str, str] | None = None,
        add_special_tokens: bool = False,
        tokens: Mapping[str, str] | None = None,
        markup: Sequence[str] | None = (ANY,),
        content: Sequence[str] = (),
        ends: Sequence[str] = (),
    ) -> None:
        self._given = (tokenizer, template, placeholders, add_special_tokens)
        self._extra, self._ends = tuple(content), tuple(ends)
        self._tokenizer, self._markup = tokenizer, markup
        self._guard = GuardedTokenizer(tokenizer, markup or ())
        self._placeholders, self._heads = dict(placeholders or {}), dict(tokens or {})
        for head, token in self._heads.items():
            if token not in self._guard.controls:
                raise RecipeError(f"The token {token!r} of head {head!r} is not a token of the tokenizer.")
        self._template = Template(tokenizer, template, self._placeholders, self._heads)
        self._prefix = self._guard.prefix if add_special_tokens or self._template.style.prefix else ()
        reserved = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id, 0)
        self.pad_id: int = next(id for id in reserved if id is not None)
        stop = self._template.style.stop
        self.stop_texts: tuple[str, ...] = () if not stop or stop in self._guard.controls else (stop,)
        self._roles = self._template.style.roles
        self._habits = habits_of(self._template, self._end_of)
        self.stop_ids: tuple[int, ...] = self._stop_ids(ends)
        self._hold_back(markup or ())
        self._content = self._guard.markup | self._declared(content, "tokens") - self._apart.keys()
        special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= set(tokenizer.all_special_ids)
        self._visible = special & self.content_ids().keys()
        self._hidden = special - self._visible

    def in_use(self) -> Chat:
        """The same for a model that answers: answers alone have labels, not the names of roles."""
        if not self._roles:
            return self
        chat = copy.copy(self)
        chat._roles = False
        return chat

    def with_heads(self, tokens: Mapping[str, str]) -> Chat:
        """The same for conversations with targets; head -> its token.

        Raises:
            RecipeError: the tokenizer has no such token.
        """
        return Chat(*self._given, tokens, self._markup, self._extra, self._ends)

    def with_markup(self, markup: Sequence[str] | None) -> Chat:
        """The same with other tokens that answers may contain.

        Raises:
            RecipeError: the tokenizer has no such token, or it ends an answer.
        """
        if markup == self._markup:
            return self
        return Chat(*self._given, self._heads, markup, self._extra, self._ends)

    def undeclared(self, messages: Sequence[Message]) -> str | None:
        """A token whose text is in an answer and that `markup` could declare, if `markup` is None; None: no such."""
        if self._markup is not None:
            return None
        answers = [turn for turn in messages if turn.role == "assistant"]
        texts = (part.text for turn in answers for part in turn.parts if isinstance(part, Text))
        tokens = (token for text in texts for token in self._guard.controls_in(text))
        return next((token for token in tokens if token not in self._apart), None)

    @property
    def open_end(self) -> str | None:
        """The characters after an answer, if the template teaches no end of it; None: it teaches one, or is unknown."""
        return self._habits.open_end

    @cached_property
    def inserts_space(self) -> bool:
        """Whether the tokenizer puts a space between a token and the word after it, as Llama's does."""
        token = next(iter([*self._content, *self._heads.values()]), None)
        if token is None:
            return False
        ids = [encoded.id for encoded in self._guard.encode([TextSpan(token), TextSpan("a", typed=True)])]
        return self.decode(ids)[len(self.decode(ids[:1])) :].startswith(" ")

    def content_ids(self) -> dict[int, str]:
        """Id -> each token that data may write as a part."""
        return {self._guard.controls[token]: token for token in sorted(self._content)}

    @property
    def markup_tokens(self) -> frozenset[str]:
        """The tokens that the texts of answers may contain."""
        return self._guard.markup

    def stopping(self, messages: Sequence[Message]) -> str | None:
        """A text of `stop_texts` that an answer to train on contains: answers like it would be cut there."""
        texts = (p.text for turn in messages if turn.role == "assistant" for p in turn.parts if isinstance(p, Text))
        return next((stop for text in texts for stop in self.stop_texts if stop in text), None)

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
            lengths: tokens of each medium, in the order of the messages.
            generate: end with the opening of the assistant's turn; nothing is supervised.
            supervise: `all` assistant messages or only the `last`; never one that its record excludes from training.
            limit: encoding may stop as soon as it is certain that there are more tokens than this.
            exact: True: the first `limit` tokens must then be exact; False: only that there are more matters.

        Raises:
            DataError: the template refuses or loses a part of the conversation, the lengths do not fit the media,
                nothing is supervised, or the text cannot be encoded in plain tokens.
        """
        media = [part for message in messages for part in message.parts if isinstance(part, Media)]
        check_lengths(media, lengths)
        check_tokens(messages, self._content, self._apart)
        # labels come from the roles of turns, before there is any text (Law 4)
        learnt = set() if generate else _assistant_turns(messages, supervise)
        answers = {index for index, message in enumerate(messages) if message.role == "assistant"}
        # rendered first, so that a template's own refusal is reported before a missing answer
        segments = self._template.render(messages, generate)
        if not generate and not learnt:
            raise DataError(_NOTHING_SUPERVISED)
        assembly = Assembly(list(self._opening(segments)))
        heads = set(self.token_ids().values())
        # Neighbouring pieces of text are encoded in one call: a tokenizer may merge characters across their borders.
        # A medium without a token of its own interrupts the text, as it does in LLaVA.
        for apart, group in groupby(self._pieces(segments, learnt, answers), self._interrupts_text):
            if assembly.cut or (limit is not None and len(assembly.ids) > limit):
                assembly.cut = True  # what follows cannot make the sample shorter again
                break
            pieces = list(group)
            if apart:
                assembly.add_media(pieces, media, lengths, self.pad_id)
            else:
                room = None if limit is None else limit - len(assembly.ids)
                tokens, assembly.cut = self._encoded([piece.span for piece in pieces], room, exact)
                assembly.add_text(tokens, pieces, media, lengths, heads)
        if not assembly.ids:
            raise DataError(f"{self._template.label} renders the conversation as an empty text: it has no token.")
        # an answer may be empty, and its template may write no end; a sample that was cut is checked after truncation
        if not generate and not assembly.cut and all(label == IGNORE for label in assembly.labels):
            raise DataError(_NOTHING_SUPERVISED)
        return assembly.finished()

    def _encoded(self, spans: Sequence[TextSpan], room: int | None, exact: bool) -> tuple[list[GuardedToken], bool]:
        if room is None:
            return self._guard.encode(spans), False
        return self._guard.encode_first(spans, room, exact)

    def spell(self, ids: Sequence[int]) -> str:
        """Token ids [T] -> text, with all special tokens."""
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Token ids [T] -> text, without special tokens, except those that data may write."""
        values = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        skips = self._visible.isdisjoint(values)
        if not skips:  # the tokenizer hides all special tokens or none
            values = [id for id in values if id not in self._hidden]
        text = self._tokenizer.decode(values, skip_special_tokens=skips, clean_up_tokenization_spaces=False)
        return str(text)

    def fingerprint(self) -> str:
        """Changes with everything that changes the tokens: tokenizer, template, placeholders. 16 hex digits."""
        facts = [self._guard.digest, self._template.text, sorted(self._placeholders.items()), self._prefix, self.pad_id]
        facts += [sorted(self._heads.items())] if self._heads else []
        facts += [sorted(self._guard.markup)] if self._guard.markup else []
        facts += [{"end": self.stop_texts}] if self.stop_texts else []
        facts += [{"roles": True}] if self._roles else []
        facts += [{name: tokens} for name, tokens in (("content", self._extra), ("ends", self._ends)) if tokens]
        facts.append(sorted((name, str(token)) for name, token in self._tokenizer.special_tokens_map.items()))
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _opening(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        """The tokenizer's BOS; nothing where the template writes it, so that there are not two."""
        bos = self._tokenizer.bos_token
        first = segments[0] if segments else Segment("")
        return () if bos and first.turn is None and first.text.startswith(bos) else self._prefix

    def _pieces(self, segments: Sequence[Segment], supervised: Set[int], answers: Set[int]) -> list[Piece]:
        """Mark what is supervised: the content of the supervised turns, what leads to it, and what ends it."""
        pieces = []
        for index, segment in enumerate(segments):
            if segment.medium is not None:  # never supervised: the model does not generate a medium
                pieces.append(Piece(TextSpan(segment.text), medium=segment.medium))
            elif segment.turn is not None:  # content; a token that data write is not typed, so it keeps its id
                learnt = segment.turn in supervised
                span = TextSpan(
                    segment.text, typed=not (segment.target or segment.token), markup=segment.turn in answers
                )
                pieces.append(Piece(span, learnt, target=segment.target))
            else:  # the template's text: its neighbours tell which part of it the model has to generate
                before, after = (
                    segments[index - 1] if index else None,
                    segments[index + 1] if index + 1 < len(segments) else None,
                )
                pieces += self._literal(segment.text, before, after, supervised, answers)
        return pieces

    def _literal(
        self, text: str, before: Segment | None, after: Segment | None, supervised: Set[int], answers: Set[int]
    ) -> list[Piece]:
        """The template's text between two segments of content, cut into supervised and other pieces."""
        left, right = (None if near is None else near.turn for near in (before, after))
        if left == right and left in supervised and before is not None and after is not None:
            # Inside one answer, usually the end of its reasoning: the model generates it. Text around a medium is not.
            inside = before.medium is None and after.medium is None
            return [Piece(TextSpan(text), inside)]
        # Between two turns: what ends the answer on the left, then the prompt, then what leads to the answer on the
        # right. The prompt is given at inference, so it is not supervised.
        end = self._end_of(text) if left in supervised else ""
        rest = text[len(end) :]
        lead = self._lead_of(rest) if right in supervised else ""
        prompt = rest[: len(rest) - len(lead)]
        pieces = [Piece(TextSpan(end), True), Piece(TextSpan(prompt)), Piece(TextSpan(lead), True)]
        if self._roles and not {left, right} & (answers - supervised):  # nothing of an answer that is not learnt
            return pieces[:1] + with_roles(prompt, lead, self._template.style.stop, right, answers)
        return pieces

    def _lead_of(self, text: str) -> str:
        """The part of the template's text before an answer that a generation prompt does not contain."""
        opening, lead = self._habits.opening, self._habits.lead
        if opening and opening in text:
            return text.rpartition(opening)[2]
        return lead if text.endswith(lead) else ""

    def _end_of(self, text: str) -> str:
        """The part of the template's text after an answer that ends the assistant's turn."""
        style = self._template.style
        if not style.stop:
            return style.end if style.end and text.startswith(style.end) else self._guard.end_of(text)
        eos = re.escape(self._tokenizer.eos_token or "")
        match = re.match(rf"\s*{re.escape(style.stop)}(?:{eos})?", text)
        return match.group() if match else self._guard.end_of(text)

    def _interrupts_text(self, piece: Piece) -> bool:
        """Whether a piece is a medium whose placeholder is not a token, so that the text around it is cut there."""
        return piece.medium is not None and piece.span.text not in self._guard.controls

    def _stop_ids(self, ends: Sequence[str]) -> tuple[int, ...]:
        """The tokenizer's EOS, the token that ends the template's turn, and `ends`."""
        ids = [] if self._tokenizer.eos_token_id is None else [int(self._tokenizer.eos_token_id)]
        if not self.stop_texts:  # of a stop text, the last token may be a token of ordinary words
            ids += [token.id for token in self._guard.encode([TextSpan(self._habits.end)])][-1:]
        stop = self._template.style.stop
        ids += [self._guard.controls[stop]] if stop in self._guard.controls else []
        ids += [self._guard.controls[token] for token in sorted(self._declared(ends, "ends"), key=list(ends).index)]
        return tuple(dict.fromkeys(ids))

    def _declared(self, tokens: Sequence[str], option: str) -> frozenset[str]:
        for token in tokens:
            if token not in self._guard.controls:
                raise RecipeError(
                    f"llm.{option}: the tokenizer has no token {token!r}; {suggest(token, self._guard.controls)} "
                    "`llm.tokens` adds new ones."
                )
        return frozenset(tokens)

    def _hold_back(self, markup: Sequence[str]) -> None:
        """Exclude tokens that have another meaning from those that answers may contain."""
        ends = {token for token, id in self._guard.controls.items() if id in self.stop_ids}
        apart = dict.fromkeys(ends, "ends an answer") | dict.fromkeys(
            self._placeholders.values(), "is the placeholder of a medium"
        )
        apart |= dict.fromkeys(self._heads.values(), "is the token of a head's target")
        for token in markup:
            if token in apart:
                raise RecipeError(
                    f"{token!r} {apart[token]}, so the text of an answer cannot contain it. Remove it from `markup`."
                )
        self._apart = apart
        self._guard.hold_back(apart)


def chat_of(llm: LanguageModel, template: str | ChatTemplate | None = None) -> Chat:
    """The chat encoder of an LLM: its own, or the default one with its tokenizer.

    Args:
        llm: with its tokenizer.
        template: replaces the LLM's default template.
    """
    special: Chat | None = llm.chat(template)
    return Chat(llm.tokenizer(), template) if special is None else special


def _assistant_turns(messages: Sequence[Message], supervise: Supervise) -> set[int]:
    """The turns to train on: those that `supervise` selects, without those that their record excludes."""
    turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
    return {index for index in (turns if supervise == "all" else turns[-1:]) if messages[index].learn}
