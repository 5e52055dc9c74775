"""The numbers are those of scikit-learn and scipy; the intervals are those of a paired bootstrap over rows."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import bootstrap, pearsonr
from sklearn.metrics import accuracy_score, f1_score

from adaptory.evaluation import metrics
from adaptory.evaluation.scores import Answers, Truth, from_chances
from adaptory.recipe import Metric

CLASSES = ("negative", "neutral", "positive")
ALL: tuple[Metric, ...] = ("macro_f1", "accuracy", "pearson_r")


def sample(rows: int = 400, seed: int = 0) -> tuple[Truth, Answers, Answers]:
    random = np.random.default_rng(seed)
    values = random.normal(0, 1.5, rows)
    labels = np.where(values > 0.5, 2, np.where(values < -0.5, 0, 1))

    def guess(name: str, kind: str, noise: float) -> Answers:
        score = values + random.normal(0, noise, rows)
        logits = np.stack([-score, np.full(rows, 0.3), score], axis=1)
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return from_chances(name, kind, chances)

    truth = Truth(tuple(map(str, range(rows))), tuple("ab"[i % 2] for i in range(rows)), labels, values)
    return truth, guess("candidate", "candidate", 0.8), guess("tfidf", "baseline", 1.5)


def test_values_are_the_libraries() -> None:
    truth, good, _ = sample()
    found = metrics.values(truth, good, ALL, 3)
    assert truth.values is not None
    assert found["macro_f1"] == pytest.approx(f1_score(truth.labels, good.picked, average="macro"), abs=1e-12)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth.labels, good.picked), abs=1e-12)
    assert found["pearson_r"] == pytest.approx(pearsonr(good.score, truth.values).statistic, abs=1e-9)


def test_a_draw_is_scored_as_the_libraries_would_score_its_rows() -> None:
    truth, good, _ = sample(60)
    assert truth.values is not None
    drawn = metrics.resampled(truth, good, ALL, 3, 5, seed=7)
    weights = next(metrics.draws(60, 5, seed=7))
    for place, counts in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(60), counts)
        assert len(rows) == 60
        macro = f1_score(truth.labels[rows], good.picked[rows], average="macro", labels=[0, 1, 2], zero_division=0)
        assert drawn["macro_f1"][place] == pytest.approx(macro)
        assert drawn["accuracy"][place] == pytest.approx(accuracy_score(truth.labels[rows], good.picked[rows]))
        assert drawn["pearson_r"][place] == pytest.approx(pearsonr(good.score[rows], truth.values[rows]).statistic)


def test_the_interval_of_a_difference_is_scipys_paired_bootstrap() -> None:
    truth, good, poor = sample()
    _, differences = metrics.compare(truth, [good, poor], ALL, CLASSES, 4000, 0.95, seed=1)
    ours = next(d.estimate for d in differences if d.metric == "accuracy")

    def gap(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
        return float((labels == a).mean() - (labels == b).mean())

    theirs = bootstrap(
        (truth.labels, good.picked, poor.picked), gap, paired=True, vectorized=False, n_resamples=2000, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_pairing_narrows_the_interval_of_two_models_that_err_on_the_same_rows() -> None:
    truth, good, _ = sample()
    twin = Answers("twin", "baseline", np.where(np.arange(400) % 100 == 0, 1, good.picked), good.score, None)
    models, differences = metrics.compare(truth, [good, twin], ALL, CLASSES, 1000, 0.95, seed=1)
    own = models[0].metrics["accuracy"]
    gap = next(d.estimate for d in differences if d.metric == "accuracy")
    assert own.low is not None and own.high is not None and gap.low is not None and gap.high is not None
    assert gap.high - gap.low < (own.high - own.low) / 2


def test_identical_answers_differ_by_exactly_nothing() -> None:
    truth, good, _ = sample()
    _, differences = metrics.compare(truth, [good, good], ALL, CLASSES, 500, 0.95, seed=1)
    for difference in differences:
        assert (difference.estimate.value, difference.estimate.low, difference.estimate.high) == (0, 0, 0)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    truth, good, poor = sample()
    first = metrics.compare(truth, [good, poor], ALL, CLASSES, 500, 0.95, seed=1)
    assert metrics.compare(truth, [good, poor], ALL, CLASSES, 500, 0.95, seed=1) == first
    assert metrics.compare(truth, [good, poor], ALL, CLASSES, 500, 0.95, seed=2) != first


def test_the_correlation_of_a_constant_is_undefined_and_not_zero() -> None:
    truth, _, _ = sample()
    constant = Answers("majority", "baseline", np.zeros(400, int), np.zeros(400), None)
    models, _ = metrics.compare(truth, [constant], ALL, CLASSES, 500, 0.95, seed=1)
    assert models[0].metrics["pearson_r"].value is None
    assert not models[0].metrics["pearson_r"].defined


def test_95_percent_intervals_hold_the_truth_about_95_percent_of_the_time() -> None:
    random = np.random.default_rng(3)
    held = 0
    for trial in range(200):
        labels = np.zeros(300, int)
        picked = (random.random(300) > 0.8).astype(int)  # true accuracy 0.8
        truth = Truth(tuple(map(str, range(300))), ("a",) * 300, labels, None)
        model = Answers("candidate", "candidate", picked, picked.astype(float), None)
        found = metrics.compare(truth, [model], ("accuracy",), ("x", "y"), 400, 0.95, seed=trial)[0][0].metrics["accuracy"]
        assert found.low is not None and found.high is not None
        held += found.low <= 0.8 <= found.high
    assert 178 <= held <= 199  # binomial(200, 0.95): 0.05% on either side


def test_the_numbers_of_a_source_are_those_of_its_rows_alone() -> None:
    truth, good, poor = sample()
    mixed = replace(truth, sources=tuple("ab"[place % 3 == 0] for place in range(len(truth.rows))))
    models, differences = metrics.compare(mixed, [good, poor], ALL, CLASSES, 500, 0.95, seed=1, sources=["a"])
    rows = np.flatnonzero(np.array(mixed.sources) == "a")
    names = tuple(truth.rows[n] for n in rows)
    alone = replace(truth, rows=names, sources=("a",) * len(rows), labels=truth.labels[rows], values=truth.values[rows])
    answers = [replace(one, picked=one.picked[rows], score=one.score[rows], chances=None) for one in (good, poor)]
    expected, gaps = metrics.compare(alone, answers, ALL, CLASSES, 500, 0.95, seed=1)
    for found, wanted in zip(models, expected, strict=True):
        assert set(found.by_source) == {"a"}
        for metric in ALL:
            assert vars(found.by_source["a"][metric]) == pytest.approx(vars(wanted.metrics[metric]))
    told = [gap for gap in differences if gap.source == "a"]
    assert [vars(gap.estimate) for gap in told] == [pytest.approx(vars(gap.estimate)) for gap in gaps]


def test_of_a_source_without_rows_nothing_is_measured() -> None:
    truth, good, poor = sample()
    models, differences = metrics.compare(truth, [good, poor], ALL, CLASSES, 300, 0.95, seed=1, sources=["nowhere"])
    assert all(model.by_source == {} for model in models) and all(gap.source is None for gap in differences)
