"""Closed questions, answered by likelihood: the candidate that the model holds most probable is its answer.

The score of a candidate is the sum of the log-probabilities of its tokens, and of what ends the answer, as the model is
trained to write it. It is not divided by their number: InstructBLIP (Dai et al., arXiv 2305.06500, section 3.4) and
BLIP-2 rank by the sum too (`_predict_class` in salesforce/LAVIS, lavis/models/blip2_models; docs/decisions has the
details). Knows no file and no metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from omnivit.contracts.sample import Message, Sample, Text
from omnivit.errors import DataError

CHOICES = "choices"
"""The key of a record that lists the candidates of its question."""
MOST = 1000
"""The most different answers of a file that are taken for the candidates of a closed question."""


class Scorer(Protocol):
    """What gives the log-probabilities of the answers that end samples, a tensor each."""

    def score_samples(
        self, samples: Sequence[Sample], batch_size: int, scored: Callable[[int], None] | None = None
    ) -> list[Tensor]: ...


def candidates_of(samples: Sequence[Sample], references: Sequence[str]) -> list[tuple[str, ...]]:
    """The candidates of each question of a file: the list `choices` of its record, or all answers of the file.

    Args:
        samples: of one file.
        references: the right answer of each.

    Raises:
        DataError: some records have no `choices` although others do, or a list that is unusable or lacks the right
            answer; or the answers of the file are too many to be candidates.
    """
    if not any(CHOICES in sample.extra for sample in samples):
        answers = tuple(sorted({reference.strip() for reference in references}))
        if len(answers) > MOST:
            raise DataError(
                f"evaluation.choices: the records have no key `{CHOICES}`, and the {len(answers):,} different answers "
                f"of their file are too many to be candidates (at most {MOST:,}). Give each record its `{CHOICES}`, or "
                "use `choices: generate`."
            )
        return [answers] * len(samples)
    return [_listed(sample, reference.strip()) for sample, reference in zip(samples, references, strict=True)]


def choose(
    scorer: Scorer,
    asked: Sequence[Sample],
    candidates: Sequence[Sequence[str]],
    batch_size: int,
    scored: Callable[[int], None] | None = None,
) -> list[str]:
    """The candidate that is most probable after each question; the first of several that are equal.

    Args:
        scorer: the model.
        asked: questions, without their answers.
        candidates: of each question.
        batch_size: answers that are scored together.
        scored: called after each batch with the number of answers that are scored so far.
    """
    answers = [
        replace(sample, messages=(*sample.messages, Message("assistant", (Text(text),))))
        for sample, texts in zip(asked, candidates, strict=True)
        for text in texts
    ]
    scores = iter(scorer.score_samples(answers, batch_size, scored))
    chosen = []
    for texts in candidates:
        # in float64, because candidates may have many tokens and differ little
        sums = [float(next(scores).double().sum()) for _ in texts]
        chosen.append(texts[max(range(len(texts)), key=sums.__getitem__)])
    return chosen


def _listed(sample: Sample, reference: str) -> tuple[str, ...]:
    choices = sample.extra.get(CHOICES)
    if not isinstance(choices, (list, tuple)) or not choices or not all(isinstance(text, str) for text in choices):
        what = "has no" if choices is None else "has an unusable"
        raise DataError(
            f"{sample}: the record {what} `{CHOICES}`; expected a list of texts, the candidate answers. With "
            "`evaluation.choices: likelihood`, either all records of a file have it or none."
        )
    texts = tuple(text.strip() for text in choices)
    if reference not in texts:
        raise DataError(
            f"{sample}: the answer {reference!r} is not in the `{CHOICES}` of the record: "
            f"{', '.join(map(repr, texts[:20]))}. No model could choose it."
        )
    return texts
