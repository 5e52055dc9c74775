"""Evidence: every number a verdict may rest on, measured on the same rows, frozen and named by its digest."""

from typing import Literal

from pydantic import Field

from adaptory import fingerprint
from adaptory.recipe import Frozen, Metric


class Estimate(Frozen):
    """A number with its bootstrap interval; a number that is not defined (a constant's correlation) is null."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def defined(self) -> bool:
        return None not in (self.value, self.low, self.high)


class ClassScores(Frozen):
    """How one class fared."""

    precision: float
    recall: float
    f1: float
    rows: int


class ModelScores(Frozen):
    """One model's numbers on the evaluation's rows."""

    name: str
    kind: Literal["candidate", "champion", "baseline", "repeat"]  # repeat: the candidate with another seed
    metrics: dict[Metric, Estimate]
    classes: dict[str, ClassScores]
    slices: dict[str, dict[Metric, float | None]]  # source or mark -> metric -> value
    by_source: dict[str, dict[Metric, Estimate]] = Field(default={})  # where the gate asks of a source

    def estimate(self, metric: Metric, source: str | None) -> Estimate | None:
        """The metric on all rows, or on those of a source."""
        return (self.metrics if source is None else self.by_source.get(source, {})).get(metric)


class Difference(Frozen):
    """Candidate minus another model, resampled in pairs: the same rows for both."""

    other: str
    metric: Metric
    estimate: Estimate
    source: str | None = None  # on whose rows; None: on all


class Evidence(Frozen):
    """What was measured, on what, against whom."""

    schema_version: str = "evidence/v1"
    recipe: str
    key: str
    candidate: str
    champion: str | None  # the champion's candidate digest at the time of the comparison
    champion_version: int | None
    champion_error: str | None  # why the champion could not be scored
    data: str
    base: str
    recipe_digest: str
    scores: str  # digest of the per-example scores
    rows: int
    planned_steps: int
    done_steps: int
    resamples: int
    confidence: float
    seed: int
    slice_rows: dict[str, int] = Field(default={})  # source or mark -> rows
    excluded: int = 0  # test rows left out because an earlier champion was trained on them
    models: tuple[ModelScores, ...]
    differences: tuple[Difference, ...]

    @property
    def digest(self) -> str:
        return fingerprint.of_json(self.model_dump(mode="json"))

    def of(self, kind: str) -> list[ModelScores]:
        return [model for model in self.models if model.kind == kind]

    def difference(self, other: str, metric: str, source: str | None = None) -> Estimate | None:
        asked = (other, metric, source)
        return next((d.estimate for d in self.differences if (d.other, d.metric, d.source) == asked), None)

    def count(self, source: str | None) -> int:
        """Rows of a source, or all."""
        return self.rows if source is None else self.slice_rows.get(source, 0)
