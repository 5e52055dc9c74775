"""Chance, measured: resamples of rows, the intervals they give, and tests between two models on the same rows.

Every model is resampled with the same draws, so the interval of a difference knows that both models met the same easy and
hard rows (Koehn, EMNLP 2004).
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from adaptory.evaluation.scores import Floats, Ints
from adaptory.evaluation.sums import Statistic
from adaptory.gate.evidence import Estimate, Paired

_CHUNK = 200  # resamples drawn at a time, to bound memory
_GROUPS = 200  # the jackknife leaves so many groups of rows out, one after the other
_MANY = 30  # documents: from then on Student's t is the normal curve, nearly
_ENOUGH = 10  # draws beyond a percentile that make it one; further out, the normal curve with the draws' own deviation


def draws(rows: int, resamples: int, seed: int, documents: Ints | None = None) -> Iterator[Floats]:
    """How often each row is drawn, in each resample. Rows of one document are drawn together: they err together."""
    random = np.random.default_rng(seed)
    units = rows if documents is None else int(documents.max()) + 1
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        picked = random.integers(0, units, size=(count, units))
        offsets = np.arange(count)[:, None] * units
        drawn = np.bincount((picked + offsets).ravel(), minlength=count * units).reshape(count, units).astype(float)
        yield drawn if documents is None else drawn[:, documents]


def numbered(groups: Sequence[str]) -> Ints | None:
    """The document of each row as a number; None where every row is its own."""
    found, numbers = np.unique(np.array(groups), return_inverse=True) if len(groups) else ((), np.zeros(0, dtype=int))
    return None if len(found) == len(groups) else numbers


def leave_out(rows: int, documents: Ints | None = None) -> Floats:
    """Weights that leave one document out, or one of 200 groups of them (their jackknife gives BCa its skew)."""
    units = np.arange(rows) if documents is None else documents
    groups = min(int(units.max()) + 1, _GROUPS)
    weights = np.ones((groups, rows))
    weights[units % groups, np.arange(rows)] = 0
    return weights


def estimate(
    value: float | None, drawn: Floats, confidence: float, left_out: Floats | None = None, units: int = _MANY
) -> Estimate:
    """A value with the interval of its draws; undefined if the value, or any draw of it, is. With `left_out`, by BCa.

    Of few documents the draws scatter too little (of one not at all), and the ends are never nearer than Student's t.
    """
    if value is None or units < 2 or not math.isfinite(value) or not np.isfinite(drawn).all():
        return Estimate(value=None, low=None, high=None)
    tail, deviation = (1 - confidence) / 2, float(drawn.std(ddof=1))
    low, high = ends(value, drawn, tail, left_out)
    if units < _MANY:
        wide = bounds(value, drawn, tail, units)
        low, high, deviation = min(low, wide[0]), max(high, wide[1]), deviation * math.sqrt(units / (units - 1))
    return Estimate(value=value, low=low, high=high, deviation=deviation)


def ends(value: float, drawn: Floats, tail: float, left_out: Floats | None = None) -> tuple[float, float]:
    """The ends of an interval with this much chance beyond each."""
    from scipy.stats import norm

    if tail * len(drawn) < _ENOUGH:
        reach = float(norm.isf(tail) * drawn.std(ddof=1))
        return value - reach, value + reach
    tails = np.array([tail, 1 - tail])
    if left_out is not None and np.ptp(drawn) > 0:
        tails = _corrected(value, drawn, tails, left_out)
    low, high = np.quantile(drawn, tails)
    return float(low), float(high)


def bounds(value: float, drawn: Floats, tail: float, units: int) -> tuple[float, float]:
    """Ends that a decision may rest on: the farther of the percentiles and Student's t for so many documents.

    Draws of few documents scatter too little, and percentiles of the far ends are passed by chance more often than they say: with
    ten documents a budget of 5% would have been 16% (simulated; tests/unit/test_spending.py).
    """
    from scipy.stats import t

    low, high = ends(value, drawn, tail)
    freedom = max(1, units - 1)
    reach = float(t.isf(tail, freedom) * drawn.std(ddof=1) * math.sqrt(units / freedom))
    return min(low, value - reach), max(high, value + reach)


def _corrected(value: float, drawn: Floats, tails: Floats, left_out: Floats) -> Floats:
    """Percentiles corrected for bias and skew (Efron 1987, as in Efron & Tibshirani 1993, chapter 14)."""
    from scipy.stats import norm

    below = (np.sum(drawn < value) + 0.5 * np.sum(drawn == value)) / len(drawn)
    bias = norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    off = left_out.mean() - left_out
    spread = float((off**2).sum()) ** 1.5
    skew = float((off**3).sum()) / (6 * spread) if spread > 0 else 0.0
    moved = bias + norm.ppf(tails)
    found: Floats = norm.cdf(bias + moved / (1 - skew * moved))
    return found


def paired(ours: Floats, theirs: Floats) -> tuple[int, int, int, float]:
    """Rows that the first model answered better, worse, and as well; and the chance of such a split if they were equals:
    the exact sign test, which of right and wrong answers is McNemar's exact test."""
    from scipy.stats import binomtest

    wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
    chance = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return wins, losses, len(ours) - wins - losses, chance


def permuted(ours: Floats, theirs: Floats, value: Statistic, rounds: int, seed: int, documents: Ints | None = None) -> float:
    """The chance of a difference this large if both models were equals: their answers are exchanged document by document
    (`ours` and `theirs` are rows x sums; the test of Fisher and Pitman, its chance estimated from `rounds` exchanges)."""
    whole = (ours.sum(axis=0, keepdims=True), theirs.sum(axis=0, keepdims=True))
    seen = abs(float(value(whole[0])[0] - value(whole[1])[0]))
    random, change, larger = np.random.default_rng(seed), theirs - ours, 0
    units = len(ours) if documents is None else int(documents.max()) + 1
    for start in range(0, rounds, _CHUNK):
        swaps = random.integers(0, 2, size=(min(_CHUNK, rounds - start), units)).astype(float)
        swapped = (swaps if documents is None else swaps[:, documents]) @ change
        gap = np.abs(value(whole[0] + swapped) - value(whole[1] - swapped))
        larger += int((~(gap < seen - 1e-12)).sum())
    return (larger + 1) / (rounds + 1)


def duel(other: str, ours: Floats, theirs: Floats, permutation: float | None) -> Paired:
    """Two models row by row, with the share of rows won (ties half) and its Wilson interval."""
    from scipy.stats import binomtest

    wins, losses, ties, chance = paired(ours, theirs)
    around = binomtest(round(wins + ties / 2), len(ours)).proportion_ci(0.95, method="wilson")
    rate = Estimate(value=(wins + ties / 2) / len(ours), low=float(around.low), high=float(around.high))
    return Paired(other=other, wins=wins, losses=losses, ties=ties, win_rate=rate, sign_test=chance, permutation=permutation)
