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
    kind: Literal["candidate", "champion", "baseline"]
    metrics: dict[Metric, Estimate]
    classes: dict[str, ClassScores]
    slices: dict[str, dict[Metric, float | None]]  # source or mark -> metric -> value


class Difference(Frozen):
    """Candidate minus another model, resampled in pairs: the same rows for both."""

    other: str
    metric: Metric
    estimate: Estimate


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

    def difference(self, other: str, metric: str) -> Estimate | None:
        return next((d.estimate for d in self.differences if (d.other, d.metric) == (other, metric)), None)
