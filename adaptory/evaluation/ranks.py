"""Metrics of order: they weigh ranks, so every draw of rows is ranked again."""

from typing import Any

import numpy as np

from adaptory.evaluation.scores import Answers, Floats, Truth
from adaptory.evaluation.sums import Statistic, columns, pearson, ratio, undefined


def _groups(values: Floats) -> tuple[Any, Any]:
    """The order of the values, and where each group of equal ones begins in it."""
    order = np.argsort(values, kind="stable")
    return order, np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])


def spearman_r(truth: Truth, answers: Answers, classes: int) -> Statistic:
    """Pearson's r of the ranks within each draw, equal values sharing the mean of theirs."""
    assert truth.values is not None and answers.score is not None
    if np.ptp(answers.score) == 0:
        return undefined
    both = [_groups(answers.score), _groups(truth.values)]

    def value(weights: Floats) -> Floats:
        total = weights.sum(axis=1, keepdims=True)
        ranks = []
        for order, starts in both:
            counts = np.add.reduceat(weights[:, order], starts, axis=1)
            middle = counts.cumsum(axis=1) - counts / 2 - total / 2  # around 0
            ranks.append(np.empty_like(weights))
            ranks[-1][:, order] = np.repeat(middle, np.diff(np.r_[starts, len(order)]), axis=1)
        x, y = ranks
        sums = [weights, weights * x, weights * y, weights * x * x, weights * y * y, weights * x * y]
        return pearson(columns(*(one.sum(axis=1) for one in sums)))

    return value


def roc_auc(truth: Truth, answers: Answers, classes: int) -> Statistic:
    """One class against the rest, unweighted mean: how often a row of the class gets more than one of another, ties half.

    A class that a draw lacks is left out of its mean.
    """
    if answers.chances is None or truth.labels is None:
        return undefined
    orders = [(*_groups(answers.chances[:, place]), truth.labels == place) for place in range(classes)]

    def value(weights: Floats) -> Floats:
        found = []
        for order, starts, own in orders:
            drawn, inside = weights[:, order], own[order]
            ours = np.add.reduceat(drawn * inside, starts, axis=1)
            others = np.add.reduceat(drawn * ~inside, starts, axis=1)
            won = (ours * (others.cumsum(axis=1) - others / 2)).sum(axis=1)
            found.append(ratio(columns(won, ours.sum(axis=1) * others.sum(axis=1))))
        known = np.isfinite(found)
        return ratio(columns(np.where(known, found, 0.0).sum(axis=0), known.sum(axis=0)))

    return value
