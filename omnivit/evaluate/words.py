"""Word error rate: how far a transcript is from the reference. Knows no model and no tensor."""

from __future__ import annotations

import re

import numpy as np

from omnivit.contracts.metric import Interval, Metric, Pairs
from omnivit.evaluate.intervals import bootstrap

_BREAKS = re.compile(r"[^\w']|_")
_QUOTES = re.compile(r"(?<!\w)'+|'+(?!\w)")


class WordErrorRate(Metric):
    """Words inserted, left out or replaced, by the words of the references: the usual metric of transcripts."""

    contract = 1
    label = "word error rate"
    better = "lower"
    note = (
        "The word error rate counts words inserted, left out or replaced, by the words of the references (lower "
        "case, without punctuation); intervals are a bootstrap's over the questions."
    )

    def score(self, pairs: Pairs) -> Interval:
        return word_error_rate(pairs)

    def written(self, mean: float) -> str:
        return f"{mean:.1%}"


def words_of(text: str) -> list[str]:
    """The words of a transcript: lower case, without punctuation but for apostrophes inside a word.

    Articles count, unlike in `omnivit.evaluate.normalise`; hyphens separate words; numbers stay as they are
    written, so that "2" is not "two".
    """
    return _QUOTES.sub(" ", _BREAKS.sub(" ", text.lower().replace("’", "'"))).split()


def word_errors(prediction: str, reference: str) -> tuple[int, int]:
    """The fewest words to insert, leave out or replace (Levenshtein), and the number of words of the reference."""
    ours, theirs = words_of(prediction), words_of(reference)
    row = list(range(len(ours) + 1))
    for i, word in enumerate(theirs, 1):
        left, row[0] = row[0], i
        for j, answered in enumerate(ours, 1):
            left, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, left + (word != answered))
    return row[-1], len(theirs)


def word_error_rate(pairs: Pairs, seed: int = 0) -> Interval:
    """Errors of all (prediction, reference) pairs by the words of all references, 0 or more, with a 95% interval.

    The interval is that of a bootstrap over the pairs: M. Bisani and H. Ney, "Bootstrap estimates for confidence
    intervals in ASR performance evaluation", ICASSP 2004, I-409.

    Args:
        pairs: at least one; at least one reference contains a word.
        seed: of the draws.

    Raises:
        ValueError: the references contain no word.
    """
    counts = np.array([word_errors(prediction, reference) for prediction, reference in pairs]).reshape(-1, 2)
    errors, words = counts.T
    if not words.any():
        raise ValueError(f"The references of {len(pairs)} answers contain no word.")
    return bootstrap(errors, words, seed)
