"""The search part of a recipe: which settings are tried before one of them is trained."""

from typing import Any

from pydantic import Field, ValidationError, model_validator

from adaptory.frozen import Frozen
from adaptory.recipe.data import Task
from adaptory.recipe.training import Training

# Others change what is learned or measured, so their scores could not be compared.
SEARCHED = (
    "method", "rank", "alpha", "dropout", "top_layers", "epochs", "batch_rows", "learning_rate", "schedule", "warmup",
    "weight_decay", "clip_norm", "class_weights", "packing", "cache_trunk",
)  # fmt: skip


class Range(Frozen):
    """Every number between two."""

    low: float
    """The least; a whole number where the setting is one."""
    high: float
    """The most."""
    log: bool = False
    """Draws evenly between the logarithms: as often between 0.001 and 0.01 as between 0.01 and 0.1."""

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be less than high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs numbers above 0, and low is {self.low:g}")
        return self


class Search(Frozen):
    """Settings are drawn with Optuna, and trained side by side; of those, the better third goes on thrice as far, until one
    is left (successive halving; Jamieson & Talwalkar 2016, Li et al. 2018)."""

    space: dict[str, Range | tuple[str | float | bool | None, ...]] = Field(min_length=1)
    """Setting of `training` -> a range (`{low, high, log}`) or a list of values; the others are as the recipe says."""
    trials: int = Field(default=8, ge=2, le=243)
    """How many are tried; the first has the recipe's own settings."""
    seed: int = Field(default=0, ge=0)
    """Fixes which are drawn."""

    def check(self, own: Training, task: Task) -> None:
        """Raises ValueError for a space that no training could have."""
        if own.method == "auto":
            raise ValueError("method 'auto' tries methods of its own; keep it, or search")
        for name, values in self.space.items():
            if name not in SEARCHED:
                raise ValueError(f"search.space: {name!r} cannot be searched; these can: {', '.join(SEARCHED)}")
            if name == "method" and isinstance(values, tuple) and "auto" in values:
                raise ValueError("search.space.method: 'auto' is no method to train with; name the methods")
            if isinstance(values, tuple) and not values:
                raise ValueError(f"search.space.{name} lists no value")
            for value in (values.low, values.high) if isinstance(values, Range) else values:
                changed(own, {name: value})

    def whole(self, name: str) -> bool:
        """Whether a setting is a whole number."""
        return "int" in str(Training.model_fields[name].annotation)


def changed(own: Training, values: dict[str, Any]) -> Training:
    """The settings with these values instead. Raises ValueError for a value that a training cannot have."""
    try:
        return Training.model_validate(own.model_dump() | values)
    except ValidationError as fault:
        first = fault.errors()[0]
        raise ValueError(f"search.space.{'.'.join(map(str, first['loc']))}: {first['msg']} (found {first['input']!r})") from None
