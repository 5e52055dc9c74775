"""S15: the false-promotion budget holds over repeated gates, and the naive gate beside it does not."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from adaptory.errors import IntegrityError, ServerError
from adaptory.evaluation import resampling
from adaptory.evaluation.measures import _macro_f1
from adaptory.evaluation.scores import Floats, Ints
from adaptory.gate import Difference, Estimate, Evidence, Look, judge
from adaptory.gate.power import power
from adaptory.recipe import Recipe
from adaptory.registry import spending
from adaptory.storage import open_store
from tests.promotions import FaultyStore
from tests.support import tiny_recipe
from tests.unit.test_gate import CHAMPION, OLD, around, evidence, gate

WEEKS, YEARS, ROWS = 52, 400, 400
A, B = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def tiny(**changes: object) -> Recipe:
    return Recipe.model_validate({"name": "tiny", **tiny_recipe(**changes)})


@given(st.floats(0.001, 0.4), st.integers(1, 2000))
def test_all_levels_together_never_exceed_the_budget(budget: float, looks: int) -> None:
    assert math.fsum(spending.level(number, budget) for number in range(1, looks + 1)) < budget


def test_every_comparison_is_a_look_and_the_same_one_again_is_none(tmp_path: Path) -> None:
    store, recipe = open_store(str(tmp_path)), tiny()
    assert spending.look(store, recipe, "k1", A, None) is None, "without a champion nothing is spent"
    first = spending.look(store, recipe, "k1", A, B)
    assert first == Look(number=1, level=spending.level(1, 0.05))
    assert spending.look(store, recipe, "k2", A, B) == Look(number=2, level=spending.level(2, 0.05))
    assert spending.look(store, recipe, "k1", A, B) == first, "a run that was cut off goes on with its look"
    other = tiny(**{"data.split.salt": "2"})
    assert spending.look(store, other, "k3", A, B) == first, "another salt draws another test split"
    assert spending.look(store, tiny(**{"gate.budget": None}), "k9", A, B) is None


def test_of_many_at_once_each_gets_a_look_of_its_own(tmp_path: Path) -> None:
    store, recipe = open_store(str(tmp_path)), tiny()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: spending.look(store, recipe, f"k{number}", A, B), range(40)))
    assert sorted(one.number for one in found if one) == list(range(1, 41))


@pytest.mark.parametrize("how", ["lost", "unanswered"])
def test_a_look_that_was_cut_off_is_neither_free_nor_paid_twice(tmp_path: Path, how: str) -> None:
    store, recipe = open_store(str(tmp_path)), tiny()
    with pytest.raises(ServerError):
        spending.look(FaultyStore(store, 1, how), recipe, "k1", A, B)
    assert len(spending.spent(store, recipe)) == (how == "unanswered")
    assert spending.look(store, recipe, "k1", A, B) == Look(number=1, level=spending.level(1, 0.05))
    assert spending.look(store, recipe, "k2", A, B) == Look(number=2, level=spending.level(2, 0.05))


def a_year(random: np.random.Generator, budget: float | None) -> bool:
    """Whether a year of weekly candidates, none better than the champion, promotes one, on one test split."""
    champion = random.random(ROWS) < 0.8
    for week in range(1, WEEKS + 1):
        candidate = random.random(ROWS) < 0.8
        change = candidate.astype(float) - champion
        drawn = (
            np.array(random.multinomial(ROWS, [np.mean(change == value) for value in (-1, 0, 1)], size=1000) @ [-1, 0, 1]) / ROWS
        )
        value = float(change.mean())
        tail = 0.025 if budget is None else spending.level(week, budget)
        low, high = resampling.ends(value, drawn, tail)
        estimate = resampling.estimate(value, drawn, 0.95)
        bound = Estimate(value=value, low=low, high=high, deviation=estimate.deviation)
        gap = Difference(other="champion", metric="macro_f1", estimate=estimate, bound=bound)
        look = None if budget is None else Look(number=week, level=tail)
        facts = evidence(around(0.8), over_champion=around(0.0), look=look, differences=(gap,))
        if judge(facts, gate(CHAMPION | {"margin": 0.0}), OLD).outcome == "PASS":
            return True
    return False


@pytest.mark.slow
def test_s15_a_year_of_duds_promotes_one_in_at_most_5_percent_of_years() -> None:
    random = np.random.default_rng(7)
    duds = sum(a_year(random, 0.05) for _ in range(YEARS))
    assert binom.sf(duds - 1, YEARS, 0.05) > 0.001, f"{duds} of {YEARS} years promoted a dud"
    naive = sum(a_year(random, None) for _ in range(40))
    assert naive >= 8, f"the naive gate promoted one in only {naive} of 40 years"


def evidence_of(deviation: float, rows: int) -> Evidence:
    estimate = Estimate(value=0.0, low=-2 * deviation, high=2 * deviation, deviation=deviation)
    return evidence(around(0.7), over_champion=estimate, rows=rows)


def test_the_gain_that_is_promised_to_be_seen_is_seen_that_often() -> None:
    level, deviation = 0.01, 0.02
    found = power(gate(CHAMPION | {"margin": 0.01}), 1000, level, evidence_of(deviation, 1000))[0]
    assert found.gain is not None and not found.enough and "only with more test rows" in found.said
    random, seen = np.random.default_rng(0), 0
    for _ in range(2000):
        value = random.normal(found.gain, deviation)
        seen += value - 2.326 * deviation > 0.01
    assert seen / 2000 == pytest.approx(0.8, abs=0.03)


def test_more_rows_show_smaller_gains_and_an_ample_margin_is_no_warning() -> None:
    few, many = (power(gate(CHAMPION), rows, 0.01, evidence_of(0.02, 1000))[0] for rows in (1000, 4000))
    assert few.gain is not None and many.gain is not None
    assert many.gain - 0.01 == pytest.approx((few.gain - 0.01) / 2)
    assert power(gate(CHAMPION | {"margin": 0.2}), 1000, 0.01, evidence_of(0.02, 1000))[0].enough
    guessed = power(gate(CHAMPION), 1000, 0.01, None)[0]
    assert "if 20% of the rows are answered differently" in guessed.said
    unknown = power(gate(CHAMPION | {"metric": "chrf"}), 1000, 0.01, None)[0]
    assert unknown.gain is None and "before the first comparison" in unknown.said


def test_a_comparison_without_a_budget_is_counted_all_the_same(tmp_path: Path) -> None:
    store, free = open_store(str(tmp_path)), tiny(**{"gate.budget": None})
    for number in range(3):
        assert spending.look(store, free, f"k{number}", A, B) is None
    found = spending.look(store, tiny(), "k9", A, B)
    assert found is not None and found.number == 4


def test_a_comparison_that_was_removed_is_missed(tmp_path: Path) -> None:
    store, recipe = open_store(str(tmp_path)), tiny()
    for number in range(3):
        spending.look(store, recipe, f"k{number}", A, B)
    next(path for path in tmp_path.rglob("000002.json")).unlink()
    with pytest.raises(IntegrityError, match="has a gap"):
        spending.look(store, recipe, "k9", A, B)


def test_s15_few_documents_do_not_make_chance_look_like_skill() -> None:
    """Two models that are equals, whose errors go by document: how often the first two looks would promote one."""
    rows, documents, rounds = 400, 10, 300
    of = np.arange(rows) % documents
    weights = np.concatenate(list(resampling.draws(rows, 1000, 7, of)))
    chances = np.array([[0.85, 0.05, 0.10], [0.3, 0.4, 0.3], [0.05, 0.03, 0.92]]).cumsum(axis=1)
    random, levels = np.random.default_rng(0), [spending.level(look, 0.05) for look in (1, 2)]

    def answers(truth: Ints) -> Floats:
        luck = np.where(random.random(rows) < 0.7, random.random(documents)[of], random.random(rows))
        said = (luck[:, None] > chances[truth]).sum(axis=1)
        cells = np.zeros((rows, 9))
        cells[np.arange(rows), truth * 3 + said] = 1
        return cells

    promoted = naive = 0
    for _ in range(rounds):
        truth = random.choice(3, size=rows, p=[0.3, 0.2, 0.5])
        ours = answers(truth)
        alike = (random.random(documents) < 0.5)[of]
        theirs = np.where(alike[:, None], ours, answers(truth))
        value = float(_macro_f1(ours.sum(axis=0, keepdims=True))[0] - _macro_f1(theirs.sum(axis=0, keepdims=True))[0])
        drawn = _macro_f1(weights @ ours) - _macro_f1(weights @ theirs)
        promoted += sum(resampling.bounds(value, drawn, level, documents)[0] > 0 for level in levels)
        naive += sum(resampling.ends(value, drawn, level)[0] > 0 for level in levels)
    assert promoted / rounds < sum(levels) < 1.5 * sum(levels) < naive / rounds, (promoted, naive)
