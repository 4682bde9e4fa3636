"""Sample -> `EncodedSample`: the one path that training, evaluation and generation share.

Runs in loader workers: it has processors and a tokenizer, no weights, and pickles small.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.fit import Fit
from omnivit.contracts.sample import Media, Message, Part, Sample, Target, Text
from omnivit.data.box_codecs import Area
from omnivit.data.boxes import BoxWriter, write_areas
from omnivit.data.chat import Chat, Supervise
from omnivit.data.collate import EncodedSample, Span
from omnivit.data.combining import Groups, tokens_of_media
from omnivit.data.content import with_tokens
from omnivit.data.head_targets import HeadPreparer, Trigger
from omnivit.data.slot import SlotPreparer
from omnivit.data.wording import Wordings
from omnivit.errors import DataError, RecipeError, suggest
from omnivit.seeds import derive_seed

_log = logging.getLogger(__name__)
_REPORTED: set[str] = set()
"""Tokens and stop texts for which this process has logged a warning."""


@dataclass(frozen=True)
class Preparer:
    """Prepares media, counts their tokens, and encodes the conversation around them."""

    chat: Chat
    slots: Mapping[str, SlotPreparer]
    """Input slot -> the preparer of its media."""
    max_length: int
    truncate: bool = False
    heads: Mapping[str, HeadPreparer] = field(default_factory=dict)
    """Head -> its token, and the preparer of its targets."""
    reads_targets: bool = True
    """False: nothing is trained, so targets are only places in an answer."""
    supervise: Supervise = "all"
    """The assistant turns to train on, unless their record excludes them: `all`, or only the `last`."""
    wordings: Wordings = field(default_factory=Wordings)
    """Gives questions without words their words, and samples their system text."""
    question_tokens: frozenset[str] = frozenset()
    """Tokens whose texts are tokens in the questions of data files, too, not only in their answers."""
    boxes: BoxWriter | None = None
    """Writes boxes and points of samples as text; None: samples with such are bad."""
    too_long: str = "`data.max_length` is {}. Raise it, set `data.truncate: true`, or shorten the sample."
    """The end of the error for a sample with more tokens than the limit."""

    def __call__(
        self, sample: Sample, seed: int | None = None, generate: bool = False, supervise: Supervise | None = None
    ) -> EncodedSample:
        """Encode one sample.

        Args:
            sample: from a reader.
            seed: augmentation seed of (run, epoch); None: no augmentation.
            generate: end with the generation prompt, supervise nothing.
            supervise: replaces `self.supervise`.

        Raises:
            DataError: unknown slot or head, unreadable medium or target, no supervised token, or too long. The message
                names the sample.
            RecipeError: an adapter cannot take what its encoder returns. The message names the slot.
        """
        try:
            sample = self.resolved(sample, seed)
            # media first: their token counts are needed to encode the conversation (Law 1)
            turns = [(part, turn) for turn in sample.messages for part in turn.parts if isinstance(part, Media)]
            media = [self._seeded(m, sample, k, seed) for k, (m, _) in enumerate(turns)]
            timed = [_timed(self.slots[m.slot], m, _instruction(t)) for m, (_, t) in zip(media, turns, strict=True)]
            items = tuple(item for item, _ in timed)
            lengths = [self._tokens(m, item) for m, item in zip(media, items, strict=True)]
            targets = [self._target(part, turn, sample, k, seed) for k, (part, turn) in enumerate(_targets(sample))]
            prepared = iter(items)
            messages = [replace(turn, parts=tuple(self._described(turn.parts, prepared))) for turn in sample.messages]
            if sample.origin:  # it comes from a file; what a person types has no origin
                messages = [with_tokens(turn, self.question_tokens) for turn in messages]
            groups = Groups.of(messages, self.slots)
            encoded = self.chat.encode(
                messages if groups.apart else groups.kept(messages),
                groups.placed(lengths, media),
                generate,
                supervise or self.supervise,
                self.max_length,
                exact=self.truncate and not generate,
            )
        except DataError as error:
            raise type(error)(f"{sample}: {error}") from error
        if not generate:
            self._report_undeclared(sample)
            self._report_stopping(sample)
        spans = encoded.spans if groups.apart else groups.spans(encoded.spans, media)
        positions = self._positions(len(encoded.ids), encoded.spans)
        # encoding may have stopped at the limit, before the last targets
        places = zip(targets, encoded.targets, strict=not encoded.cut)
        # A target in a turn that is not supervised is not trained on either.
        supervised = ((t, place) for t, place in places if generate or int(encoded.labels[place]) != IGNORE)
        triggers = tuple(self._trigger(target, place) for target, place in supervised)
        seconds = tuple(taken for _, taken in timed)
        complete = EncodedSample(str(sample), encoded.ids, encoded.labels, spans, items, positions, triggers, seconds)
        return self._fit(complete, media, supervised=not generate, cut=encoded.cut)

    def resolved(self, sample: Sample, seed: int | None = None) -> Sample:
        """A sample with text in place of questions without words, boxes and points; the same where it has none.

        Args:
            sample: from a reader.
            seed: as for `__call__`.

        Raises:
            DataError: they cannot be written as text. The message does not name the sample.
        """
        sample = self.wordings(sample, seed)
        media = list(sample.media())
        fits: dict[int, Fit] = {}

        def fit_of(number: int) -> Fit:
            if number not in fits:
                medium = self._seeded(media[number], sample, number, seed)
                fits[number] = self.slots[medium.slot].fit_of(medium)
            return fits[number]

        return write_areas(sample, self.boxes, fit_of, self.chat.content_ids().values())

    def areas_in(self, text: str, media: Sequence[Media]) -> list[Area]:
        """The boxes and points that an answer names, in pixels of the last image of its conversation.

        Args:
            text: the answer.
            media: of the conversation, in reading order. Empty, or without an image: there are no pixels, so none.

        Raises:
            MediaError: the image cannot be read.
        """
        images = [medium for medium in media if self.slots[medium.slot].fits]
        if self.boxes is None or not images:
            return []
        return self.boxes.read(text, self.slots[images[-1].slot].fit_of(images[-1]))

    def fingerprint(self) -> str:
        """Changes whenever the same sample would be encoded differently."""
        parts = [self.chat.fingerprint(), f"max_length={self.max_length},truncate={self.truncate}"]
        parts += [] if self.supervise == "all" else [f"supervise={self.supervise}"]
        parts += [f"wordings={words}"] if (words := self.wordings.fingerprint()) else []
        parts += [f"question_tokens={sorted(self.question_tokens)}"] if self.question_tokens else []
        parts += [] if self.boxes is None else [f"boxes={self.boxes.name},{self.boxes.outside}"]
        parts += [f"{slot}={preparer.fingerprint()}" for slot, preparer in sorted(self.slots.items())]
        return ";".join(parts + [f"heads.{name}={head.fingerprint()}" for name, head in sorted(self.heads.items())])

    def _seeded(self, media: Media, sample: Sample, position: int, seed: int | None) -> Media:
        if media.slot not in self.slots:
            raise DataError(f"the recipe has no input slot {media.slot!r}; {suggest(media.slot, self.slots)}")
        return media if seed is None else replace(media, seed=derive_seed(seed, sample.id, position))

    def _target(
        self, target: Target, turn: Message, sample: Sample, position: int, seed: int | None
    ) -> tuple[str, dict[str, Tensor]]:
        """A target's head, and the tensors that its losses read."""
        head = target.head
        if head not in self.heads:
            raise DataError(f"the recipe has no head {head!r}; {suggest(head, self.heads)}")
        if turn.role != "assistant":
            raise DataError(
                f"a target of head {head!r} is in a turn of the {turn.role}; only answers of the assistant have "
                "targets."
            )
        if not self.reads_targets:
            return head, {}
        if target.source is None:
            raise DataError(f"a target of head {head!r} has no value. Set the key `target` of its part.")
        if seed is not None:
            target = replace(target, seed=derive_seed(seed, sample.id, "target", position))
        try:
            return head, self.heads[head].processor(target)
        except DataError as error:
            raise type(error)(f"head {head!r}: {error}") from error

    def _trigger(self, named: tuple[str, dict[str, Tensor]], place: int) -> Trigger:
        head, target = named
        return Trigger(head, place - self.heads[head].reads_before, target)

    def _described(self, parts: Sequence[Part], items: Iterator[Mapping[str, Tensor]]) -> Iterator[Part]:
        """Each medium, between the texts that its processors put before and after it."""
        for part in parts:
            if not isinstance(part, Media):
                yield part
                continue
            if text := self.slots[part.slot].preface(part):
                yield Text(text)
            yield part
            if text := self.slots[part.slot].description(next(items)):
                yield Text(text)

    def _tokens(self, media: Media, item: Mapping[str, Tensor]) -> int:
        try:
            return self.slots[media.slot].tokens(item)
        except RecipeError as error:
            raise RecipeError(f"model.inputs.{media.slot}.adapter: {error}") from error

    def _positions(self, tokens: int, spans: Sequence[Span]) -> Tensor:
        """[T] one by one, except for media whose adapter numbers its tokens; text continues from the last of them."""
        # positions are the running total of steps, so that a medium with fewer positions moves all text after it
        steps = torch.ones(tokens, dtype=torch.long)
        for span in spans:
            rule = self.slots[span.slot].positions
            if rule is not None and span.length:
                steps[span.start + 1 : span.start + span.length] = rule(span.length).diff()
        return steps.cumsum(dim=0) - 1

    def _fit(self, sample: EncodedSample, media: Sequence[Media], supervised: bool, cut: bool) -> EncodedSample:
        """The sample if it is short enough, else its beginning; `cut`: it had more tokens than it contains."""
        if len(sample.ids) <= self.max_length and not cut:
            return sample
        if not self.truncate or not supervised:
            tokens = f"more than {self.max_length}" if cut else str(len(sample.ids))
            in_media = tokens_of_media(sample.spans)
            raise DataError(
                f"{sample.name}: the sample has {tokens} tokens, {in_media} of them for media, but "
                f"{self.too_long.format(self.max_length)}"
            )
        if len(sample.spans) < len(media):
            raise DataError(
                f"{sample.name}: cutting the sample to `data.max_length` {self.max_length} would remove "
                f"{len(media) - len(sample.spans)} of its media. Raise `data.max_length` or shorten the sample."
            )
        return _truncated(sample, self.max_length)

    def _report_undeclared(self, sample: Sample) -> None:
        """Warn once per token that an answer contains its text, if the stage does not declare what such text is."""
        token = self.chat.undeclared(sample.messages)
        if token is not None and token not in _REPORTED:
            _REPORTED.add(token)
            _log.warning(
                "%s: an answer contains %r, which is a token of the tokenizer, but the model is trained on it as plain "
                "text, character by character. Set `markup: [%r]` in the stage to train on the token, or `markup: []` "
                "to keep plain text.",
                sample,
                token,
                token,
            )

    def _report_stopping(self, sample: Sample) -> None:
        """Warn once that an answer contains the text at which answers end."""
        stop = self.chat.stopping(sample.messages)
        if stop is not None and stop not in _REPORTED:
            _REPORTED.add(stop)
            _log.warning(
                "%s: an answer contains %r, which ends answers in this template: an answer of the model would be cut "
                "there. Remove it from the answers, or choose another template.",
                sample,
                stop,
            )


def _timed(prepare: SlotPreparer, media: Media, instruction: str) -> tuple[dict[str, Tensor], float]:
    """A prepared medium, and the seconds that this took."""
    began = time.perf_counter()
    return prepare(media, instruction), time.perf_counter() - began


def _targets(sample: Sample) -> Iterator[tuple[Target, Message]]:
    """All targets of a sample, in reading order, each with its turn."""
    return ((part, turn) for turn in sample.messages for part in turn.parts if isinstance(part, Target))


def _instruction(turn: Message) -> str:
    """The instruction for a medium: the text of its turn if that is the user's, else nothing."""
    return turn.text.strip() if turn.role == "user" else ""


def _truncated(sample: EncodedSample, limit: int) -> EncodedSample:
    for span in sample.spans:
        if span.start + span.length > limit:
            raise DataError(
                f"{sample.name}: cutting {len(sample.ids)} tokens to `data.max_length` {limit} would cut through "
                f"{_spelled(span)}. Raise `data.max_length` or shorten the sample."
            )
    labels = sample.labels[:limit]
    if bool((labels == IGNORE).all()):
        raise DataError(
            f"{sample.name}: no supervised token is left when its {len(sample.ids)} tokens are cut to "
            f"`data.max_length` {limit}. Raise it or shorten the sample."
        )
    triggers = tuple(trigger for trigger in sample.triggers if trigger.place < limit)
    return replace(sample, ids=sample.ids[:limit], labels=labels, positions=sample.positions[:limit], triggers=triggers)


def _spelled(span: Span) -> str:
    return f"the {span.slot!r} medium at tokens {span.start} to {span.start + span.length}"
