"""The monitor: what new rows must be before they say anything of a champion."""

from typing import Any

import polars
import pytest

from adaptory.evaluation import monitor
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
