"""The recipe: everything a person decides about a model, typed, frozen, and checked before any work.

`params.yaml` holds `recipes: {<name>: {...}}`; `adaptory.params` reads it. The sentence under each key is its
documentation: docs/recipe.md is made from them.
"""

from typing import get_args

from pydantic import Field, model_validator

from adaptory import fingerprint
from adaptory.frozen import Digest, Frozen, Name, Share
from adaptory.recipe.data import Data, Drift, Fields, Label, Source, Split, SplitName, Task
from adaptory.recipe.evaluation import LENGTHS, NEW, SEEN, WRITES, Baseline, Evaluation, General, baselines_of
from adaptory.recipe.gate import (
    Asked,
    BeatsBaselines,
    BeatsChampion,
    Cases,
    Criterion,
    DataChecks,
    Floor,
    Forgetting,
    Gate,
    Latency,
    Lineage,
    NoSliceWorse,
    NotWorse,
    Steady,
)
from adaptory.recipe.metrics import CALIBRATION, LOWER, METRICS, OF_A_CLASS, Metric
from adaptory.recipe.search import Search
from adaptory.recipe.training import Method, Training

__all__ = [
    "CALIBRATION", "LENGTHS", "LOWER", "METRICS", "NEW", "OF_A_CLASS", "SEEN", "WRITES", "Asked", "BeatsBaselines",
    "BeatsChampion", "Cases", "Criterion", "Data", "DataChecks", "Digest", "Drift", "Evaluation", "Fields", "Floor",
    "Forgetting", "Frozen", "Gate", "General", "Label", "Latency", "Lineage", "Method", "Metric", "Name", "NoSliceWorse",
    "NotWorse", "Recipe", "Search", "Share", "Source", "Split", "SplitName", "Steady", "Task", "Training", "baselines_of",
]  # fmt: skip


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
    licence: str | None = None
    """Under which licence the model is released; it stands in its card and its bill of materials."""

    @model_validator(mode="after")
    def _coherent(self) -> "Recipe":
        self.data.check(self.task)
        self.training.check(self.task)
        if self.search:
            self.search.check(self.training, self.task)
        if unknown := set(self.training.sources) - set(self.data.sources):
            raise ValueError(f"training.sources names {', '.join(sorted(unknown))}, which data.sources does not")
        self.evaluation.check(self.task, self.data.classes)
        if self.evaluation.general and self.task == "preference" and self.training.objective == "reward":
            raise ValueError("evaluation.general is read by language models, and a reward model is none")
        for criterion in self.gate.criteria:
            self._check_criterion(criterion)
        taken = {"candidate", "champion", *get_args(Baseline)}
        if mixed := [name for name in self.evaluation.compare if name in taken or name.startswith("seed_")]:
            raise ValueError(f"evaluation.compare: {', '.join(mixed)} is also the name of a baseline; rename that recipe")
        if self.name in self.evaluation.compare:
            raise ValueError("evaluation.compare names this recipe itself; its own champion is compared with anyway")
        return self

    @property
    def chooses(self) -> bool:
        """Whether the settings of the candidate are found by trying several."""
        return self.search is not None or self.training.method == "auto"

    def _check_criterion(self, criterion: Criterion) -> None:
        if isinstance(criterion, Asked):
            self._check_metric(criterion.metric, criterion.direction, criterion.slice)
        told = self.evaluation
        if isinstance(criterion, BeatsBaselines) and not (told.baselines or told.compare):
            raise ValueError("gate asks for beats_baselines, but evaluation.baselines is empty, and compare too")
        if isinstance(criterion, NoSliceWorse) and criterion.slice:
            raise ValueError("gate asks no_slice_worse of every slice; a single one is asked by not_worse")
        if isinstance(criterion, NotWorse) and criterion.than not in ("champion", *told.compare):
            raise ValueError(f"gate asks not_worse than {criterion.than!r}, which is no champion of evaluation.compare")
        if isinstance(criterion, Cases) and told.cases is None:
            raise ValueError("gate asks for cases, but evaluation.cases names no file of them")
        if isinstance(criterion, Forgetting) and told.general is None:
            raise ValueError("gate asks for forgetting, but evaluation.general names no text to measure it on")
        if isinstance(criterion, Steady):
            self._check_metric(criterion.metric, "lower" if criterion.metric in LOWER else "higher", None)
            if told.seeds < 2:
                raise ValueError(f"gate asks for steady, which needs evaluation.seeds of 2 or more, found {told.seeds}")

    def _check_metric(self, metric: Metric, direction: str, where: str | None) -> None:
        if metric == "pearson_r" and self.data.fields.label and self.data.label.neutral_band is None:
            raise ValueError("metric 'pearson_r' compares with a number: it needs data.fields.label.neutral_band")
        of_class = where is not None and where.startswith("class=")
        known = OF_A_CLASS if of_class else self.metrics
        if metric not in known:
            of = f"slice {where!r}" if of_class else f"task {self.task!r}"
            raise ValueError(f"gate asks for {metric!r}, but {of} is measured by {', '.join(known)}")
        right = "lower" if metric in LOWER else "higher"
        if direction != right:
            raise ValueError(f"gate wants {metric} to be {direction}, but {right} is better; write direction: {right}")
        if where is not None:
            self._check_slice(where)

    def _check_slice(self, where: str) -> None:
        kind, _, name = where.partition("=")
        fixed, columns = {NEW, SEEN, *LENGTHS}, self.data.fields.slices
        asked = tuple(source for source, facts in self.data.sources.items() if facts.split in (None, "test"))
        known = {"source": asked, "class": self.data.classes, "text": tuple(self.evaluation.slices)}
        if name not in known.get(kind, ()) and where not in fixed and not (name and kind in columns):
            could = [*(f"{word}={one}" for word, names in known.items() for one in names), *sorted(fixed)]
            could += [f"{column}=<value>" for column in columns]
            raise ValueError(f"gate asks of slice {where!r}, which this recipe has not; it has {', '.join(could)}")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured on the test rows, the main metric first."""
        without = ("pearson_r",) if self.data.fields.label and self.data.label.neutral_band is None else ()
        return tuple(metric for metric in METRICS[self.task] if metric not in without)

    @property
    def digest(self) -> str:
        """The digest of every decision in it, defaults included."""
        return fingerprint.of_json({"schema": "recipe/v1", **self.model_dump(mode="json")})
