"""The monitor: what new rows must be before they say anything of a champion."""

from typing import Any

import polars
import pytest

from adaptory.evaluation import monitor
from adaptory.gate import Estimate
from adaptory.recipe import Recipe
from tests.support import tiny_recipe

RECIPE = Recipe.model_validate({"name": "tiny", **tiny_recipe()})


def of(**counts: int) -> Any:
    labels = [name for name, count in counts.items() for _ in range(count)]
    return polars.DataFrame({"label": labels}, schema={"label": polars.String})


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (of(negative=10, neutral=5, positive=10), "25 new test rows, and 30 are needed"),
        (of(negative=20, positive=20), "0 new test rows of class neutral, and 5 are needed"),
        (of(negative=20, neutral=4, positive=20), "4 new test rows of class neutral"),
    ],
)
def test_a_class_that_hardly_came_does_not_make_a_champion_worse(new: Any, said: str) -> None:
    assert said in str(monitor._too_few(RECIPE, new, RECIPE.data.classes))
    assert monitor._said("macro_f1", None, None, new.height, said, "retrain", "")[0] == "too few new rows"


def test_enough_rows_of_every_class_say_something() -> None:
    assert monitor._too_few(RECIPE, of(negative=20, neutral=5, positive=20), RECIPE.data.classes) is None


def test_a_champion_of_other_classes_is_not_asked() -> None:
    known = ("negative", "positive")
    assert "the champion knows negative, positive, and the rows negative, neutral, positive" in str(
        monitor._too_few(RECIPE, of(negative=20, neutral=20, positive=20), known)
    )


def interval(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high)


@pytest.mark.parametrize(
    ("metric", "then", "now", "drift", "word"),
    [
        ("macro_f1", (0.70, 0.80), (0.50, 0.69), "retrain", "worse"),
        ("macro_f1", (0.70, 0.80), (0.50, 0.71), "retrain", "steady"),
        ("macro_f1", (0.70, 0.80), (0.85, 0.90), "retrain", "steady"),
        ("macro_f1", (0.70, 0.80), (0.50, 0.71), "needs approval", "drifted"),
        ("perplexity", (3.0, 3.5), (3.6, 4.0), "retrain", "worse"),
        ("perplexity", (3.0, 3.5), (2.0, 2.5), "retrain", "steady"),
    ],
)
def test_a_champion_is_worse_when_the_intervals_do_not_touch(
    metric: str, then: tuple[float, float], now: tuple[float, float], drift: str, word: str
) -> None:
    said = monitor._said(metric, interval(*then), interval(*now), 90, "", drift, "new words")
    assert said[0] == word and "on 90 new rows" in said[1]
