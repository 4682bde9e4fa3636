"""The metrics of every evaluation: exact matches and token F1. Knows no model and no tensor."""

from __future__ import annotations

from collections import Counter

from omnivit.contracts.metric import Interval, Metric, Pairs
from omnivit.evaluate.intervals import mean_interval, wilson
from omnivit.evaluate.normalise import normalise, tokens


class Accuracy(Metric):
    """The share of answers that equal their reference after normalisation."""

    contract = 1
    label = "accuracy"
    better = "higher"
    note = (
        "Accuracy counts answers equal to the reference but for case, white space, quotes and punctuation around the "
        "answer, a leading article, and how a number is written; intervals are Wilson's."
    )

    def score(self, pairs: Pairs) -> Interval:
        return wilson(sum(exact_match(*pair) for pair in pairs), len(pairs))

    def answer(self, prediction: str, reference: str) -> bool:
        return exact_match(prediction, reference)

    def compared(self, true: Interval, control: Interval, label: str) -> str:
        often = f" ({true.mean / control.mean:.1f} times as often)" if control.mean else ""
        return (
            f"it is right in {true.mean:.1%} of the questions with the true ones and in {control.mean:.1%} with "
            f"{label}{often}"
        )


class TokenF1(Metric):
    """The words that answers and references share, as the mean of the F1 of each answer."""

    contract = 1
    label = "token F1"
    better = "higher"
    shows_interval = False

    def score(self, pairs: Pairs) -> Interval:
        return mean_interval([token_f1(*pair) for pair in pairs])

    def answer(self, prediction: str, reference: str) -> float:
        return token_f1(prediction, reference)


def exact_match(prediction: str, reference: str) -> bool:
    """Whether both are the same once normalised (see `omnivit.evaluate.normalise`)."""
    return normalise(prediction) == normalise(reference)


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words of both (see `normalise.tokens`), in [0, 1].

    Source: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", EMNLP 2016.
    """
    ours, theirs = tokens(prediction), tokens(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))
