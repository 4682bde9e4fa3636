"""What a question is asked with: its own media, another question's, or none.

A model that answers as well with another sample's image as with the right one ignores it. Knows no model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from omnivit.contracts.sample import Frames, Media, Message, Sample, Target, Text, Token
from omnivit.errors import DataError, RecipeError, suggest
from omnivit.seeds import derive_seed

Condition = Callable[[Sequence[Sample], int], list[Sample]]
"""Questions of one file and a seed -> the same questions with other media, in the same order."""


def question(sample: Sample) -> Sample:
    """The sample up to its last assistant message: what the model is asked.

    Raises:
        DataError: there is no assistant message, or nothing before it.
    """
    return replace(sample, messages=sample.messages[: _last_answer(sample)])


def reference(sample: Sample, tokens: Mapping[str, str] = MappingProxyType({})) -> str:
    """The text of the last assistant message: what the model should answer.

    Args:
        sample: with its answer.
        tokens: head -> its token, which an answer's text shows; default: heads' targets are left out.

    Raises:
        DataError: as `question`.
    """
    answer = sample.messages[_last_answer(sample)]
    text = ""
    for part in answer.parts:
        match part:
            case Text(text=words) | Token(token=words):
                text += words
            case Target(head=head):
                text += tokens.get(head, "")
            case Media():
                pass
            case _:
                raise DataError(f"{sample}: its answer contains {type(part).__name__}, which must be text first.")
    return text


def true(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """Every question with its own media."""
    del seed
    return list(samples)


def none(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """Every question without its media; its text stays as it is."""
    del seed
    return [_with_media(sample, ()) for sample in samples]


def shuffled(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """Every question with the media of another sample, which shares no medium with its own.

    Media are exchanged among samples that have media of the same slots in the same order. Each sample's media are used
    once, wherever exchanging two samples can bring that about; else (one image in most of the samples) some are used
    again. Samples without media stay as they are.

    Args:
        samples: of one file.
        seed: another seed gives another exchange.

    Raises:
        DataError: no other sample has such media; names the sample.
    """
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        alike.setdefault(tuple(media.slot for media in sample.media()), []).append(i)
    result = list(samples)
    for slots, members in alike.items():
        if slots:
            donors = _derangement([_contents(samples[i]) for i in members], derive_seed("shuffled", seed, *slots))
            for i, donor in zip(members, donors, strict=True):
                result[i] = _with_media(samples[i], _donated(samples, i, None if donor is None else members[donor]))
    return result


CONDITIONS = MappingProxyType({"true": true, "shuffled": shuffled, "none": none})
"""Name in a recipe -> condition."""


def check_conditions(names: Iterable[str]) -> None:
    """Refuse names of conditions that do not exist.

    Raises:
        RecipeError: names the condition and those that there are.
    """
    for name in names:
        if name not in CONDITIONS:
            raise RecipeError(f"evaluation.conditions: there is no condition {name!r}; {suggest(name, CONDITIONS)}")


def _last_answer(sample: Sample) -> int:
    roles = [message.role for message in sample.messages]
    if "assistant" not in roles:
        raise DataError(
            f"{sample}: has no assistant message, so there is no answer to compare with. To answer records without "
            f"answers, use `omnivit predict`."
        )
    last = len(roles) - 1 - roles[::-1].index("assistant")
    if last == 0:
        raise DataError(f"{sample}: begins with its only assistant message, so nothing is asked.")
    return last


def _with_media(sample: Sample, media: Iterable[Media]) -> Sample:
    """The sample with its media replaced in order; those that nothing is left for are removed."""
    return replace(sample, messages=tuple(_replaced(sample.messages, iter(media))))


def _replaced(messages: Iterable[Message], media: Iterator[Media]) -> Iterator[Message]:
    for message in messages:
        parts = (next(media, None) if isinstance(part, Media) else part for part in message.parts)
        yield replace(message, parts=tuple(part for part in parts if part is not None))


def _contents(sample: Sample) -> frozenset[object]:
    """What the sample shows: files by their path, objects in memory by identity."""
    return frozenset(_identity(media) for media in sample.media())


def _identity(media: Media) -> object:
    if isinstance(media.source, str | os.PathLike):
        return os.path.realpath(os.path.join(media.root or "", os.fspath(media.source)))  # noqa: PTH118 - may be bytes
    files = media.source.paths if isinstance(media.source, Frames) else media.source
    if isinstance(files, tuple):  # files that are one medium together
        return tuple(_identity(replace(media, source=source)) for source in files)
    return id(media.source)


def _donated(samples: Sequence[Sample], i: int, donor: int | None) -> Iterable[Media]:
    if donor is None:
        slots = ", ".join(media.slot for media in samples[i].media())
        raise DataError(
            f"{samples[i]}: no other sample of its file has different media of the same slots ({slots}), so its media "
            f"cannot be shuffled. Add samples, or remove the condition 'shuffled'."
        )
    return samples[donor].media()


def _derangement(contents: Sequence[frozenset[object]], seed: int) -> list[int | None]:
    """For every sample the index of one that shares nothing with it; None where there is none.

    A random permutation, corrected by exchanges. If every sample shows one medium, an exchange exists whenever no
    medium makes up more than half of the samples: of the n candidates fewer than n show it or are given it.
    """
    n = len(contents)
    donors: list[int | None] = np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable").tolist()

    def fits(i: int, donor: int | None) -> bool:
        return donor is not None and contents[i].isdisjoint(contents[donor])

    for i in range(n):
        if fits(i, donors[i]):
            continue
        others = [*range(i + 1, n), *range(i)]
        j = next((j for j in others if fits(i, donors[j]) and fits(j, donors[i])), None)
        if j is not None:
            donors[i], donors[j] = donors[j], donors[i]
        else:
            donors[i] = next((donor for donor in others if fits(i, donor)), None)
    return donors
