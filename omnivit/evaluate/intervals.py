"""How sure one may be of a mean: 95% confidence intervals. Knows no model and no tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnivit.contracts.metric import Interval

RESAMPLES = 2000
"""Draws of a bootstrap."""
Z_95 = 1.96
"""Standard normal quantile of a two-sided 95% interval."""


def wilson(successes: float, n: int, z: float = Z_95) -> Interval:
    """The Wilson score interval of a proportion.

    Unlike mean +- z * deviation it stays inside [0, 1] and does not shrink to a point at 0 or n successes.
    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the
    American Statistical Association 22 (1927), 209-212.

    Args:
        successes: between 0 and `n`.
        n: trials, at least 1.
        z: standard normal quantile.

    Raises:
        ValueError: no trials, or successes outside [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials: expected 1 trial or more, and 0 to n successes")
    mean = successes / n
    centre = mean + z * z / (2 * n)
    spread = z * math.sqrt(mean * (1 - mean) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    return Interval(mean, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale), n)


def mean_interval(values: Sequence[float]) -> Interval:
    """A mean of scores in [0, 1], with the Wilson interval that a proportion of the same mean would have.

    Scores in [0, 1] with mean p vary by at most p (1 - p), the variance of zeros and ones (Bhatia and Davis, "A Better
    Bound on the Variance", American Mathematical Monthly 107 (2000)): the interval is never too narrow on that account.

    Raises:
        ValueError: no values, or one outside [0, 1].
    """
    if any(not 0 <= value <= 1 for value in values):
        raise ValueError("expected scores between 0 and 1")
    return wilson(min(math.fsum(values), len(values)), len(values))


def bootstrap(terms: NDArray[Any], sizes: NDArray[Any], seed: int = 0) -> Interval:
    """The sum of n terms by the sum of their sizes, with a 95% interval of a bootstrap over the n.

    Args:
        terms: [n] at least one.
        sizes: [n] not all zero.
        seed: of the draws.
    """
    pairs = np.stack([terms, sizes], axis=1)
    total = pairs.sum(axis=0)
    drawn = np.random.default_rng(seed).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    sums = pairs[drawn].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1), (0.025, 0.975))
    return Interval(float(total[0] / total[1]), float(low), float(high), len(pairs))
