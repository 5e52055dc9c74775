"""What the metrics are made of: sums over rows, and what they are divided by."""

from collections.abc import Callable
from typing import Any

import numpy as np

from adaptory.evaluation.scores import Floats

Statistic = Callable[[Floats], Floats]  # how often each row counts (draws x rows) -> the value of each draw; NaN: undefined


def columns(*columns: Any) -> Floats:
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = sums[:, 0] / sums[:, 1]
    return found


def undefined(weights: Floats) -> Floats:
    return np.full(len(weights), np.nan)


def pearson(sums: Floats) -> Floats:
    n, x, y, xx, yy, xy = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = xy / n - x * y / n**2
        spread = (xx / n - (x / n) ** 2) * (yy / n - (y / n) ** 2)
        found: Floats = np.where(spread > 0, covariance / np.sqrt(np.abs(spread)), np.nan)
    return found
