"""Per-example scores: what each model said of each test row."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SCORES = "scores.parquet"
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """The test rows and what is right: class numbers, numbers behind them, or texts, as far as the task has them."""

    rows: tuple[str, ...]
    sources: tuple[str, ...]
    labels: Ints | None = None
    values: Floats | None = None
    asked: tuple[str, ...] = ()  # what was asked (tasks with answers)
    texts: tuple[str, ...] = ()  # the right answers
    marks: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)  # further slices: which rows are in them


@dataclass(frozen=True)
class Answers:
    """One model's answers, a column per kind of answer; those of another task are None.

    Classes: `picked`, `score` (it grows from the first class to the last) and `chances` (rows x classes; None for a model
    without). Values: `score`. Texts: `texts` and `stopped` (whether the answer ended by itself). Plain text: `loss` (nats)
    and `tokens` of each row. Preferences: `score` (how much more the chosen answer gets).
    """

    name: str
    kind: str
    picked: Ints | None = None
    score: Floats | None = None
    chances: Floats | None = None
    texts: tuple[str, ...] | None = None
    stopped: npt.NDArray[np.bool_] | None = None
    loss: Floats | None = None
    tokens: Floats | None = None


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
        }
        columns |= _right(truth, classes) | _said(model, classes)
        numbers = {name: polars.Float64 for name in columns if name in ("value", "score", "loss", "tokens") or "chance_" in name}
        return polars.DataFrame(columns, schema_overrides=numbers)

    polars.concat([table(model) for model in answers], how="diagonal").write_parquet(path)


def _right(truth: Truth, classes: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if truth.labels is not None:
        found["label"] = [classes[number] for number in truth.labels]
    if truth.values is not None:
        found["value"] = truth.values
    if truth.texts:
        found |= {"asked": truth.asked, "text": truth.texts}
    return found


def _said(model: Answers, classes: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if model.picked is not None:
        found["picked"] = [classes[number] for number in model.picked]
    for name in ("score", "stopped", "loss", "tokens"):
        if getattr(model, name) is not None:
            found[name] = getattr(model, name)
    if model.texts is not None:
        found["answer"] = model.texts
    for place, name in enumerate(classes):
        found[f"chance_{name}"] = None if model.chances is None else model.chances[:, place]
    return found
