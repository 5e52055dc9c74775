"""The metrics, each as sums over rows: what a row contributes, and the value of a sum.

Sums can be resampled by one matrix product, so a bootstrap of a corpus score costs no more than one of a mean. The values
are those of scikit-learn, scipy and sacrebleu; tests hold them to that.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from adaptory.evaluation.scores import Answers, Floats, Truth
from adaptory.recipe import Metric

# What must survive a translation as it is: %(name)s, %s, %d, {name}, {0}, <b>, &amp;
PLACEHOLDER = re.compile(r"%\([^)]*\)[#0\- +]*\d*\.?\d*[a-zA-Z]|%[sdrif%]|\{[^{}\s]*\}|</?[a-zA-Z][^<>]*>|&[a-z]+;")


@dataclass(frozen=True)
class Measure:
    """A metric: `parts` gives rows x sums, `value` turns sums (resamples x sums) into values; NaN where undefined."""

    parts: Callable[[Truth, Answers, int], Floats]
    value: Callable[[Floats], Floats]
    title: str
    signature: str


def _columns(*columns: Any) -> Floats:
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def _ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = sums[:, 0] / sums[:, 1]
    return found


def _confusion(truth: Truth, answers: Answers, classes: int) -> Floats:
    assert truth.labels is not None and answers.picked is not None
    cells = np.zeros((len(truth.rows), classes * classes))
    cells[np.arange(len(truth.rows)), truth.labels * classes + answers.picked] = 1
    return cells


def _macro_f1(sums: Floats) -> Floats:
    """Mean F1 of the classes; a class never met and never picked counts 0."""
    classes = round(sums.shape[1] ** 0.5)
    confusion = sums.reshape(-1, classes, classes)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    both = confusion.sum(axis=1) + confusion.sum(axis=2)
    f1: Floats = np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0)
    return f1.mean(axis=1)  # type: ignore[no-any-return]


def _hits(truth: Truth, answers: Answers, classes: int) -> Floats:
    return _columns(truth.labels == answers.picked, np.ones(len(truth.rows)))


def _moments(truth: Truth, answers: Answers, classes: int) -> Floats:
    assert truth.values is not None and answers.score is not None
    if np.ptp(answers.score) == 0:  # rounding must not turn a constant's correlation into a number
        return np.zeros((len(truth.rows), 6))
    x, y = answers.score - answers.score.mean(), truth.values - truth.values.mean()
    return _columns(np.ones(len(x)), x, y, x * x, y * y, x * y)


def _pearson(sums: Floats) -> Floats:
    n, x, y, xx, yy, xy = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = xy / n - x * y / n**2
        spread = (xx / n - (x / n) ** 2) * (yy / n - (y / n) ** 2)
        found: Floats = np.where(spread > 0, covariance / np.sqrt(np.abs(spread)), np.nan)
    return found


def _errors(truth: Truth, answers: Answers, classes: int) -> Floats:
    assert truth.values is not None and answers.score is not None
    return _columns(np.abs(truth.values - answers.score), np.ones(len(truth.rows)))


def _corpus(make: Callable[[], Any]) -> tuple[Callable[[Truth, Answers, int], Floats], Callable[[Floats], Floats]]:
    def parts(truth: Truth, answers: Answers, classes: int) -> Floats:
        assert answers.texts is not None
        # sacrebleu's own statistics of each sentence: its corpus score is a function of their sums.
        found = make()._extract_corpus_statistics(list(answers.texts), [list(truth.texts)])
        return np.array(found, dtype=np.float64)

    def value(sums: Floats) -> Floats:
        metric = make()
        return np.array([metric._compute_score_from_stats([int(one) for one in line]).score for line in sums])

    return parts, value


@cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU()


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _equal(truth: Truth, answers: Answers, classes: int) -> Floats:
    assert answers.texts is not None
    same = [said.strip() == right.strip() for said, right in zip(answers.texts, truth.texts, strict=True)]
    return _columns(same, np.ones(len(same)))


def _survival(truth: Truth, answers: Answers, classes: int) -> Floats:
    """Of the placeholders of what was asked, those that the answer has too."""
    assert answers.texts is not None
    wanted = [Counter(PLACEHOLDER.findall(text)) for text in truth.asked]
    found = [Counter(PLACEHOLDER.findall(text)) for text in answers.texts]
    kept = [(want & have).total() for want, have in zip(wanted, found, strict=True)]
    return _columns(kept, [want.total() for want in wanted])


def _stops(truth: Truth, answers: Answers, classes: int) -> Floats:
    return _columns(answers.stopped, np.ones(len(truth.rows)))


def _likelihood(truth: Truth, answers: Answers, classes: int) -> Floats:
    return _columns(answers.loss, answers.tokens)


def _perplexity(sums: Floats) -> Floats:
    return np.exp(np.minimum(_ratio(sums), 700))


def _preferred(truth: Truth, answers: Answers, classes: int) -> Floats:
    assert answers.score is not None
    # A tie is half a hit: a model that says the same of both knows nothing.
    return _columns((answers.score > 0) + 0.5 * (answers.score == 0), np.ones(len(truth.rows)))


MEASURES: dict[Metric, Measure] = {
    "macro_f1": Measure(_confusion, _macro_f1, "macro F1", "F1 per class, unweighted mean, absent classes 0"),
    "accuracy": Measure(_hits, _ratio, "accuracy", "share of rows"),
    "pearson_r": Measure(_moments, _pearson, "Pearson r", "score against the value behind the class"),
    "mae": Measure(_errors, _ratio, "mean absolute error", "in units of the value"),
    "bleu": Measure(*_corpus(_bleu), "BLEU", "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"),
    "chrf": Measure(*_corpus(_chrf), "chrF", "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"),
    "exact_match": Measure(_equal, _ratio, "exact match", "share of answers equal to the right one, outer spaces aside"),
    "placeholders": Measure(_survival, _ratio, "placeholders", "share of the placeholders of the question"),
    "stopped": Measure(_stops, _ratio, "stopped by itself", "share of answers that ended before the limit"),
    "perplexity": Measure(_likelihood, _perplexity, "perplexity", "exp(nats per token of this base)"),
    "reward_accuracy": Measure(_preferred, _ratio, "preference accuracy", "share of pairs ranked as the person did, ties half"),
}
