"""The numbers and their intervals. scikit-learn and scipy give the values; the resampling is paired.
(Both are imported where they are used: together they take a second and a half.)

Every model is resampled with the same draws of rows, so that the interval of a difference knows that both
models met the same easy and hard rows (Koehn, EMNLP 2004).
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from adaptory.evaluation.scores import Answers, Floats, Ints, Truth
from adaptory.gate.evidence import ClassScores, Difference, Estimate, ModelScores
from adaptory.recipe import Metric

_CHUNK = 200  # resamples drawn at a time, to bound memory


def values(truth: Truth, answers: Answers, classes: int, rows: Ints | None = None) -> dict[Metric, float | None]:
    """Each metric on the rows (or all of them); None where it is not defined."""
    from sklearn.metrics import accuracy_score, f1_score

    pick = slice(None) if rows is None else rows
    labels, picked = truth.labels[pick], answers.picked[pick]
    numbers = list(range(classes))
    found: dict[Metric, float | None] = {
        "macro_f1": float(f1_score(labels, picked, average="macro", labels=numbers, zero_division=0)),
        "accuracy": float(accuracy_score(labels, picked)),
    }
    if truth.values is not None:
        found["pearson_r"] = _pearson(answers.score[pick], truth.values[pick])
    return found


def compare(
    truth: Truth, answers: list[Answers], classes: tuple[str, ...], resamples: int, confidence: float, seed: int
) -> tuple[tuple[ModelScores, ...], tuple[Difference, ...]]:
    """Every model's numbers with intervals, and the paired differences of the first model to all others."""
    drawn = [_resampled(truth, model, len(classes), resamples, seed) for model in answers]
    points = [values(truth, model, len(classes)) for model in answers]
    models = tuple(
        ModelScores(
            name=model.name,
            kind=model.kind,  # type: ignore[arg-type]
            metrics={m: estimate(point[m], draws[m], confidence) for m in point},
            classes=per_class(truth, model, classes),
            slices=_slices(truth, model, len(classes)),
        )
        for model, point, draws in zip(answers, points, drawn, strict=True)
    )
    differences = tuple(
        Difference(
            other=model.name,
            metric=metric,
            estimate=estimate(_minus(points[0][metric], point[metric]), drawn[0][metric] - draws[metric], confidence),
        )
        for model, point, draws in zip(answers[1:], points[1:], drawn[1:], strict=True)
        for metric in point
    )
    return models, differences


def per_class(truth: Truth, answers: Answers, classes: tuple[str, ...]) -> dict[str, ClassScores]:
    """Precision, recall and F1 of each class."""
    from sklearn.metrics import precision_recall_fscore_support

    table = precision_recall_fscore_support(
        truth.labels, answers.picked, labels=list(range(len(classes))), zero_division=0
    )
    return {
        name: ClassScores(precision=float(p), recall=float(r), f1=float(f), rows=int(n))
        for name, p, r, f, n in zip(classes, *table, strict=True)
    }


def estimate(value: float | None, draws: Floats, confidence: float) -> Estimate:
    """A value with its percentile interval; undefined if the value, or any draw of it, is."""
    if value is None or not math.isfinite(value) or not np.isfinite(draws).all():
        return Estimate(value=None, low=None, high=None)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value=value, low=float(low), high=float(high))


def _slices(truth: Truth, answers: Answers, classes: int) -> dict[str, dict[Metric, float | None]]:
    return {name: values(truth, answers, classes, np.flatnonzero(rows)) for name, rows in slices(truth).items()}


def slices(truth: Truth) -> dict[str, npt.NDArray[np.bool_]]:
    """Which rows are in each slice: those of a source, and those with a mark (if there are any)."""
    sources = np.array(truth.sources)
    found = {name: sources == name for name in sorted(set(truth.sources))}
    return found | {name: rows for name, rows in truth.marks.items() if rows.any()}


def _resampled(truth: Truth, answers: Answers, classes: int, resamples: int, seed: int) -> dict[Metric, Floats]:
    """Each metric on `resamples` draws of the rows; the same seed draws the same rows for every model."""
    cells = np.zeros((len(truth.rows), classes * classes))
    cells[np.arange(len(truth.rows)), truth.labels * classes + answers.picked] = 1
    found: dict[Metric, list[Floats]] = {"macro_f1": [], "accuracy": []}
    if truth.values is not None:
        found["pearson_r"] = []
    for weights in _draws(len(truth.rows), resamples, seed):
        confusion = (weights @ cells).reshape(-1, classes, classes)
        found["macro_f1"].append(_macro_f1(confusion))
        found["accuracy"].append(np.trace(confusion, axis1=1, axis2=2) / len(truth.rows))
        if truth.values is not None:
            found["pearson_r"].append(_weighted_pearson(weights, answers.score, truth.values))
    return {metric: np.concatenate(parts) for metric, parts in found.items()}


def _draws(rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn, in each resample."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        picked = random.integers(0, rows, size=(count, rows))
        offsets = np.arange(count)[:, None] * rows
        yield np.bincount((picked + offsets).ravel(), minlength=count * rows).reshape(count, rows).astype(float)


def _macro_f1(confusion: Floats) -> Floats:
    """Mean F1 of the classes, from confusion matrices (resamples x true x picked); a class never met counts 0."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    both = confusion.sum(axis=1) + confusion.sum(axis=2)
    f1: Floats = np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0)
    return f1.mean(axis=1)  # type: ignore[no-any-return]


def _weighted_pearson(weights: Floats, x: Floats, y: Floats) -> Floats:
    x, y = x - x.mean(), y - y.mean()
    n = weights.sum(axis=1)
    mx, my = weights @ x / n, weights @ y / n
    covariance = weights @ (x * y) / n - mx * my
    spread = (weights @ (x * x) / n - mx**2) * (weights @ (y * y) / n - my**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        r: Floats = covariance / np.sqrt(spread)
    return r


def _pearson(x: Floats, y: Floats) -> float | None:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    from scipy.stats import pearsonr

    return float(pearsonr(x, y).statistic)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
