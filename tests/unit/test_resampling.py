"""Chance is measured as the textbooks do it: BCa, exact McNemar, permutations; scores are read as they were written."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test

from adaptory.evaluation import metrics, resampling, scores
from adaptory.evaluation.calibration import fitted, temperature_of
from adaptory.evaluation.measures import MEASURES
from adaptory.evaluation.metrics import Plan
from adaptory.evaluation.scores import Answers, Truth, from_chances


def skewed(rows: int = 60) -> tuple[Truth, Answers]:
    random = np.random.default_rng(4)
    truth = Truth(tuple(map(str, range(rows))), ("a",) * rows, values=np.zeros(rows))
    return truth, Answers("candidate", "candidate", score=random.exponential(1.0, rows))


def test_corrected_intervals_are_those_of_scipy() -> None:
    truth, answers = skewed()
    assert answers.score is not None
    found = metrics.compare(truth, [answers], Plan(("mae",), (), 9999, seed=1, bca=True))[0][0].metrics["mae"]
    theirs = bootstrap(
        (answers.score,), np.mean, n_resamples=9999, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.015) and found.high == pytest.approx(theirs.high, abs=0.015)
    plain = metrics.compare(truth, [answers], Plan(("mae",), (), 9999, seed=1))[0][0].metrics["mae"]
    assert plain.high is not None and found.high is not None and found.high > plain.high + 0.01, "the tail is on the right"


def test_mcnemars_test_is_exact() -> None:
    # Of 100 rows, 25 are right only here and 10 only there: 35 coins, of which 10 or fewer, or 25 or more, show heads.
    ours, theirs = np.r_[np.ones(25), np.zeros(10), np.ones(65)], np.r_[np.zeros(25), np.ones(10), np.ones(65)]
    wins, losses, ties, chance = resampling.paired(ours, theirs)
    assert (wins, losses, ties) == (25, 10, 65)
    assert chance == pytest.approx(2 * sum(math.comb(35, few) for few in range(11)) / 2**35)
    assert resampling.paired(ours, ours) == (0, 0, 100, 1.0)


def test_a_permutation_test_is_scipys() -> None:
    random = np.random.default_rng(2)
    right = random.integers(0, 2, 120)
    ours, theirs = (np.where(random.random(120) < share, right, 1 - right) for share in (0.85, 0.7))
    truth = Truth(tuple(map(str, range(120))), ("a",) * 120, right)
    both = [Answers(name, "baseline", picked) for name, picked in (("a", ours), ("b", theirs))]
    parts, value = MEASURES["accuracy"].sums  # type: ignore[misc]
    found = resampling.permuted(parts(truth, both[0], 2), parts(truth, both[1], 2), value, 4000, seed=1)
    hits = [(picked == right).astype(float) for picked in (ours, theirs)]
    theirs_ = permutation_test(
        hits, lambda a, b: a.mean() - b.mean(), permutation_type="samples", n_resamples=4000, rng=np.random.default_rng(0)
    )
    assert found == pytest.approx(theirs_.pvalue, abs=0.02)


def test_identical_models_are_no_surprise_to_any_test() -> None:
    truth, good = skewed()
    twin = Answers("twin", "champion", score=good.score)
    _, gaps, paired = metrics.compare(truth, [good, twin], Plan(("mae",), (), 500, level=0.01))
    assert paired[0].permutation == 1.0 and paired[0].sign_test == 1.0 and paired[0].win_rate.value == 0.5
    assert gaps[0].bound is not None and (gaps[0].bound.low, gaps[0].bound.high) == (0, 0)


def test_a_level_beyond_the_draws_is_reached_with_their_deviation() -> None:
    drawn = np.random.default_rng(0).normal(0.3, 0.1, 2000)
    near, far = resampling.ends(0.3, drawn, 0.025), resampling.ends(0.3, drawn, 0.0001)
    assert near[0] == pytest.approx(0.3 - 1.96 * 0.1, abs=0.02)
    assert far[0] == pytest.approx(0.3 - 3.72 * 0.1, abs=0.02)


def test_the_temperature_undoes_what_made_chances_too_sure() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, (4000, 3))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([random.choice(3, p=line) for line in honest])
    sure = fitted(honest, 0.4)
    heat = temperature_of(sure, labels)
    assert heat == pytest.approx(2.5, rel=0.1)
    answers = from_chances("candidate", "candidate", sure, heat)
    truth = Truth(tuple(map(str, range(4000))), ("a",) * 4000, labels)
    found = metrics.compare(truth, [answers], Plan(("ece", "ece_fitted", "brier"), ("x", "y", "z"), 300))[0][0].metrics
    assert found["ece"].value is not None and found["ece_fitted"].value is not None
    assert found["ece"].value > 0.1 > 0.03 > found["ece_fitted"].value
    assert found["ece"].low is not None and found["ece"].low <= found["ece"].value, "less the resampling's bias"


def test_calibration_of_a_model_without_chances_is_undefined() -> None:
    truth = Truth(("a", "b"), ("s", "s"), np.array([0, 1]))
    found = metrics.values(truth, Answers("vader", "baseline", np.array([0, 1])), ("ece", "brier", "roc_auc"), 2)
    assert found == {"ece": None, "brier": None, "roc_auc": None}


names = st.text("abcäöü|*'", min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(names, st.sampled_from([0, 1]), st.floats(0, 1)), min_size=1, max_size=12), st.booleans())
def test_scores_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, float]], plain: bool
) -> None:
    path = Path(tmp_path_factory.mktemp("scores")) / "scores.parquet"
    ids = tuple(str(number) for number in range(len(rows)))
    chances = np.array([[1 - chance, chance] for _, _, chance in rows])
    inside = {"class=no": np.array([label == 0 for _, label, _ in rows])}
    labels = np.array([label for _, label, _ in rows])
    truth = Truth(
        ids, ("s",) * len(rows), labels, None, tuple(text for text, _, _ in rows), (), inside if inside["class=no"].any() else {}
    )
    picked = Answers("majority", "baseline", np.zeros(len(rows), dtype=int), np.zeros(len(rows)))
    answers = [from_chances("candidate", "candidate", chances, 1.5), *([picked] if plain else [])]
    scores.write(path, truth, answers, ("no", "yes"))
    again, found = scores.read(path, ("no", "yes"), {"candidate": 1.5})
    assert (again.rows, again.asked, again.sources) == (truth.rows, truth.asked, truth.sources)
    assert {name: rows.tolist() for name, rows in again.slices.items()} == {
        name: rows.tolist() for name, rows in truth.slices.items()
    }
    for before, after in zip(answers, found, strict=True):
        assert (after.name, after.kind, after.temperature) == (before.name, before.kind, before.temperature)
        assert np.array_equal(after.picked, before.picked) and np.array_equal(after.score, before.score)
        assert (after.chances is None) == (before.chances is None)
        assert before.chances is None or np.array_equal(after.chances, before.chances)


def test_rows_of_one_document_are_drawn_together() -> None:
    documents = resampling.numbered(("a", "a", "b", "c", "c", "c"))
    assert documents is not None
    for weights in resampling.draws(6, 50, seed=1, documents=documents):
        assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3:] == weights[:, 3:4]).all()
        assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all(), "as many documents as there are"
    assert resampling.numbered(("a", "b", "c")) is None and resampling.numbered(()) is None
    assert resampling.leave_out(6, documents).tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]]


def test_documents_that_err_together_do_not_pass_for_many_rows() -> None:
    """50 documents of 8 rows each, all right or all wrong: 400 rows know no more than 50 do."""
    random, passed = np.random.default_rng(0), 0
    for trial in range(100):
        right = np.repeat(random.random((2, 50)) < 0.7, 8, axis=1)
        labels = np.zeros(400, dtype=int)
        groups = tuple(str(n // 8) for n in range(400))
        truth = Truth(tuple(map(str, range(400))), ("s",) * 400, labels, groups=groups)
        both = [
            Answers(n, k, (~one).astype(int))
            for n, k, one in zip(("candidate", "champion"), ("candidate", "champion"), right, strict=True)
        ]
        plan = Plan(("accuracy",), ("x", "y"), 400, seed=trial, level=0.03)
        gap = metrics.compare(truth, both, plan)[1][0]
        assert gap.bound is not None and gap.bound.low is not None
        passed += gap.bound.low > 0
    assert passed <= 9, f"{passed} of 100 duds passed at level 0.03"
