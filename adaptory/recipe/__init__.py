"""The recipe: everything a person decides about a model, typed, frozen, and checked before any work.

`params.yaml` holds `recipes: {<name>: {...}}`; `adaptory.params` reads it. The sentence under each key is its
documentation: docs/recipe.md is made from them.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from adaptory import fingerprint
from adaptory.recipe.data import Data, Drift, Fields, Label, Source, Split, SplitName, Task
from adaptory.recipe.frozen import Digest, Frozen, Name, Share

__all__ = [
    "BeatsBaselines", "BeatsChampion", "Criterion", "Data", "Digest", "Drift", "Evaluation", "Fields", "Floor", "Frozen",
    "Gate", "Label", "Metric", "Name", "Recipe", "Share", "Source", "Split", "SplitName", "Task", "Training",
]  # fmt: skip

Metric = Literal["macro_f1", "accuracy", "pearson_r"]
Baseline = Literal["majority", "tfidf", "untuned", "vader"]


class Training(Frozen):
    """How a candidate is made: LoRA adapters in the linear layers of the top blocks, and a new head."""

    method: Literal["lora"] = "lora"
    """LoRA adapters and a new head; the base stays as it is."""
    rank: int = Field(default=16, ge=1, le=512)
    """Width of the adapters: more learns more and costs little."""
    alpha: int = Field(default=32, ge=1)
    """Adapters are scaled by alpha / rank."""
    dropout: Share = 0.0
    """Share of the adapters' inputs dropped while training."""
    top_layers: int | None = Field(default=None, ge=1)
    """Adapt only the top blocks (fewer cost less time); null: all."""
    epochs: int = Field(default=2, ge=1, le=100)
    """Passes over the training rows; the best by validation macro F1 is kept."""
    batch_rows: int = Field(default=32, ge=1)
    """Rows per optimizer step."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Peak rate of AdamW."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after the warm-up."""
    warmup: Share = 0.06
    """Share of the steps in which the rate rises."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """Decoupled weight decay of the adapters."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradients longer than this are shortened to it."""
    max_tokens: int = Field(default=128, ge=8, le=8192)
    """Texts are cut at this many tokens, in training, evaluation and serving."""
    seed: int = Field(default=0, ge=0)
    """Fixes head, adapters and the order of rows."""


class Evaluation(Frozen):
    """What the candidate is compared with, on the same test rows."""

    baselines: tuple[Baseline, ...] = ()
    """What the candidate is compared with."""
    descriptions: dict[str, str] = Field(default={})
    """What each class means in words: the untuned base picks the class with the nearest embedding."""
    exclude_seen: bool = False
    """Leaves test rows out that an earlier champion was trained on; otherwise they are a slice of the report."""
    resamples: int = Field(default=2000, ge=100, le=100_000)
    """Bootstrap draws for every interval."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of every interval."""
    seed: int = Field(default=12345, ge=0)
    """Of the bootstrap."""


class Floor(Frozen):
    """The lower end of the candidate's interval must reach a limit."""

    kind: Literal["floor"]
    metric: Metric
    """What is measured on the test rows."""
    direction: Literal["higher"]
    """Which way is better."""
    limit: float
    """The whole interval must reach it."""


class BeatsBaselines(Frozen):
    """The candidate must beat the best baseline by more than a margin, beyond chance."""

    kind: Literal["beats_baselines"]
    metric: Metric
    """What is measured on the test rows."""
    direction: Literal["higher"]
    """Which way is better."""
    margin: float = Field(ge=0)
    """The paired gain over every baseline must be larger, with its whole interval."""


class BeatsChampion(Frozen):
    """The candidate must beat the champion by more than a margin, beyond chance. No champion: not asked."""

    kind: Literal["beats_champion"]
    metric: Metric
    """What is measured on the test rows."""
    direction: Literal["higher"]
    """Which way is better."""
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
    evaluation: Evaluation = Evaluation()
    """What it is compared with."""
    gate: Gate
    """What it has to prove."""

    @model_validator(mode="after")
    def _coherent(self) -> "Recipe":
        self.data.check(self.task)
        described, classes = set(self.evaluation.descriptions), set(self.data.classes)
        if "untuned" in self.evaluation.baselines and described != classes:
            raise ValueError(
                f"evaluation.descriptions must describe exactly the classes {sorted(classes)} "
                f"for the baseline 'untuned', found {sorted(described)}"
            )
        if "vader" in self.evaluation.baselines and len(classes) != 3:
            raise ValueError("the baseline 'vader' needs three classes: negative, neutral, positive, in this order")
        needs_value = {c.metric for c in self.gate.criteria} & {"pearson_r"}
        if needs_value and (self.data.fields.label is None or self.data.fields.label.neutral_band is None):
            raise ValueError("metric 'pearson_r' compares with a number: it needs data.fields.label.neutral_band")
        needs_baseline = any(c.kind == "beats_baselines" for c in self.gate.criteria)
        if needs_baseline and not self.evaluation.baselines:
            raise ValueError("gate asks for beats_baselines, but evaluation.baselines is empty")
        return self

    @property
    def digest(self) -> str:
        """The digest of every decision in it, defaults included."""
        return fingerprint.of_json({"schema": "recipe/v1", **self.model_dump(mode="json")})
