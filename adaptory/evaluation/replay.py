"""Past decisions under other rules: decided again from stored scores, without a model."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from adaptory.errors import DataError, RecipeError
from adaptory.evaluation import metrics, scores
from adaptory.evaluation.evaluate import measured
from adaptory.evaluation.scores import Answers, Truth
from adaptory.gate import Evidence, Look, Verdict, judge
from adaptory.recipe import Frozen, Recipe
from adaptory.registry.decisions import decisions, fetch_scores
from adaptory.registry.judged import Judged
from adaptory.registry.spending import level
from adaptory.storage import ObjectStore


class Replayed(Frozen):
    """One decision, then and under the other rules."""

    time: str
    candidate: str
    then: str
    now: str
    reason: str
    later: str  # how the candidate did on rows that came after the decision, if anybody asked it again


def policy(path: Path, recipe: Recipe) -> Recipe:
    """The recipe with the gate (and evaluation settings) of another file. Raises RecipeError for one that cannot be."""
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"there is no policy {path}") from None
    if not isinstance(told, dict) or not set(told) <= {"gate", "evaluation"}:
        raise RecipeError(f"{path} must hold `gate:` and perhaps `evaluation:`, as a recipe does")
    body = recipe.model_dump(mode="json")
    body["gate"] = told.get("gate", body["gate"])
    body["evaluation"] |= told.get("evaluation", {})
    try:
        return Recipe.model_validate(body)
    except ValidationError as fault:
        first = fault.errors()[0]
        raise RecipeError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def replay(store: ObjectStore, recipe: Recipe, since: str = "") -> Iterator[Replayed]:
    """Every decision again, under this recipe's gate, each against the champion of its day. Raises DataError if none is kept.

    A decision is the look at the test split that it was; those from before there was a budget are counted.
    """
    past = [pair for pair in decisions(store, recipe.name) if pair[0].time >= since]
    if not past:
        raise DataError(
            f"no decision about {recipe.name!r} is kept with its evidence{since and ' since ' + since}; retrain it first"
        )
    looks = 0
    with tempfile.TemporaryDirectory() as folder:
        kept = [_read(store, recipe, evidence, Path(folder) / f"{place}.parquet") for place, (_, evidence) in enumerate(past)]
        for place, (judged, evidence) in enumerate(past):
            looks = evidence.look.number if evidence.look else looks + (evidence.champion is not None)
            verdict = _again(recipe, evidence, kept[place], looks)
            yield Replayed(
                time=judged.time, candidate=judged.candidate, then=judged.outcome, now=verdict.outcome, reason=verdict.reason,
                later=_later(recipe, place, past, kept),
            )  # fmt: skip


def _read(store: ObjectStore, recipe: Recipe, evidence: Evidence, path: Path) -> tuple[Truth, list[Answers]]:
    """The stored answers of those whom this recipe asks, and the slices it has. Raises DataError where somebody was not asked."""
    fetch_scores(store, evidence, path)
    about = {model.name: model for model in evidence.models}
    try:
        truth, answers = scores.read(path, recipe.data.classes, {name: model.temperature for name, model in about.items()})
    except KeyError as fault:
        raise DataError(
            f"a decision of {evidence.recipe!r} was about class {fault}, which the recipe has no longer; use --since"
        ) from None
    wanted = {*recipe.evaluation.baselines, *recipe.evaluation.compare}
    if missing := sorted(wanted - set(about)):
        raise DataError(
            f"{', '.join(missing)} answered in no decision of then; replay asks nobody again. Leave it out, or use --since"
        )
    inside = {name: rows for name, rows in truth.slices.items() if not name.startswith("text=")}
    for name, pattern in recipe.evaluation.slices.items():
        inside[f"text={name}"] = np.array([bool(re.search(pattern, text)) for text in truth.asked])
    some = [one for one in answers if one.kind != "baseline" or one.name in wanted]
    return replace(truth, slices={name: rows for name, rows in inside.items() if rows.any()}), some


def _again(recipe: Recipe, evidence: Evidence, kept: tuple[Truth, list[Answers]], looks: int) -> Verdict:
    look = None
    if evidence.champion is not None and recipe.gate.budget is not None:
        look = Look(number=looks, level=level(looks, recipe.gate.budget))
    told = recipe.evaluation
    counts = {name: int(rows.sum()) for name, rows in kept[0].slices.items()}
    changes = {"look": look, "resamples": told.resamples, "confidence": told.confidence, "seed": told.seed, "slice_rows": counts}
    made = measured(evidence.model_copy(update=changes), *kept, metrics.plan(recipe, look.level if look else None))
    about = {model.name: model for model in evidence.models}
    beside = ("digest", "latency", "size")
    models = tuple(one.model_copy(update={key: getattr(about[one.name], key) for key in beside}) for one in made.models)
    names = {one.name for one in models}
    models += tuple(one for one in evidence.models if one.kind == "repeat" and one.name not in names)  # could not be trained
    return judge(made.model_copy(update={"models": models}), recipe.gate, evidence.champion)


def _later(recipe: Recipe, place: int, past: Sequence[tuple[Judged, Evidence]], kept: Sequence[tuple[Truth, Any]]) -> str:
    """The candidate's main metric on rows that came after its decision, from a later evaluation it took part in."""
    candidate, known = past[place][1].candidate, set(kept[place][0].rows)
    for number in range(len(past) - 1, place, -1):
        model = next((one for one in past[number][1].models if one.digest == candidate and one.kind == "champion"), None)
        truth, answers = kept[number]
        new = np.array([at for at, row in enumerate(truth.rows) if row not in known])
        if model is None or len(new) < metrics.SUPPORT:
            continue
        said = next(one for one in answers if one.name == model.name)
        main = recipe.metrics[0]
        found = metrics.values(truth.take(new), said.take(new), [main], len(recipe.data.classes))[main]
        own = past[place][1].of("candidate")[0].metrics[main].value
        if found is not None and own is not None:
            return f"{main.replace('_', ' ')} {found:.3f} on {len(new):,} rows that came later ({own:.3f} then)"
    return ""
