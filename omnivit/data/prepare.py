"""Sample -> `EncodedSample`: the one path that training, evaluation and generation share.

Runs in loader workers: it holds processors and a tokenizer, no weights, and pickles small.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.sample import Media, Message, Part, Sample, Target, Text
from omnivit.data.chat import Chat, Supervise
from omnivit.data.collate import EncodedSample, Span
from omnivit.data.slot import SlotPreparer
from omnivit.data.targets import HeadPreparer, Trigger
from omnivit.errors import DataError, RecipeError, suggest
from omnivit.seeds import derive_seed

_log = logging.getLogger(__name__)
_SAID: set[str] = set()
"""Tokens that were told of in this process."""


@dataclass(frozen=True)
class Preparer:
    """Prepares media, counts their rows, and encodes the conversation around them."""

    chat: Chat
    slots: Mapping[str, SlotPreparer]
    """Input slot -> what prepares its media."""
    max_length: int
    truncate: bool = False
    heads: Mapping[str, HeadPreparer] = field(default_factory=dict)
    """Head -> its token, and what prepares its targets."""
    reads_targets: bool = True
    """False where nothing is learnt: targets are then places in an answer, and nothing more."""
    supervise: Supervise = "all"
    """The assistant turns that are learnt, unless their record says otherwise: `all`, or only the `last`."""
    too_long: str = "`data.max_length` is {}. Raise it, set `data.truncate: true`, or shorten the sample."
    """What to say of the limit where a sample has more tokens."""

    def __call__(
        self, sample: Sample, seed: int | None = None, generate: bool = False, supervise: Supervise | None = None
    ) -> EncodedSample:
        """Encode one sample.

        Args:
            sample: as a reader gave it.
            seed: augmentation seed of (run, epoch); None: no augmentation.
            generate: end with the generation prompt, supervise nothing.
            supervise: other turns than those of `self.supervise`.

        Raises:
            DataError: unknown slot or head, unreadable medium or target, no supervised token, or too long; names the
                sample.
            RecipeError: an adapter cannot take what its encoder returns; names the slot.
        """
        try:
            turns = [(part, turn) for turn in sample.messages for part in turn.parts if isinstance(part, Media)]
            media = [self._seeded(m, sample, k, seed) for k, (m, _) in enumerate(turns)]
            timed = [_timed(self.slots[m.slot], m, _words(turn)) for m, (_, turn) in zip(media, turns, strict=True)]
            items = tuple(item for item, _ in timed)
            rows = [self._rows(m, item) for m, item in zip(media, items, strict=True)]
            targets = [self._target(part, turn, sample, k, seed) for k, (part, turn) in enumerate(_targets(sample))]
            messages = [replace(turn, parts=tuple(self._prefaced(turn.parts))) for turn in sample.messages]
            encoded = self.chat.encode(
                messages, rows, generate, supervise or self.supervise, self.max_length, self.truncate and not generate
            )
        except DataError as error:
            raise type(error)(f"{sample}: {error}") from error
        if not generate:
            self._say_undeclared(sample)
        positions = self._positions(len(encoded.ids), encoded.spans)
        places = zip(targets, encoded.targets, strict=not encoded.cut)
        # What is not learnt of the words is not learnt of the targets either.
        learnt = ((t, place) for t, place in places if generate or int(encoded.labels[place]) != IGNORE)
        triggers = tuple(self._trigger(target, place) for target, place in learnt)
        seconds = tuple(taken for _, taken in timed)
        prepared = EncodedSample(
            str(sample), encoded.ids, encoded.labels, encoded.spans, items, positions, triggers, seconds
        )
        return self._fit(prepared, media, supervised=not generate, cut=encoded.cut)

    def fingerprint(self) -> str:
        """Changes whenever the same sample would be encoded differently."""
        parts = [self.chat.fingerprint(), f"max_length={self.max_length},truncate={self.truncate}"]
        parts += [] if self.supervise == "all" else [f"supervise={self.supervise}"]
        parts += [f"{slot}={found.fingerprint()}" for slot, found in sorted(self.slots.items())]
        return ";".join(parts + [f"heads.{name}={head.fingerprint()}" for name, head in sorted(self.heads.items())])

    def _seeded(self, media: Media, sample: Sample, position: int, seed: int | None) -> Media:
        if media.slot not in self.slots:
            raise DataError(f"no input slot {media.slot!r} in the recipe; {suggest(media.slot, self.slots)}")
        return media if seed is None else replace(media, seed=derive_seed(seed, sample.id, position))

    def _target(
        self, target: Target, turn: Message, sample: Sample, position: int, seed: int | None
    ) -> tuple[str, dict[str, Tensor]]:
        """A target's head, and what its losses read."""
        head = target.head
        if head not in self.heads:
            raise DataError(f"the recipe has no head {head!r}; {suggest(head, self.heads)}")
        if turn.role != "assistant":
            raise DataError(f"a target of head {head!r} stands in a turn of the {turn.role}; only answers have some.")
        if not self.reads_targets:
            return head, {}
        if target.source is None:
            raise DataError(f"a target of head {head!r} says nothing to learn: give its `target`.")
        if seed is not None:
            target = replace(target, seed=derive_seed(seed, sample.id, "target", position))
        try:
            return head, self.heads[head].processor(target)
        except DataError as error:
            raise type(error)(f"head {head!r}: {error}") from error

    def _trigger(self, found: tuple[str, dict[str, Tensor]], place: int) -> Trigger:
        head, target = found
        return Trigger(head, place - self.heads[head].reads_before, target)

    def _prefaced(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Each medium with what its processors say before it."""
        for part in parts:
            if isinstance(part, Media) and (text := self.slots[part.slot].preface(part)):
                yield Text(text)
            yield part

    def _rows(self, media: Media, item: Mapping[str, Tensor]) -> int:
        try:
            return self.slots[media.slot].rows(item)
        except RecipeError as error:
            raise RecipeError(f"model.inputs.{media.slot}.adapter: {error}") from error

    def _positions(self, tokens: int, spans: Sequence[Span]) -> Tensor:
        """[T] one by one, but for media whose adapter counts otherwise; what follows goes on from their last."""
        steps = torch.ones(tokens, dtype=torch.long)
        for span in spans:
            rule = self.slots[span.slot].positions
            if rule is not None and span.length:
                steps[span.start + 1 : span.start + span.length] = rule(span.length).diff()
        return steps.cumsum(dim=0) - 1

    def _fit(self, sample: EncodedSample, media: Sequence[Media], supervised: bool, cut: bool) -> EncodedSample:
        """The sample, if it is short enough, or as much of it as may be shown; `cut`: there is more than it holds."""
        if len(sample.ids) <= self.max_length and not cut:
            return sample
        if not self.truncate or not supervised:
            tokens = f"more than {self.max_length}" if cut else str(len(sample.ids))
            rows = sum(span.length for span in sample.spans)
            raise DataError(
                f"{sample.name}: {tokens} tokens, {rows} of them rows of media, but "
                f"{self.too_long.format(self.max_length)}"
            )
        if len(sample.spans) < len(media):
            raise DataError(
                f"{sample.name}: cutting it to `data.max_length` {self.max_length} would cut "
                f"{len(media) - len(sample.spans)} of its media off. Raise `data.max_length` or shorten the sample."
            )
        return _truncated(sample, self.max_length)

    def _say_undeclared(self, sample: Sample) -> None:
        """Say once of a token that an answer spells it, where nobody declared what such text is."""
        token = self.chat.undeclared(sample.messages)
        if token is not None and token not in _SAID:
            _SAID.add(token)
            _log.warning(
                "%s: an answer holds %r, which is a token of the tokenizer, and is learnt as plain text, "
                "letter by letter. "
                "Say `markup: [%r]` in the stage to have it learnt as the token, or `markup: []` if text is meant.",
                sample, token, token,
            )  # fmt: skip


def _timed(prepare: SlotPreparer, media: Media, words: str) -> tuple[dict[str, Tensor], float]:
    """A prepared medium, and the seconds that it took."""
    began = time.perf_counter()
    return prepare(media, words), time.perf_counter() - began


def _targets(sample: Sample) -> Iterator[tuple[Target, Message]]:
    """All targets of a sample, in reading order, each with its turn."""
    return ((part, turn) for turn in sample.messages for part in turn.parts if isinstance(part, Target))


def _words(turn: Message) -> str:
    """The instruction beside a medium: what the user says in its turn; of another's turn nothing."""
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
