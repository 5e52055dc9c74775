"""Per-example scores: what each model said of each test row, and what was right."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SCORES = "scores.parquet"
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """The test rows and what is right: class numbers, numbers behind them, or texts, as far as the task has them."""

    rows: tuple[str, ...]
    sources: tuple[str, ...]
    labels: Ints | None = None
    values: Floats | None = None
    asked: tuple[str, ...] = ()  # what was asked
    texts: tuple[str, ...] = ()  # the right answers (tasks with answers)
    groups: tuple[str, ...] = ()  # the document of each row; empty: every row is its own
    slices: dict[str, Bools] = field(default_factory=dict)  # name -> which rows are in it

    def take(self, rows: Ints) -> "Truth":
        """These rows of it, without slices."""
        return replace(
            self, rows=_some(self.rows, rows), sources=_some(self.sources, rows), labels=_of(self.labels, rows),
            values=_of(self.values, rows), asked=_some(self.asked, rows), texts=_some(self.texts, rows),
            groups=_some(self.groups, rows), slices={},
        )  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """One model's answers, a column per kind of answer; those of another task are None.

    Classes: `picked`, `score` (it grows from the first class to the last) and `chances` (rows x classes; None for a model
    without). Values: `score`. Texts: `texts` and `stopped` (whether the answer ended by itself). Plain text: `loss` (nats)
    and `tokens` of each row. Preferences: `score` (how much more the chosen answer gets). `temperature`: what the logarithms
    of the chances are divided by to be honest, found on the validation rows (Guo et al., ICML 2017).
    """

    name: str
    kind: str
    picked: Ints | None = None
    score: Floats | None = None
    chances: Floats | None = None
    texts: tuple[str, ...] | None = None
    stopped: Bools | None = None
    loss: Floats | None = None
    tokens: Floats | None = None
    temperature: float | None = None

    def take(self, rows: Ints) -> "Answers":
        """The answers to these rows."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        arrays: dict[str, Any] = {name: value[rows] for name, value in found.items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays, texts=None if self.texts is None else _some(self.texts, rows))


def from_chances(name: str, kind: str, chances: Floats, temperature: float | None = None) -> Answers:
    """Answers of a model that gives every class a chance: the likeliest class, and how much more the last is than the first."""
    return Answers(name, kind, chances.argmax(axis=1), chances[:, -1] - chances[:, 0], chances, temperature=temperature)


def columns(model: Answers, classes: Sequence[str]) -> Any:
    """A model's answers as a table, a line per row."""
    import polars

    found: dict[str, Any] = {}
    if model.picked is not None:
        found["picked"] = [classes[number] for number in model.picked]
    for name in ("score", "stopped", "loss", "tokens"):
        if getattr(model, name) is not None:
            found[name] = getattr(model, name)
    if model.texts is not None:
        found["answer"] = list(model.texts)
    if model.chances is not None:
        found |= {f"chance_{name}": model.chances[:, place] for place, name in enumerate(classes)}
    return polars.DataFrame(found)


def answers_of(table: Any, classes: Sequence[str], name: str, kind: str, temperature: float | None = None) -> Answers:
    """The inverse of `columns`."""
    there = {column for column in table.columns if table[column].null_count() < table.height}
    number = {label: place for place, label in enumerate(classes)}

    def array(column: str) -> Any:
        return table[column].to_numpy() if column in there else None

    chances = [f"chance_{label}" for label in classes]
    return Answers(
        name, kind, picked=np.array([number[one] for one in table["picked"]]) if "picked" in there else None,
        score=array("score"), chances=table.select(chances).to_numpy() if classes and set(chances) <= there else None,
        texts=tuple(table["answer"]) if "answer" in there else None, stopped=array("stopped"), loss=array("loss"),
        tokens=array("tokens"), temperature=temperature,
    )  # fmt: skip


def write(path: Path, truth: Truth, answers: Sequence[Answers], classes: Sequence[str]) -> None:
    """One line per model and row; the order of models and rows is kept."""
    import polars

    inside = {name: set(np.flatnonzero(rows).tolist()) for name, rows in truth.slices.items()}
    found: dict[str, Any] = {
        "row": truth.rows,
        "source": truth.sources,
        "group": truth.groups or truth.rows,
        "slices": [json.dumps([name for name, rows in inside.items() if place in rows]) for place in range(len(truth.rows))],
    }
    if truth.labels is not None:
        found["label"] = [classes[number] for number in truth.labels]
    if truth.values is not None:
        found["value"] = truth.values
    if truth.asked:
        found["asked"] = truth.asked
    if truth.texts:
        found["text"] = truth.texts
    right = polars.DataFrame(found)
    tables = [
        right.select(polars.lit(model.name).alias("model"), polars.lit(model.kind).alias("kind"), polars.all())
        .hstack(columns(model, classes))
        for model in answers
    ]  # fmt: skip
    polars.concat(tables, how="diagonal").write_parquet(path)


def read(path: Path, classes: Sequence[str], temperatures: dict[str, float | None]) -> tuple[Truth, list[Answers]]:
    """What `write` wrote."""
    import polars

    table = polars.read_parquet(path)
    parts = table.partition_by("model", maintain_order=True)
    first = parts[0]
    number = {label: place for place, label in enumerate(classes)}
    inside = [json.loads(names) for names in first["slices"]]
    slices = {name: np.array([name in names for names in inside]) for name in dict.fromkeys(n for names in inside for n in names)}
    truth = Truth(
        rows=tuple(first["row"]),
        sources=tuple(first["source"]),
        labels=np.array([number[label] for label in first["label"]]) if "label" in first.columns else None,
        values=first["value"].to_numpy() if "value" in first.columns else None,
        asked=tuple(first["asked"]) if "asked" in first.columns else (),
        texts=tuple(first["text"]) if "text" in first.columns else (),
        groups=tuple(first["group"]),
        slices=slices,
    )
    return truth, [
        answers_of(part, classes, part["model"][0], part["kind"][0], temperatures.get(part["model"][0])) for part in parts
    ]


def _some(values: tuple[str, ...], rows: Ints) -> tuple[str, ...]:
    return tuple(values[row] for row in rows) if values else ()


def _of(values: Any, rows: Ints) -> Any:
    return None if values is None else values[rows]
