"""Search: who goes on is arithmetic; what is tried is a function of the recipe."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from adaptory.errors import PlanError, RecipeError, StageError, TrainingError
from adaptory.recipe import Recipe
from adaptory.run import Run
from adaptory.search import Choice, Trial, Tried, arbiter, choice, choose, halving, report, space
from adaptory.training import pause
from tests.support import tiny_recipe

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "rank": [2, 4, 8], "epochs": {"low": 1, "high": 5},
}  # fmt: skip
SCORES = some.one_of(some.none(), some.floats(-5, 5), some.just(math.nan))


def recipe(**search: Any) -> Recipe:
    return Recipe.model_validate({"name": "tiny", **tiny_recipe(), "search": {"space": SPACE} | search})


@given(some.integers(2, 243))
def test_a_search_ends_with_one_trial_and_costs_at_most_its_rungs(trials: int) -> None:
    rungs, alive, done, cost = halving.rungs(trials), trials, 0.0, 0.0
    for share, keep in rungs:
        assert 0 < share < 1 and keep < alive
        cost, alive, done = cost + alive * (share - done), keep, share
    assert alive == 1
    cost += 1 - done
    # A rung takes at most its trials to three times as far, with a third (rounded up) of them.
    assert cost <= 1 + trials * rungs[0][0] + 2 * len(rungs)


def test_eight_trials_cost_less_than_three_trainings() -> None:
    shares, survivors = zip(*halving.rungs(8), strict=True)
    assert shares == pytest.approx((1 / 9, 1 / 3)) and survivors == (3, 1)
    assert pytest.approx(2.22, abs=0.01) == 8 / 9 + 3 * (1 / 3 - 1 / 9) + (1 - 1 / 3)


@given(some.dictionaries(some.integers(0, 50), SCORES), some.integers(1, 9))
def test_the_best_go_on_and_what_failed_never_does(scores: dict[int, float | None], keep: int) -> None:
    found = halving.best(scores, keep)
    alive = [number for number, score in scores.items() if score is not None and not math.isnan(score)]
    assert len(found) == min(keep, len(alive)) and set(found) <= set(alive)
    worst = min((scores[number] or 0 for number in found), default=-math.inf)
    assert all((scores[number] or 0) <= worst for number in set(alive) - set(found))


def test_equal_scores_keep_the_recipes_own_settings() -> None:
    assert halving.best({2: 0.5, 0: 0.5, 1: 0.5}, 1) == [0]


def test_the_first_trial_is_the_recipe_itself_and_the_same_seed_draws_the_same() -> None:
    first, second = space.trials(recipe()), space.trials(recipe())
    assert first == second and len(first) == 8
    assert first[0].training == recipe().training
    assert space.trials(recipe(seed=1)) != first


def test_every_draw_lies_in_the_space_and_leaves_the_other_settings_alone() -> None:
    own = recipe().training
    drawn = [one.settings for one in space.trials(recipe(trials=27))[1:]]
    for made in drawn:
        assert 0.001 <= made.learning_rate <= 0.1 and made.rank in (2, 4, 8) and made.epochs in range(1, 6)
        assert made.model_copy(update={name: getattr(own, name) for name in SPACE}) == own
    # Drawn between the logarithms: about half of the rates are below 0.01.
    assert 8 <= sum(made.learning_rate < 0.01 for made in drawn) <= 18
    assert {made.rank for made in drawn} == {2, 4, 8}


@pytest.mark.parametrize(
    ("space_", "told"),
    [
        ({"seed": [1, 2]}, "'seed' cannot be searched; these can: method, rank"),
        ({"rank": {"low": 4, "high": 2}}, "low 4 must be less than high 2"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "log needs numbers above 0, and low is 0"),
        ({"rank": [0, 4]}, r"search\.space\.rank: Input should be greater than or equal to 1 \(found 0"),
        ({"method": ["lora", "auto"]}, "'auto' is no method to train with"),
        ({"rank": []}, r"search\.space\.rank lists no value"),
        ({"method": ["lara"]}, r"search\.space\.method: Input should be 'auto', 'lora'"),
    ],
)
def test_a_space_that_no_training_could_have_is_refused_when_the_recipe_is_read(space_: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        recipe(space=space_)


def test_settings_that_cannot_go_together_are_refused_with_the_trial() -> None:
    with pytest.raises(RecipeError, match=r"trial \d \(cache_trunk True\) cannot be trained: training\.cache_trunk needs"):
        space.trials(recipe(space={"cache_trunk": [True, False]}))


def test_a_search_and_the_arbiter_do_not_go_together() -> None:
    body = tiny_recipe(**{"training.method": "auto"})
    with pytest.raises(ValidationError, match="method 'auto' tries methods of its own; keep it, or search"):
        Recipe.model_validate({"name": "tiny", **body, "search": {"space": SPACE}})


def test_the_table_tells_why_a_trial_failed_and_which_one_was_chosen() -> None:
    own = recipe().training
    tried = (
        Tried(trial=Trial(number=1, name="rank 2", training=own), share=1 / 3, score=0.71, seconds=12, flops=3e12),
        Tried(trial=Trial(number=0, name="as the recipe says", training=own), share=1 / 9, score=None, failed="loss nan"),
    )
    made = Choice(measured="macro F1", rows=90, tried=tried, chosen=1, training=own, reason="trial 1 is best of 2")
    page = report.markdown(made)
    assert "| **1: rank 2** | 33% | 0.7100 | 12 s | 3.0 |  |" in page
    assert "| 0: as the recipe says | 11% | failed | 0 s | 0.0 | loss nan |" in page
    assert page.endswith("On 90 validation rows. Chosen: trial 1 is best of 2.")


def test_the_table_of_methods_tells_why_one_could_not_be_trained() -> None:
    own = recipe().training
    tried = (
        Tried(trial=Trial(number=0, name="LoRA", training=own), share=1, score=0.7, low=0.6, high=0.8, latency=2, seconds=9),
        Tried(trial=Trial(number=1, name="the whole network", training=own), share=1, score=None, failed="out of memory"),
    )
    page = report.markdown(Choice(measured="macro F1", rows=90, tried=tried, chosen=0, training=own, reason="it is the only one"))
    assert "| 1: the whole network | – | – | 2" not in page and "| – | – | – | out of memory |" in page


@pytest.mark.parametrize(
    ("lower", "scores", "behind", "chosen"),
    [
        (False, (0.80, 0.79, 0.70), (None, (-0.01, 0.03), (0.05, 0.15)), 1),
        (False, (0.80, 0.75, 0.70), (None, (0.01, 0.09), (0.05, 0.15)), 0),
        (True, (2.0, 2.1, 3.0), (None, (-0.20, 0.01), (-1.5, -0.5)), 1),
        (True, (2.0, 2.1, 3.0), (None, (-0.20, -0.01), (-1.5, -0.5)), 0),
    ],
)
def test_the_arbiter_proposes_the_cheapest_that_the_best_is_not_measurably_ahead_of(
    lower: bool, scores: tuple[float, ...], behind: tuple[Any, ...], chosen: int
) -> None:
    own = recipe().training
    trials = [Trial(number=number, name=f"way {number}", training=own) for number in range(3)]
    facts = zip(trials, scores, behind, (9, 5, 1), strict=True)
    tried = tuple(Tried(trial=one, share=1, score=score, behind=gap, flops=cost) for one, score, gap, cost in facts)
    asked: Any = SimpleNamespace(recipe=recipe())
    made = arbiter._proposed(asked, tried, 0, "macro F1", 90, -1 if lower else 1)
    said = ("way 0: measurably ahead of everything cheaper", "way 1: the cheapest that way 0 is not measurably ahead of")
    assert (made.chosen, made.reason) == (chosen, said[chosen])


def test_of_methods_the_cheapest_that_is_as_good_follows_one_that_failed() -> None:
    own = recipe().training

    def weighed(number: int, score: float, behind: tuple[float, float] | None, flops: float) -> Tried:
        one = Trial(number=number, name=f"way {number}", training=own)
        return Tried(trial=one, share=1, score=score, behind=behind, flops=flops)

    left = [weighed(0, 0.80, None, 9), weighed(1, 0.79, (-0.01, 0.03), 5), weighed(2, 0.78, (-0.01, 0.05), 2)]
    left.append(weighed(3, 0.5, (0.1, 0.5), 1))
    assert arbiter.next_best(left, lower=False).trial.number == 2
    assert arbiter.next_best([left[0], left[3]], lower=False).trial.number == 0, "none is near the best: the better one"
    assert arbiter.next_best([left[3], weighed(4, 0.6, (-0.5, -0.1), 1)], lower=True).trial.number == 3, "of losses the lower"


def test_values_that_do_not_go_together_are_not_drawn() -> None:
    made = recipe(space={"method": ["lora", "freeze"], "top_layers": [None, 1]}, trials=4)
    several = space.trials(made)
    assert {(one.settings.method, one.settings.top_layers) for one in several} == {("lora", None), ("lora", 1), ("freeze", 1)}


def test_a_trial_that_was_killed_every_time_loses_and_is_asked_again_in_the_next_search(tmp_path: Path) -> None:
    made_of = recipe()
    folder = SimpleNamespace(candidate_folder=tmp_path / "candidate-1")
    run: Any = SimpleNamespace(recipe=made_of, trained_with=lambda settings: folder)
    one = space.trials(made_of)[0]
    for rung in (0, 1, None):
        choose.give_up(run, one, rung, "stage train ended with code -9")
        assert not choose.was_trained(run, one, rung)
        share = 1.0 if rung is None else halving.rungs(made_of.search.trials)[rung][0]
        found = pause.read(cast(Run, folder), share)
        assert found and found.score is None and found.failed == "stage train ended with code -9"


def test_no_settings_are_tried_twice_and_a_small_space_has_fewer_trials() -> None:
    own = recipe().training
    several = space.trials(recipe(space={"rank": [4, 8, 16]}, trials=8))
    assert sorted(one.settings.rank for one in several) == sorted({own.rank, 4, 8, 16})
    assert [one.number for one in several] == list(range(len(several)))


def test_limits_of_time_and_memory_are_those_of_the_recipe_today() -> None:
    changed = recipe().model_copy(update={"training": recipe().training.model_copy(update={"deadline": 90.0})})
    now = Run(None, changed, None).trained_with(recipe().training)
    assert now.settings.deadline == 90.0


def test_a_trial_that_its_plan_refused_is_asked_again_and_one_that_failed_is_not(tmp_path: Path) -> None:
    made_of = recipe()
    folder = SimpleNamespace(candidate_folder=tmp_path / "candidate-1")
    run: Any = SimpleNamespace(recipe=made_of, trained_with=lambda settings: folder)
    one = space.trials(made_of)[0]
    assert not choose.was_trained(run, one, None)
    pause.failed(cast(Run, folder), PlanError("more than training.deadline (5 min)"))
    assert not choose.was_trained(run, one, None), "the limit may be another today"
    found = pause.read(cast(Run, folder), 1.0)
    assert found and found.failed == "more than training.deadline (5 min)"
    pause.failed(cast(Run, folder), TrainingError("not finite"))
    assert choose.was_trained(run, one, None)


def test_a_space_that_holds_only_the_recipes_own_settings_is_refused() -> None:
    made = recipe(space={"rank": [recipe().training.rank]})
    run: Any = SimpleNamespace(recipe=made, dataset=SimpleNamespace(rows=lambda split: 100))
    with pytest.raises(RecipeError, match="holds nothing but the recipe's own settings"):
        choose._halved(run, lambda several, rung: None)


def test_settings_that_fail_after_they_were_chosen_are_not_chosen_again(tmp_path: Path) -> None:
    made_of = recipe()
    run: Any = SimpleNamespace(recipe=made_of, search_folder=tmp_path)
    several = space.trials(made_of)
    tried = tuple(
        Tried(trial=one, share=share, score=score)
        for one, share, score in zip(several, (1.0, 1.0, 0.33), (0.8, 0.7, 0.9), strict=False)
    )
    first = Choice(measured="x", rows=1, tried=tried, chosen=0, training=several[0].settings, reason="best")
    choice.write(tmp_path, first)
    assert choose.disqualify(run, "not finite") == several[1].name, "what went as far, not what looked better on the way"
    made = choice.read(tmp_path)
    assert made is not None and made.chosen == 1 and made.training == several[1].settings
    assert made.tried[0].failed == "not finite" and "the best failed after it was chosen" in made.reason
    assert choose.disqualify(run, "memory") == several[2].name
    assert choose.disqualify(run, "memory") is None, "nothing is left"


class Race:
    """Trials whose scores are known: by trial, then by rung; None is a failure."""

    def __init__(self, scores: dict[int, list[float | None]]) -> None:
        self.scores, self.rungs, self.trained = scores, halving.rungs(len(scores)), []

    def train(self, several: Any, rung: int | None) -> None:
        assert rung is not None
        self.trained.append((rung, [one.number for one in several]))

    def tried(self, run: Any, one: Trial, share: float) -> Tried:
        rung = next(rung for rung, (found, _) in enumerate(self.rungs) if found == share)
        score = self.scores[one.number][rung]
        return Tried(
            trial=one, share=share, score=score, failed=None if score is not None else "diverged", seconds=1, flops=1, trainable=1
        )


def raced(monkeypatch: pytest.MonkeyPatch, scores: dict[int, list[float | None]]) -> tuple[Choice, Race]:
    race = Race(scores)
    made = recipe(trials=len(scores), space={"learning_rate": {"low": 0.001, "high": 0.1, "log": True}})
    run: Any = SimpleNamespace(recipe=made, dataset=SimpleNamespace(rows=lambda split: 100))
    monkeypatch.setattr(choose, "_tried", race.tried)
    monkeypatch.setattr(choose, "_measured", lambda run, winner: "macro F1")
    return choose._halved(run, race.train), race


def test_if_all_that_went_on_fail_the_next_best_go_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    scores: dict[int, list[float | None]] = {number: [0.1 * number, 0.5] for number in range(8)}
    scores |= {number: [0.1 * number, None] for number in (5, 6, 7)}
    made, race = raced(monkeypatch, scores)
    assert race.trained == [(0, list(range(8))), (1, [7, 6, 5]), (1, [4, 3, 2])]
    assert made.chosen == 2, "of equal scores the lower number"
    assert {one.trial.number for one in made.tried if one.failed} == {5, 6, 7}


def test_a_search_of_which_every_trial_fails_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match="every trial failed; the first: diverged"):
        raced(monkeypatch, {number: [0.5, None] for number in range(8)})
