"""The numbers are those of scikit-learn and scipy; the intervals are those of a paired bootstrap over rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap, pearsonr, spearmanr
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, roc_auc_score

from adaptory.evaluation import metrics
from adaptory.evaluation.measures import MEASURES
from adaptory.evaluation.metrics import Plan
from adaptory.evaluation.resampling import draws
from adaptory.evaluation.scores import Answers, Truth, from_chances
from adaptory.recipe import Metric

CLASSES = ("negative", "neutral", "positive")
ALL: tuple[Metric, ...] = ("macro_f1", "accuracy", "pearson_r")


def compare(truth: Truth, answers: list[Answers], resamples: int, seed: int, **more: Any) -> Any:
    return metrics.compare(truth, answers, Plan(ALL, CLASSES, resamples, seed=seed, **more))


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


def test_a_class_that_a_draw_lacks_says_nothing_of_a_model() -> None:
    labels = np.array([0] * 60 + [1] * 60 + [2] * 3)
    truth = Truth(tuple(map(str, range(123))), ("a",) * 123, labels, labels.astype(float))
    perfect = from_chances("candidate", "candidate", np.eye(3)[labels])
    found = metrics.compare(truth, [perfect], Plan(("macro_f1", "roc_auc"), CLASSES, 500))
    for metric in ("macro_f1", "roc_auc"):
        one = found[0][0].metrics[metric]
        assert (one.value, one.low, one.high) == (1, 1, 1), metric
    few = truth.take(np.arange(120))
    picked = from_chances("candidate", "candidate", np.eye(3)[few.labels])
    assert metrics.values(few, picked, ("macro_f1",), 3)["macro_f1"] == f1_score(few.labels, picked.picked, average="macro") == 1


def test_of_few_documents_intervals_are_wide_and_of_one_there_is_none() -> None:
    labels, random = np.tile([0, 1, 2], 40), np.random.default_rng(0)
    answers = [from_chances(name, kind, np.eye(3)[np.where(random.random(120) < wrong, 1, labels)])
               for name, kind, wrong in (("candidate", "candidate", 0.3), ("champion", "champion", 0.2))]  # fmt: skip

    def width(documents: int) -> float | None:
        groups = tuple(str(row % documents) for row in range(120))
        truth = Truth(tuple(map(str, range(120))), ("a",) * 120, labels, labels.astype(float), groups=groups)
        one = metrics.compare(truth, answers, Plan(("accuracy",), CLASSES, 1000))[1][0].estimate
        return None if one.low is None or one.high is None else one.high - one.low

    wide = {documents: width(documents) for documents in (1, 2, 4, 120)}
    assert wide[1] is None, "one document says nothing of the next"
    assert wide[2] and wide[4] and wide[120]
    halved = tuple(str(row % 2) for row in range(120))
    truth = Truth(tuple(map(str, range(120))), ("a",) * 120, labels, labels.astype(float), groups=halved)
    gaps = (answers[0].picked == labels).astype(float) - (answers[1].picked == labels).astype(float)
    halves = np.array([gaps[half::2].mean() for half in (0, 1)])
    from scipy.stats import t

    student = 2 * t.isf(0.025, 1) * halves.std(ddof=1) / np.sqrt(2)
    assert wide[2] >= 0.9 * student, "as Student's t for two documents has it"
    inside = {"one": np.arange(120) % 2 == 0, "both": np.arange(120) < 60}
    found = metrics.compare(replace(truth, slices=inside), answers, Plan(("accuracy",), CLASSES, 200, in_slices=("accuracy",)))
    assert set(found[0][0].slices) == {"both"}, "a slice of one document is not measured"


def test_values_are_the_libraries() -> None:
    truth, good, _ = sample()
    found = metrics.values(truth, good, ALL, 3)
    assert truth.values is not None
    assert found["macro_f1"] == pytest.approx(f1_score(truth.labels, good.picked, average="macro"), abs=1e-12)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth.labels, good.picked), abs=1e-12)
    assert found["pearson_r"] == pytest.approx(pearsonr(good.score, truth.values).statistic, abs=1e-9)


def test_a_draw_is_scored_as_the_libraries_would_score_its_rows() -> None:
    truth, good, _ = sample(60)
    assert truth.values is not None and truth.labels is not None and good.picked is not None and good.chances is not None
    asked = (*ALL, "weighted_f1", "roc_auc", "brier", "spearman_r")
    weights = next(draws(60, 5, seed=7))
    drawn = {metric: MEASURES[metric].of(truth, good, 3)(weights) for metric in asked}
    for place, counts in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(60), counts)
        assert len(rows) == 60
        right, picked, chances = truth.labels[rows], good.picked[rows], good.chances[rows]
        score, value = good.score[rows], truth.values[rows]
        expected = {
            "macro_f1": f1_score(right, picked, average="macro", labels=[0, 1, 2], zero_division=0),
            "weighted_f1": f1_score(right, picked, average="weighted", labels=[0, 1, 2], zero_division=0),
            "accuracy": accuracy_score(right, picked),
            "roc_auc": roc_auc_score(right, chances, multi_class="ovr", average="macro", labels=[0, 1, 2]),
            "brier": brier_score_loss(right, chances, labels=[0, 1, 2], scale_by_half=False),
            "pearson_r": pearsonr(score, value).statistic,
            "spearman_r": spearmanr(score, value).statistic,
        }
        for metric, wanted in expected.items():
            assert drawn[metric][place] == pytest.approx(wanted, abs=1e-9), metric


def test_the_interval_of_a_difference_is_scipys_paired_bootstrap() -> None:
    truth, good, poor = sample()
    _, differences, _ = compare(truth, [good, poor], 4000, 1)
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
    models, differences, _ = compare(truth, [good, twin], 1000, 1)
    own = models[0].metrics["accuracy"]
    gap = next(d.estimate for d in differences if d.metric == "accuracy")
    assert own.low is not None and own.high is not None and gap.low is not None and gap.high is not None
    assert gap.high - gap.low < (own.high - own.low) / 2


def test_identical_answers_differ_by_exactly_nothing() -> None:
    truth, good, _ = sample()
    _, differences, _ = compare(truth, [good, good], 500, 1)
    for difference in differences:
        assert (difference.estimate.value, difference.estimate.low, difference.estimate.high) == (0, 0, 0)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    truth, good, poor = sample()
    first = compare(truth, [good, poor], 500, 1)
    assert compare(truth, [good, poor], 500, 1) == first
    assert compare(truth, [good, poor], 500, 2) != first


def test_the_correlation_of_a_constant_is_undefined_and_not_zero() -> None:
    truth, _, _ = sample()
    constant = Answers("majority", "baseline", np.zeros(400, int), np.zeros(400), None)
    models, _, _ = compare(truth, [constant], 500, 1)
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
        found = metrics.compare(truth, [model], Plan(("accuracy",), ("x", "y"), 400, seed=trial))[0][0].metrics["accuracy"]
        assert found.low is not None and found.high is not None
        held += found.low <= 0.8 <= found.high
    assert 178 <= held <= 199  # binomial(200, 0.95): 0.05% on either side


def test_the_numbers_of_a_slice_are_those_of_its_rows_alone() -> None:
    truth, good, poor = sample()
    rows = np.arange(0, 400, 3)
    inside = np.isin(np.arange(400), rows)
    found, gaps, _ = compare(replace(truth, slices={"source=a": inside}), [good, poor], 500, 1, in_slices=ALL)
    alone, expected, _ = compare(truth.take(rows), [good.take(rows), poor.take(rows)], 500, 1)
    for one, wanted in zip(found, alone, strict=True):
        assert set(one.slices) == {"source=a"}
        for metric in ALL:
            assert vars(one.slices["source=a"][metric]) == pytest.approx(vars(wanted.metrics[metric]))
    told = [vars(gap.estimate) for gap in gaps if gap.slice == "source=a"]
    assert told == [pytest.approx(vars(gap.estimate)) for gap in expected]


def test_of_a_slice_with_hardly_a_row_nothing_is_measured() -> None:
    truth, good, poor = sample()
    few = np.arange(400) < metrics.SUPPORT - 1
    models, differences, _ = compare(replace(truth, slices={"source=few": few}), [good, poor], 300, 1, in_slices=ALL)
    assert all(model.slices == {} for model in models) and all(gap.slice is None for gap in differences)


def test_ties_are_half_a_win_for_the_area_under_the_curve_and_share_a_rank() -> None:
    random = np.random.default_rng(5)
    labels, coarse = random.integers(0, 2, 90), random.integers(0, 4, 90) / 4
    truth = Truth(tuple(map(str, range(90))), ("a",) * 90, labels, random.integers(0, 3, 90).astype(float))
    tied = from_chances("a", "candidate", np.stack([1 - coarse, coarse], axis=1))
    found = metrics.values(truth, tied, ("roc_auc", "spearman_r"), 2)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(labels, coarse))
    assert found["spearman_r"] == pytest.approx(spearmanr(tied.score, truth.values).statistic)
