"""Per-example scores: what each model said of each test row."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """The test rows: class numbers, the number behind the class if there is one, and the source."""

    rows: tuple[str, ...]
    sources: tuple[str, ...]
    labels: Ints
    values: Floats | None
    marks: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)  # further slices: which rows are in them


@dataclass(frozen=True)
class Answers:
    """One model's answers: the class it picks, and a score that grows from the first class to the last.

    `chances` (rows x classes) is None for a model that gives no probabilities.
    """

    name: str
    kind: str
    picked: Ints
    score: Floats
    chances: Floats | None


def from_chances(name: str, kind: str, chances: Floats) -> Answers:
    """Answers of a model that gives probabilities; the score is P(last class) - P(first class)."""
    return Answers(name, kind, chances.argmax(axis=1), chances[:, -1] - chances[:, 0], chances)


def write(path: Path, truth: Truth, answers: list[Answers], classes: tuple[str, ...]) -> None:
    """One line per model and row; the order of models and rows is kept."""
    import polars

    def table(model: Answers) -> Any:
        columns: dict[str, Any] = {
            "model": [model.name] * len(truth.rows),
            "kind": [model.kind] * len(truth.rows),
            "row": truth.rows,
            "source": truth.sources,
            "label": [classes[number] for number in truth.labels],
            "value": truth.values,
            "picked": [classes[number] for number in model.picked],
            "score": model.score,
        }
        for place, name in enumerate(classes):
            columns[f"chance_{name}"] = None if model.chances is None else model.chances[:, place]
        chances = {f"chance_{name}": polars.Float64 for name in classes}
        return polars.DataFrame(columns, schema_overrides={"value": polars.Float64, **chances})

    polars.concat([table(model) for model in answers]).write_parquet(path)
