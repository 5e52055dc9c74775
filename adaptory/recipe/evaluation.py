"""The evaluation part of a recipe: who answers the test rows, and what is measured of the answers."""

import re
from typing import Literal

from pydantic import Field, model_validator

from adaptory.frozen import Frozen, Name
from adaptory.recipe.data import Source, Task

Baseline = Literal["majority", "tfidf", "untuned", "vader", "mean", "zero_shot", "few_shot", "copy", "longer"]
_BASELINES: dict[Task, tuple[Baseline, ...]] = {
    "classification": ("majority", "tfidf", "untuned", "zero_shot", "few_shot", "vader"),
    "pair_classification": ("majority", "tfidf"),
    "regression": ("mean", "tfidf"),
    "sft": ("zero_shot", "few_shot", "copy"),
    "text": ("untuned",),
    "preference": ("untuned", "longer"),
}
WRITES: tuple[Task, ...] = ("sft", "preference", "text")  # tasks whose models give every text a likelihood
# Slices that every evaluation has; `text=` and `<column>=` come from the recipe.
LENGTHS = ("words=1-8", "words=9-16", "words=17-32", "words=33-")
NEW, SEEN = "history=new", "history=trained on"  # since the champion; by an earlier champion, or it


def baselines_of(task: Task) -> tuple[Baseline, ...]:
    """The baselines that can answer a task."""
    return _BASELINES[task]


class General(Frozen):
    """Held-out text of another kind, to see what the base knew and the candidate forgot."""

    source: Source
    """Where it comes from; like a source of `data`, and pinned by its sha256."""
    column: str
    """The column that holds the text."""
    rows: int = Field(default=200, ge=10, le=10_000)
    """How many texts are read, the same ones every time."""

    @model_validator(mode="after")
    def _pinned(self) -> "General":
        if self.source.sha256 is None:
            raise ValueError("evaluation.general.source needs its sha256, so that every run reads the same text")
        return self


class Evaluation(Frozen):
    """What the candidate is compared with, on the same test rows."""

    baselines: tuple[Baseline, ...] = ()
    """What the candidate is compared with."""
    compare: tuple[Name, ...] = ()
    """Other recipes whose champions answer the same rows; they count as baselines."""
    descriptions: dict[str, str] = Field(default={})
    """What each class means in words: an encoder picks the class with the nearest embedding, a chat model the likeliest word."""
    shots: int = Field(default=4, ge=1, le=64)
    """Examples from the training split that the baseline `few_shot` is shown; of classes, so many of each."""
    prompt: str | None = None
    """How a language model is asked for a class, with `{text}` and `{classes}` in it (baselines zero_shot and few_shot)."""
    max_new_tokens: int = Field(default=128, ge=1, le=8192)
    """Longest answer that is generated (task sft)."""
    max_rows: int | None = Field(default=None, ge=1)
    """Evaluate at most this many test rows, the same ones every time; null: all."""
    slices: dict[Name, str] = Field(default={})
    """Name -> regular expression: the rows whose text matches it are the slice `text=<name>`."""
    cases: str | None = None
    """A file of behavioural cases beside params.yaml: what must be answered, what must not change an answer."""
    general: General | None = None
    """Text of another kind, on which the candidate's perplexity is held against its base's: what it forgot."""
    seeds: int = Field(default=0, ge=0, le=20)
    """Trains the candidate this many more times with other seeds, and scores them too: what chance alone does."""
    exclude_seen: bool = False
    """Leaves test rows out that an earlier champion was trained on; otherwise they are a slice of the report."""
    resamples: int = Field(default=2000, ge=100, le=100_000)
    """Bootstrap draws for every interval."""
    interval: Literal["percentile", "bca"] = "percentile"
    """How the ends of an interval are found: percentiles, or corrected for bias and skew (Efron 1987)."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of every interval."""
    seed: int = Field(default=12345, ge=0)
    """Of the bootstrap."""

    @model_validator(mode="after")
    def _usable(self) -> "Evaluation":
        for name, pattern in self.slices.items():
            try:
                re.compile(pattern)
            except re.error as fault:
                raise ValueError(f"evaluation.slices.{name} is not a regular expression: {fault}") from None
        if len(set(self.compare)) < len(self.compare) or len(set(self.baselines)) < len(self.baselines):
            raise ValueError("evaluation.compare and evaluation.baselines name each model once")
        if self.prompt and "{text}" not in self.prompt:
            raise ValueError("evaluation.prompt must say where the text goes: {text}")
        return self

    def check(self, task: Task, classes: tuple[str, ...]) -> None:
        """Raises ValueError for models that could not answer the task."""
        if wrong := [name for name in self.baselines if name not in _BASELINES[task]]:
            known = ", ".join(_BASELINES[task])
            raise ValueError(f"evaluation.baselines: {', '.join(wrong)} cannot answer task {task!r}; it has {known}")
        described = set(self.descriptions)
        if "untuned" in self.baselines and described != set(classes):
            raise ValueError(
                f"evaluation.descriptions must describe exactly the classes {sorted(classes)} "
                f"for the baseline 'untuned', found {sorted(described)}"
            )
        if "vader" in self.baselines and len(classes) != 3:
            raise ValueError("the baseline 'vader' needs three classes: negative, neutral, positive, in this order")
        if self.general and task not in WRITES:
            raise ValueError(f"evaluation.general is read by language models; task {task!r} has none ({', '.join(WRITES)} do)")
