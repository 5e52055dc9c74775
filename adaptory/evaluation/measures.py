"""The metrics, each as a function of how often every row counts.

Most are sums over rows, which are resampled by one matrix product, so a bootstrap of a corpus score costs no more than one of
a mean. The values are those of scikit-learn, scipy and sacrebleu; tests hold them to that.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from adaptory.evaluation.calibration import BINS, brier, expected
from adaptory.evaluation.ranks import roc_auc, spearman_r
from adaptory.evaluation.scores import Answers, Floats, Truth
from adaptory.evaluation.sums import Statistic, columns, pearson, ratio, undefined
from adaptory.recipe import OF_A_CLASS, Metric

# What must survive a translation as it is: %(name)s, %s, %d, {name}, {0}, <b>, &amp;
PLACEHOLDER = re.compile(r"%\([^)]*\)[#0\- +]*\d*\.?\d*[a-zA-Z]|%[sdrif%]|\{[^{}\s]*\}|</?[a-zA-Z][^<>]*>|&[a-z]+;")


@dataclass(frozen=True)
class Measure:
    """A metric: `of` prepares it for one model's answers; what it gives back values any weighting of the rows."""

    of: Callable[[Truth, Answers, int], Statistic]
    title: str
    signature: str
    # rows x sums, and sums -> values, where a metric is made of sums: they can be exchanged row by row between two models.
    sums: tuple[Callable[[Truth, Answers, int], Floats], Callable[[Floats], Floats]] | None = None


def _summed(
    parts: Callable[[Truth, Answers, int], Floats], value: Callable[[Floats], Floats], title: str, signature: str
) -> Measure:
    def of(truth: Truth, answers: Answers, classes: int) -> Statistic:
        rows = parts(truth, answers, classes)
        return lambda weights: value(weights @ rows)

    return Measure(of, title, signature, (parts, value))


def _confusion(truth: Truth, answers: Answers, classes: int) -> Floats:
    assert truth.labels is not None and answers.picked is not None
    cells = np.zeros((len(truth.rows), classes * classes))
    cells[np.arange(len(truth.rows)), truth.labels * classes + answers.picked] = 1
    return cells


def _by_class(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """Hits, rows, and picks of every class (draws x classes each)."""
    classes = round(sums.shape[1] ** 0.5)
    confusion = sums.reshape(-1, classes, classes)
    return np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2), confusion.sum(axis=1)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _f1(sums: Floats) -> Floats:
    hits, rows, picks = _by_class(sums)
    return _share(2 * hits, rows + picks)


def _macro_f1(sums: Floats) -> Floats:
    """Mean F1 of the classes that are met or picked: a class that a draw (or a slice) lacks says nothing of a model."""
    _, rows, picks = _by_class(sums)
    return ratio(columns(_f1(sums).sum(axis=1), (rows + picks > 0).sum(axis=1)))


def _weighted_f1(sums: Floats) -> Floats:
    rows = _by_class(sums)[1]
    return ratio(columns((_f1(sums) * rows).sum(axis=1), rows.sum(axis=1)))


def of_class(metric: Metric, place: int) -> Measure:
    """Precision, recall or F1 of one class, on all rows."""
    values: dict[str, Callable[[Floats], Floats]] = {
        "precision": lambda sums: _share(_by_class(sums)[0], _by_class(sums)[2])[:, place],
        "recall": lambda sums: _share(_by_class(sums)[0], _by_class(sums)[1])[:, place],
        "f1": lambda sums: _f1(sums)[:, place],
    }
    return _summed(_confusion, values[metric], metric, "of this class; 0 where nothing is to be divided by")


def _hits(truth: Truth, answers: Answers, classes: int) -> Floats:
    return columns(truth.labels == answers.picked, np.ones(len(truth.rows)))


def _pearson_r(truth: Truth, answers: Answers, classes: int) -> Statistic:
    assert truth.values is not None and answers.score is not None
    if np.ptp(answers.score) == 0:  # rounding must not turn a constant's correlation into a number
        return undefined
    x, y = answers.score - answers.score.mean(), truth.values - truth.values.mean()
    rows = columns(np.ones(len(x)), x, y, x * x, y * y, x * y)
    return lambda weights: pearson(weights @ rows)


def _errors(truth: Truth, answers: Answers, classes: int) -> Floats:
    assert truth.values is not None and answers.score is not None
    return columns(np.abs(truth.values - answers.score), np.ones(len(truth.rows)))


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
    return columns(same, np.ones(len(same)))


def _survival(truth: Truth, answers: Answers, classes: int) -> Floats:
    """Of the placeholders of what was asked, those that the answer has too."""
    assert answers.texts is not None
    wanted = [Counter(PLACEHOLDER.findall(text)) for text in truth.asked]
    found = [Counter(PLACEHOLDER.findall(text)) for text in answers.texts]
    kept = [(want & have).total() for want, have in zip(wanted, found, strict=True)]
    return columns(kept, [want.total() for want in wanted])


def _stops(truth: Truth, answers: Answers, classes: int) -> Floats:
    return columns(answers.stopped, np.ones(len(truth.rows)))


def _likelihood(truth: Truth, answers: Answers, classes: int) -> Floats:
    return columns(answers.loss, answers.tokens)


def _perplexity(sums: Floats) -> Floats:
    return np.exp(np.minimum(ratio(sums), 700))


def _preferred(truth: Truth, answers: Answers, classes: int) -> Floats:
    assert answers.score is not None
    # A tie is half a hit: a model that says the same of both knows nothing.
    return columns((answers.score > 0) + 0.5 * (answers.score == 0), np.ones(len(truth.rows)))


def credit(truth: Truth, answers: Answers) -> Floats:
    """How well each row was answered, by itself; more is better. What two models are compared by, row by row."""
    found: Any
    if truth.labels is not None and answers.picked is not None:
        found = truth.labels == answers.picked
    elif truth.values is not None and answers.score is not None:
        found = -np.abs(truth.values - answers.score)
    elif answers.texts is not None:
        pairs = zip(answers.texts, truth.texts, strict=True)
        found = [_chrf().sentence_score(said, [right]).score for said, right in pairs]
    elif answers.loss is not None and answers.tokens is not None:
        found = -answers.loss / np.maximum(answers.tokens, 1)
    else:
        assert answers.score is not None
        found = (answers.score > 0) + 0.5 * (answers.score == 0)
    return np.asarray(found, dtype=np.float64)


MEASURES: dict[Metric, Measure] = {
    "macro_f1": _summed(_confusion, _macro_f1, "macro F1", "F1 per class, unweighted mean of the classes met or picked"),
    "weighted_f1": _summed(_confusion, _weighted_f1, "weighted F1", "F1 per class, mean weighted by the rows of the class"),
    "accuracy": _summed(_hits, ratio, "accuracy", "share of rows"),
    "roc_auc": Measure(roc_auc, "ROC AUC", "one class against the rest, unweighted mean, ties half"),
    "brier": Measure(brier, "Brier score", "sum over the classes of squared differences, 0 to 2"),
    "ece": Measure(
        expected(scaled=False), "calibration error", f"ECE of the picked class, {BINS} equal bins, its interval without bias"
    ),
    "ece_fitted": Measure(
        expected(scaled=True), "calibration error at its temperature", "the same, temperature from validation rows"
    ),
    "pearson_r": Measure(_pearson_r, "Pearson r", "score against the value behind the class"),
    "spearman_r": Measure(spearman_r, "Spearman r", "Pearson r of mid-ranks"),
    "mae": _summed(_errors, ratio, "mean absolute error", "in units of the value"),
    "bleu": _summed(*_corpus(_bleu), "BLEU", "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"),
    "chrf": _summed(*_corpus(_chrf), "chrF", "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"),
    "exact_match": _summed(_equal, ratio, "exact match", "share of answers equal to the right one, outer spaces aside"),
    "placeholders": _summed(_survival, ratio, "placeholders", "share of the placeholders of the question"),
    "stopped": _summed(_stops, ratio, "stopped by itself", "share of answers that ended before the limit"),
    "perplexity": _summed(_likelihood, _perplexity, "perplexity", "exp(nats per token of this base)"),
    "reward_accuracy": _summed(_preferred, ratio, "preference accuracy", "share of pairs ranked as the person did, ties half"),
}


def measure(metric: Metric, where: str | None, classes: Sequence[str]) -> Measure:
    """The measure of a metric; in a slice `class=...`, of that class."""
    if metric in OF_A_CLASS:
        assert where is not None
        return of_class(metric, list(classes).index(where.removeprefix("class=")))
    return MEASURES[metric]
