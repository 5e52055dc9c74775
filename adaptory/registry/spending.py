"""What was spent of the false-promotion budget: one record per comparison with a champion on one test split.

`spending/<model>/<split>/000001.json`, 000002, ... each created only if absent, before the comparison is judged: a crash gives
nobody a free look. The same comparison made again is the same look.
"""

import math

from adaptory import fingerprint
from adaptory.errors import AlreadyExists, IntegrityError
from adaptory.gate import Look
from adaptory.recipe import Frozen, Recipe
from adaptory.storage import ObjectStore


class Spent(Frozen):
    """One comparison with a champion."""

    schema_version: str = "spending/v1"
    model: str
    split: str
    number: int
    comparison: str  # digest of the run's key and both models
    candidate: str
    champion: str


def level(number: int, budget: float) -> float:
    """What the number-th comparison may spend: 6 budget / (pi number)^2, which sums up to the budget over all of them."""
    return 6 * budget / (math.pi * number) ** 2


def split_of(recipe: Recipe) -> str:
    """The name of a recipe's test split: rows never move in it, and only another salt draws another one."""
    return fingerprint.of_json({"schema": "test-split/v1", "salt": recipe.data.split.salt})


def look(store: ObjectStore, recipe: Recipe, key: str, candidate: str, champion: str | None) -> Look | None:
    """The look that this comparison is, written down first; None without a champion, or without a budget to judge it by."""
    budget = recipe.gate.budget
    if champion is None:
        return None
    comparison = fingerprint.of_json([key, candidate, champion])
    split = split_of(recipe)
    while True:
        known = spent(store, recipe)
        found = next((one for one in known if one.comparison == comparison), None)
        if found is None:
            found = Spent(
                model=recipe.name,
                split=split,
                number=len(known) + 1,
                comparison=comparison,
                candidate=candidate,
                champion=champion,
            )
            try:
                store.create(f"{_prefix(recipe)}{found.number:06d}.json", found.model_dump_json(indent=1).encode() + b"\n")
            except AlreadyExists:
                continue
        return None if budget is None else Look(number=found.number, level=level(found.number, budget))


def spent(store: ObjectStore, recipe: Recipe) -> list[Spent]:
    """All comparisons on the recipe's test split, in order. Raises IntegrityError where one is missing."""
    found = [Spent.model_validate_json(store.get(key)) for key in store.keys(_prefix(recipe))]
    if [one.number for one in found] != list(range(1, len(found) + 1)):
        raise IntegrityError(f"{store.url}/{_prefix(recipe)} has a gap: comparisons with a champion were removed; restore them")
    return found


def _prefix(recipe: Recipe) -> str:
    return f"spending/{recipe.name}/{fingerprint.hex_of(split_of(recipe))}/"
