"""Are chances honest? Of the rows that were given 80%, are 80% right?"""

from collections.abc import Callable
from typing import Any

import numpy as np

from adaptory.evaluation.scores import Answers, Floats, Truth
from adaptory.evaluation.sums import Statistic, columns, ratio, undefined

BINS = 15


def temperature_of(chances: Floats, labels: Any) -> float:
    """What the logarithms must be divided by so that the chances of these rows are likeliest (Guo et al., ICML 2017)."""
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def surprise(power: float) -> float:
        return float(-np.log(np.maximum(fitted(chances, float(np.exp(power)))[rows, labels], 1e-300)).mean())

    return float(np.exp(minimize_scalar(surprise, bounds=(-3.0, 3.0), method="bounded").x))


def fitted(chances: Floats, temperature: float) -> Floats:
    """The chances with their logarithms divided by a temperature."""
    with np.errstate(divide="ignore"):
        logits = np.log(chances) / temperature
    scaled: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def bins(chances: Floats, labels: Any) -> Floats:
    """Rows x (3 BINS): where a row's largest chance lies in one of equal bins: 1, that chance, and whether it was right."""
    sure, picked = chances.max(axis=1), chances.argmax(axis=1)
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    found = np.zeros((len(sure), 3, BINS))
    found[np.arange(len(sure)), :, place] = columns(np.ones(len(sure)), sure, picked == labels)
    return found.reshape(len(sure), -1)


def expected(*, scaled: bool) -> Callable[[Truth, Answers, int], Statistic]:
    def of(truth: Truth, answers: Answers, classes: int) -> Statistic:
        if answers.chances is None or truth.labels is None or (scaled and answers.temperature is None):
            return undefined
        chances = fitted(answers.chances, answers.temperature) if scaled and answers.temperature else answers.chances
        rows = bins(chances, truth.labels)

        def value(weights: Floats) -> Floats:
            count, sure, right = np.moveaxis((weights @ rows).reshape(-1, 3, BINS), 1, 0)
            return ratio(columns(np.abs(right - sure).sum(axis=1), count.sum(axis=1)))

        return value

    return of


def brier(truth: Truth, answers: Answers, classes: int) -> Statistic:
    if answers.chances is None or truth.labels is None:
        return undefined
    wanted = np.eye(classes)[truth.labels]
    rows = columns(((answers.chances - wanted) ** 2).sum(axis=1), np.ones(len(wanted)))
    return lambda weights: ratio(weights @ rows)
