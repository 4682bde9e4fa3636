"""Sample -> `EncodedSample`: the one path that training, evaluation and generation share.

Runs in loader workers: it holds processors and a tokenizer, no weights, and pickles small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from omnivit.data.chat import Chat, Supervise
from omnivit.data.collate import IGNORE, EncodedSample, Span
from omnivit.data.mixture import derive_seed
from omnivit.data.sample import Media, Sample
from omnivit.errors import DataError, suggest
from omnivit.model.adapter import Length
from omnivit.model.encoder import Processor


@dataclass(frozen=True)
class Preparer:
    """Prepares media, counts their rows, and encodes the conversation around them."""

    chat: Chat
    processors: Mapping[str, Processor]
    """Slot -> processor of its encoder."""
    lengths: Mapping[str, Length]
    """Slot -> the adapter's rule, encoder rows to LLM rows."""
    max_length: int
    truncate: bool = False

    def __call__(
        self, sample: Sample, seed: int | None = None, generate: bool = False, supervise: Supervise = "all"
    ) -> EncodedSample:
        """Encode one sample.

        Args:
            sample: as a reader gave it.
            seed: augmentation seed of (run, epoch); None: no augmentation.
            generate: end with the generation prompt, supervise nothing.
            supervise: `all` assistant turns, or only the `last`.

        Raises:
            DataError: unknown slot, unreadable medium, no supervised token, or too long; names the sample.
        """
        try:
            media = [self._seeded(m, sample, k, seed) for k, m in enumerate(sample.media())]
            items = tuple(self._item(m) for m in media)
            rows = [self._rows(m, item) for m, item in zip(media, items, strict=True)]
            encoded = self.chat.encode(sample.messages, rows, generate=generate, supervise=supervise)
        except DataError as error:
            raise type(error)(f"{sample}: {error}") from error
        prepared = EncodedSample(str(sample), encoded.ids, encoded.labels, encoded.spans, items)
        return self._fit(prepared, supervised=not generate)

    def fingerprint(self) -> str:
        """Changes whenever the same sample would be encoded differently."""
        parts = [self.chat.fingerprint(), f"max_length={self.max_length},truncate={self.truncate}"]
        return ";".join(parts + [f"{slot}={p.fingerprint()}" for slot, p in sorted(self.processors.items())])

    def _seeded(self, media: Media, sample: Sample, position: int, seed: int | None) -> Media:
        if media.slot not in self.processors:
            raise DataError(f"no input slot {media.slot!r} in the recipe; {suggest(media.slot, self.processors)}")
        return media if seed is None else replace(media, seed=derive_seed(seed, sample.id, position))

    def _item(self, media: Media) -> dict[str, Tensor]:
        return self.processors[media.slot](media)

    def _rows(self, media: Media, item: Mapping[str, Tensor]) -> int:
        return self.lengths[media.slot](self.processors[media.slot].length(item))

    def _fit(self, sample: EncodedSample, supervised: bool) -> EncodedSample:
        if len(sample.ids) <= self.max_length:
            return sample
        if not self.truncate or not supervised:
            raise DataError(
                f"{sample.name}: {len(sample.ids)} tokens, {sum(s.length for s in sample.spans)} of them rows of "
                f"media, but `data.max_length` is {self.max_length}. Raise it, set `data.truncate: true`, or shorten "
                f"the sample."
            )
        return _truncated(sample, self.max_length)


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
    return replace(sample, ids=sample.ids[:limit], labels=labels)


def _spelled(span: Span) -> str:
    return f"the {span.slot!r} medium at tokens {span.start} to {span.start + span.length}"
