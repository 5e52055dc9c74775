"""The recipe: everything a person decides about a model, typed, frozen, and checked before any work.

`params.yaml` holds `recipes: {<name>: {...}}`; `adaptory.params` reads it. The sentence under each key is its
documentation: docs/recipe.md is made from them.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from adaptory import fingerprint
from adaptory.recipe.data import Data, Drift, Fields, Label, Source, Split, SplitName, Task
from adaptory.recipe.frozen import Digest, Frozen, Name, Share
from adaptory.recipe.search import Search
from adaptory.recipe.training import Method, Training

__all__ = [
    "LOWER", "METRICS", "BeatsBaselines", "BeatsChampion", "Criterion", "Data", "Digest", "Drift", "Evaluation", "Fields",
    "Floor", "Frozen", "Gate", "Label", "Method", "Metric", "Name", "Recipe", "Search", "Share", "Source", "Split",
    "SplitName", "Task", "Training", "baselines_of",
]  # fmt: skip

Metric = Literal[
    "macro_f1", "accuracy", "pearson_r", "mae", "bleu", "chrf", "exact_match", "placeholders", "stopped", "perplexity",
    "reward_accuracy",
]  # fmt: skip
LOWER: tuple[Metric, ...] = ("mae", "perplexity")  # metrics of which less is better
Baseline = Literal["majority", "tfidf", "untuned", "vader", "mean", "zero_shot", "few_shot", "copy", "longer"]
# What is measured of each task, the main metric first; pearson_r of classes only where a number lies behind them.
METRICS: dict[Task, tuple[Metric, ...]] = {
    "classification": ("macro_f1", "accuracy", "pearson_r"),
    "pair_classification": ("macro_f1", "accuracy", "pearson_r"),
    "regression": ("pearson_r", "mae"),
    "sft": ("chrf", "bleu", "exact_match", "placeholders", "stopped"),
    "text": ("perplexity",),
    "preference": ("reward_accuracy",),
}
_BASELINES: dict[Task, tuple[Baseline, ...]] = {
    "classification": ("majority", "tfidf", "untuned", "few_shot", "vader"),
    "pair_classification": ("majority", "tfidf"),
    "regression": ("mean", "tfidf"),
    "sft": ("zero_shot", "few_shot", "copy"),
    "text": ("untuned",),
    "preference": ("untuned", "longer"),
}


def baselines_of(task: Task) -> tuple[Baseline, ...]:
    """The baselines that can answer a task."""
    return _BASELINES[task]


class Evaluation(Frozen):
    """What the candidate is compared with, on the same test rows."""

    baselines: tuple[Baseline, ...] = ()
    """What the candidate is compared with."""
    compare: tuple[Name, ...] = ()
    """Other recipes whose champions answer the same rows; they count as baselines."""
    descriptions: dict[str, str] = Field(default={})
    """What each class means in words: the untuned base picks the class with the nearest embedding."""
    shots: int = Field(default=4, ge=1, le=64)
    """Examples from the training split that the baseline `few_shot` is shown; of classes, so many of each."""
    max_new_tokens: int = Field(default=128, ge=1, le=8192)
    """Longest answer that is generated (task sft)."""
    max_rows: int | None = Field(default=None, ge=1)
    """Evaluate at most this many test rows, the same ones every time; null: all."""
    seeds: int = Field(default=0, ge=0, le=20)
    """Trains the candidate this many more times with other seeds, and scores them too: what chance alone does."""
    exclude_seen: bool = False
    """Leaves test rows out that an earlier champion was trained on; otherwise they are a slice of the report."""
    resamples: int = Field(default=2000, ge=100, le=100_000)
    """Bootstrap draws for every interval."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of every interval."""
    seed: int = Field(default=12345, ge=0)
    """Of the bootstrap."""


class Floor(Frozen):
    """The worse end of the candidate's interval must reach a limit."""

    kind: Literal["floor"]
    metric: Metric
    """What is measured on the test rows."""
    direction: Literal["higher", "lower"]
    """Which way is better."""
    source: Name | None = None
    """Asked of the test rows of this source only; null: of all."""
    limit: float
    """The whole interval must reach it."""


class BeatsBaselines(Frozen):
    """The candidate must beat the best baseline by more than a margin, beyond chance."""

    kind: Literal["beats_baselines"]
    metric: Metric
    """What is measured on the test rows."""
    direction: Literal["higher", "lower"]
    """Which way is better."""
    source: Name | None = None
    """Asked of the test rows of this source only; null: of all."""
    margin: float = Field(ge=0)
    """The paired gain over every baseline must be larger, with its whole interval."""


class BeatsChampion(Frozen):
    """The candidate must beat the champion by more than a margin, beyond chance. No champion: not asked."""

    kind: Literal["beats_champion"]
    metric: Metric
    """What is measured on the test rows."""
    direction: Literal["higher", "lower"]
    """Which way is better."""
    source: Name | None = None
    """Asked of the test rows of this source only; null: of all."""
    margin: float = Field(ge=0)
    """The paired gain over the champion must be larger, with its whole interval."""


Criterion = Annotated[Floor | BeatsBaselines | BeatsChampion, Field(discriminator="kind")]


class Gate(Frozen):
    """What has to be proved before a candidate becomes champion. No criteria: refused."""

    criteria: tuple[Criterion, ...] = Field(min_length=1)
    """All must hold; an empty list is refused."""


class Recipe(Frozen):
    """One model: its data, base, training, comparison and gate."""

    name: Name
    task: Task
    """What is learned."""
    data: Data
    """What it is learned from."""
    base: str = Field(min_length=1)
    """`<org>/<name>@<revision>`, `./folder`, `s3://bucket/prefix`, `pypi:<name>==<version>!<folder>`; pinned in recipes.lock."""
    training: Training = Training()
    """How a candidate is made."""
    search: Search | None = None
    """Which settings are tried before one is trained; null: those of `training`."""
    evaluation: Evaluation = Evaluation()
    """What it is compared with."""
    gate: Gate
    """What it has to prove."""

    @model_validator(mode="after")
    def _coherent(self) -> "Recipe":
        self.data.check(self.task)
        self.training.check(self.task)
        if self.search:
            self.search.check(self.training, self.task)
        if unknown := set(self.training.sources) - set(self.data.sources):
            raise ValueError(f"training.sources names {', '.join(sorted(unknown))}, which data.sources does not")
        described, classes = set(self.evaluation.descriptions), set(self.data.classes)
        if wrong := [name for name in self.evaluation.baselines if name not in _BASELINES[self.task]]:
            known = ", ".join(_BASELINES[self.task])
            raise ValueError(f"evaluation.baselines: {', '.join(wrong)} cannot answer task {self.task!r}; it has {known}")
        if "untuned" in self.evaluation.baselines and described != classes:
            raise ValueError(
                f"evaluation.descriptions must describe exactly the classes {sorted(classes)} "
                f"for the baseline 'untuned', found {sorted(described)}"
            )
        if "vader" in self.evaluation.baselines and len(classes) != 3:
            raise ValueError("the baseline 'vader' needs three classes: negative, neutral, positive, in this order")
        for criterion in self.gate.criteria:
            self._check_metric(criterion.metric, criterion.direction)
            if criterion.source is not None and criterion.source not in self.data.sources:
                raise ValueError(f"gate asks of source {criterion.source!r}, which data.sources does not name")
        needs_baseline = any(c.kind == "beats_baselines" for c in self.gate.criteria)
        if needs_baseline and not (self.evaluation.baselines or self.evaluation.compare):
            raise ValueError("gate asks for beats_baselines, but evaluation.baselines is empty, and compare too")
        compared, taken = self.evaluation.compare, {"candidate", "champion", *get_args(Baseline)}
        if len(set(compared)) < len(compared) or len(set(self.evaluation.baselines)) < len(self.evaluation.baselines):
            raise ValueError("evaluation.compare and evaluation.baselines name each model once")
        if mixed := [name for name in compared if name in taken or name.startswith("seed_")]:
            raise ValueError(f"evaluation.compare: {', '.join(mixed)} is also the name of a baseline; rename that recipe")
        if self.name in self.evaluation.compare:
            raise ValueError("evaluation.compare names this recipe itself; its own champion is compared with anyway")
        return self

    @property
    def chooses(self) -> bool:
        """Whether the settings of the candidate are found by trying several."""
        return self.search is not None or self.training.method == "auto"

    def _check_metric(self, metric: Metric, direction: str) -> None:
        if metric == "pearson_r" and self.data.fields.label and self.data.label.neutral_band is None:
            raise ValueError("metric 'pearson_r' compares with a number: it needs data.fields.label.neutral_band")
        if metric not in self.metrics:
            raise ValueError(f"gate asks for {metric!r}, but task {self.task!r} is measured by {', '.join(self.metrics)}")
        right = "lower" if metric in LOWER else "higher"
        if direction != right:
            raise ValueError(f"gate wants {metric} to be {direction}, but {right} is better; write direction: {right}")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured on the test rows, the main metric first."""
        without = ("pearson_r",) if self.data.fields.label and self.data.label.neutral_band is None else ()
        return tuple(metric for metric in METRICS[self.task] if metric not in without)

    @property
    def digest(self) -> str:
        """The digest of every decision in it, defaults included."""
        return fingerprint.of_json({"schema": "recipe/v1", **self.model_dump(mode="json")})
