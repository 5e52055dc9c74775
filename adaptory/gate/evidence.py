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
    deviation: float | None = None  # of the draws: the standard error

    @property
    def defined(self) -> bool:
        return None not in (self.value, self.low, self.high)


class ModelScores(Frozen):
    """One model's numbers on the evaluation's rows."""

    name: str
    kind: Literal["candidate", "champion", "baseline", "repeat"]  # repeat: the candidate with another seed
    digest: str | None = None  # of its adapter, or of what a baseline is made from
    metrics: dict[Metric, Estimate]
    slices: dict[str, dict[Metric, Estimate]] = Field(default={})  # slice -> metric
    temperature: float | None = None  # that makes its chances honest
    latency: Estimate | None = None  # milliseconds for a row by itself: median, with the interval of the median
    size: int | None = None  # bytes of what was trained

    def estimate(self, metric: Metric, where: str | None) -> Estimate | None:
        """The metric on all rows, or on those of a slice."""
        return (self.metrics if where is None else self.slices.get(where, {})).get(metric)


class Difference(Frozen):
    """Candidate minus another model, resampled in pairs: the same rows for both."""

    other: str
    metric: Metric
    estimate: Estimate
    slice: str | None = None  # on whose rows; None: on all
    bound: Estimate | None = None  # the interval at the level that the budget allows this comparison


class Paired(Frozen):
    """Candidate and another model row by row."""

    other: str
    wins: int
    losses: int
    ties: int
    win_rate: Estimate  # ties half; Wilson interval
    sign_test: float  # exact, two-sided; of right and wrong answers: McNemar's test
    permutation: float | None  # two-sided, of the main metric; None where answers cannot be exchanged


class Case(Frozen):
    """What came of one behavioural case."""

    name: str
    passed: bool
    said: str


class Look(Frozen):
    """Which comparison with a champion this is on its test split, and at which level it is judged (one-sided)."""

    number: int
    level: float


class Evidence(Frozen):
    """What was measured, on what, against whom."""

    schema_version: str = "evidence/v2"
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
    rows_digest: str = ""  # of the test rows: their names and contents
    commit: str | None = None  # that was checked out, with `+changes` if the tree differed
    quarantined: float = 0.0  # share of the rows that could not be used
    look: Look | None = None  # None: no champion, or no budget
    planned_steps: int
    done_steps: int
    resamples: int
    confidence: float
    seed: int
    slice_rows: dict[str, int] = Field(default={})  # slice -> rows
    excluded: int = 0  # test rows left out: the candidate's start, or an earlier champion, was trained on them
    models: tuple[ModelScores, ...]
    differences: tuple[Difference, ...]
    paired: tuple[Paired, ...] = ()
    cases: tuple[Case, ...] | None = None  # None: the recipe has none
    forgetting: Estimate | None = None  # perplexity of the candidate over its base's, on other text
    cases_digest: str | None = None

    @property
    def digest(self) -> str:
        return fingerprint.of_json(self.model_dump(mode="json"))

    def of(self, kind: str) -> list[ModelScores]:
        return [model for model in self.models if model.kind == kind]

    def model(self, name: str) -> ModelScores | None:
        return next((model for model in self.models if model.name == name), None)

    def between(self, other: str, metric: str, where: str | None = None) -> Difference | None:
        """Candidate minus another model."""
        asked = (other, metric, where)
        return next((d for d in self.differences if (d.other, d.metric, d.slice) == asked), None)

    def difference(self, other: str, metric: str, where: str | None = None) -> Estimate | None:
        found = self.between(other, metric, where)
        return found.estimate if found else None

    def count(self, where: str | None) -> int:
        """Rows of a slice, or all; a class is measured on all."""
        return self.rows if where is None or where.startswith("class=") else self.slice_rows.get(where, 0)
