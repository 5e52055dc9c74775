"""The numbers and their intervals: every model resampled with the same draws of rows.

So the interval of a difference knows that both models met the same easy and hard rows (Koehn, EMNLP 2004).
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from adaptory.evaluation.measures import MEASURES
from adaptory.evaluation.scores import Answers, Floats, Ints, Truth
from adaptory.gate.evidence import ClassScores, Difference, Estimate, ModelScores
from adaptory.recipe import Metric

_CHUNK = 200  # resamples drawn at a time, to bound memory


def values(
    truth: Truth, answers: Answers, metrics: Sequence[Metric], classes: int, rows: Ints | None = None
) -> dict[Metric, float | None]:
    """Each metric on the rows (or all of them); None where it is not defined."""
    pick = slice(None) if rows is None else rows
    found: dict[Metric, float | None] = {}
    for metric in metrics:
        sums = MEASURES[metric].parts(truth, answers, classes)[pick].sum(axis=0, keepdims=True)
        value = float(MEASURES[metric].value(sums)[0])
        found[metric] = value if math.isfinite(value) else None
    return found


def compare(
    truth: Truth, answers: list[Answers], metrics: Sequence[Metric], classes: tuple[str, ...], resamples: int,
    confidence: float, seed: int, sources: Sequence[str] = (),
) -> tuple[tuple[ModelScores, ...], tuple[Difference, ...]]:  # fmt: skip
    """Every model's numbers with intervals, and the paired differences of the first model to all others.

    On all rows, and again on those of each of `sources`.
    """
    count = len(classes)
    models = []
    there = [source for source in sources if source in truth.sources]  # of no rows nothing is known
    parts = {source: _estimates(truth, answers, metrics, count, resamples, confidence, seed, source) for source in there}
    whole, gaps = _estimates(truth, answers, metrics, count, resamples, confidence, seed, None)
    for place, model in enumerate(answers):
        models.append(ModelScores(
            name=model.name,
            kind=model.kind,  # type: ignore[arg-type]
            metrics=whole[place],
            classes=per_class(truth, model, classes),
            slices={name: values(truth, model, metrics, count, np.flatnonzero(rows)) for name, rows in slices(truth).items()},
            by_source={source: found[place] for source, (found, _) in parts.items()},
        ))  # fmt: skip
    differences = [*gaps, *(gap for _, found in parts.values() for gap in found)]
    return tuple(models), tuple(differences)


def _estimates(
    truth: Truth, answers: list[Answers], metrics: Sequence[Metric], count: int, resamples: int, confidence: float, seed: int,
    source: str | None,
) -> tuple[list[dict[Metric, Estimate]], list[Difference]]:  # fmt: skip
    rows = None if source is None else np.flatnonzero(np.array(truth.sources) == source)
    drawn = [resampled(truth, model, metrics, count, resamples, seed, rows) for model in answers]
    points = [values(truth, model, metrics, count, rows) for model in answers]
    found = [{m: estimate(point[m], draws[m], confidence) for m in point} for point, draws in zip(points, drawn, strict=True)]
    gaps = [
        Difference(
            other=model.name,
            metric=metric,
            estimate=estimate(_minus(points[0][metric], point[metric]), drawn[0][metric] - draws[metric], confidence),
            source=source,
        )
        for model, point, draws in zip(answers[1:], points[1:], drawn[1:], strict=True)
        for metric in point
    ]
    return found, gaps


def per_class(truth: Truth, answers: Answers, classes: tuple[str, ...]) -> dict[str, ClassScores]:
    """Precision, recall and F1 of each class; nothing in a task without classes."""
    if truth.labels is None:
        return {}
    from sklearn.metrics import precision_recall_fscore_support

    table = precision_recall_fscore_support(truth.labels, answers.picked, labels=list(range(len(classes))), zero_division=0)
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


def slices(truth: Truth) -> dict[str, npt.NDArray[np.bool_]]:
    """Which rows are in each slice: those of a source, and those with a mark (if there are any)."""
    sources = np.array(truth.sources)
    found = {name: sources == name for name in sorted(set(truth.sources))}
    return found | {name: rows for name, rows in truth.marks.items() if rows.any()}


def resampled(
    truth: Truth, answers: Answers, metrics: Sequence[Metric], classes: int, resamples: int, seed: int,
    rows: Ints | None = None,
) -> dict[Metric, Floats]:  # fmt: skip
    """Each metric on `resamples` draws of the rows (or all); the same seed draws the same rows for every model."""
    pick = slice(None) if rows is None else rows
    parts = {metric: MEASURES[metric].parts(truth, answers, classes)[pick] for metric in metrics}
    found: dict[Metric, list[Floats]] = {metric: [] for metric in metrics}
    for weights in draws(len(truth.rows) if rows is None else len(rows), resamples, seed):
        for metric in metrics:
            found[metric].append(MEASURES[metric].value(weights @ parts[metric]))
    return {metric: np.concatenate(several) for metric, several in found.items()}


def draws(rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn, in each resample."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        picked = random.integers(0, rows, size=(count, rows))
        offsets = np.arange(count)[:, None] * rows
        yield np.bincount((picked + offsets).ravel(), minlength=count * rows).reshape(count, rows).astype(float)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
