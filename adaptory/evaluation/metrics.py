"""The numbers and their intervals: what of scores becomes evidence. Arithmetic on stored answers: no model, no clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptory.evaluation import resampling
from adaptory.evaluation.measures import MEASURES, credit, measure
from adaptory.evaluation.scores import Answers, Floats, Truth
from adaptory.gate.evidence import Difference, Estimate, ModelScores, Paired
from adaptory.recipe import OF_A_CLASS, Metric, Recipe

SUPPORT = 20  # rows that a slice must have to be measured
_BIASED: tuple[Metric, ...] = ("ece", "ece_fitted")


@dataclass(frozen=True)
class Plan:
    """What is measured, and how chance is."""

    metrics: tuple[Metric, ...]  # the main metric first
    classes: tuple[str, ...]
    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 12345
    level: float | None = None  # one-sided, at which differences to the champion are judged; None: that of the confidence
    bca: bool = False
    in_slices: tuple[Metric, ...] = ()  # what is measured there; a class has its own three

    def of_slice(self, name: str) -> tuple[Metric, ...]:
        """What is measured in a slice."""
        return OF_A_CLASS if name.startswith("class=") else self.in_slices


def plan(recipe: Recipe, level: float | None = None) -> Plan:
    """What a recipe measures: in slices, its main metric, what the gate asks there, and r where there is one."""
    told = recipe.evaluation
    asked = [one.metric for one in recipe.gate.asked if one.metric not in OF_A_CLASS]
    first: tuple[Metric, ...] = (recipe.metrics[0], *(one for one in recipe.metrics if one == "pearson_r"))
    return Plan(
        metrics=recipe.metrics, classes=recipe.data.classes, resamples=told.resamples, confidence=told.confidence,
        seed=told.seed, level=level, bca=told.interval == "bca", in_slices=tuple(dict.fromkeys((*first, *asked))),
    )  # fmt: skip


def values(truth: Truth, answers: Answers, metrics: Sequence[Metric], classes: int) -> dict[Metric, float | None]:
    """Each metric on the rows; None where it is not defined."""
    once = np.ones((1, len(truth.rows)))
    found = {metric: float(MEASURES[metric].of(truth, answers, classes)(once)[0]) for metric in metrics}
    return {metric: value if np.isfinite(value) else None for metric, value in found.items()}


def compare(
    truth: Truth, answers: Sequence[Answers], plan: Plan
) -> tuple[tuple[ModelScores, ...], tuple[Difference, ...], tuple[Paired, ...]]:
    """Every model's numbers with intervals, on all rows and in every slice with enough of them; and how the first model
    differs from each other one, as a whole and row by row."""
    whole, gaps = _measured(truth, answers, plan, None)
    inside: list[dict[str, dict[Metric, Estimate]]] = [{} for _ in answers]
    differences = list(gaps)
    for name in _measurable(truth, plan):
        found, more = _measured(truth, answers, plan, name)
        for place, one in enumerate(found):
            inside[place][name] = one
        differences += more
    models = tuple(
        ModelScores(name=m.name, kind=m.kind, metrics=whole[n], slices=inside[n], temperature=m.temperature)  # type: ignore[arg-type]
        for n, m in enumerate(answers)
    )
    return models, tuple(differences), tuple(_duels(truth, answers, plan))


def slices(truth: Truth) -> dict[str, Any]:
    """Which rows are in each slice; an empty one is none."""
    return {name: rows for name, rows in truth.slices.items() if rows.any()}


def _measurable(truth: Truth, plan: Plan) -> list[str]:
    """Of slices of one document nothing can be said of chance."""
    groups = np.array(truth.groups or truth.rows)
    several = [name for name, rows in truth.slices.items() if rows.sum() >= SUPPORT and len(set(groups[rows])) > 1]
    return [name for name in several if plan.of_slice(name)]


def _measured(
    truth: Truth, answers: Sequence[Answers], plan: Plan, where: str | None
) -> tuple[list[dict[Metric, Estimate]], list[Difference]]:
    metrics = plan.metrics if where is None else plan.of_slice(where)
    if where is not None and not where.startswith("class="):  # F1 of a class is of all rows
        rows = np.flatnonzero(truth.slices[where])
        truth, answers = truth.take(rows), [one.take(rows) for one in answers]
    values_, drawn, left_out = _drawn(truth, answers, metrics, plan, where)
    units = len(set(truth.groups or truth.rows))

    def estimated(n: int, m: Metric) -> Estimate:
        return resampling.estimate(_point(values_[n, m]), drawn[n, m], plan.confidence, left_out.get((n, m)), units)

    found = [{m: estimated(n, m) for m in metrics} for n in range(len(answers))]
    gaps = []
    for n, m in [(n, m) for n in range(1, len(answers)) for m in metrics]:
        value, gap = _point(values_[0, m] - values_[n, m]), drawn[0, m] - drawn[n, m]
        out = left_out[0, m] - left_out[n, m] if left_out else None
        estimate = resampling.estimate(value, gap, plan.confidence, out, units)
        bound = None
        if plan.level is not None and answers[n].kind == "champion" and estimate.value is not None:
            low, high = resampling.bounds(estimate.value, gap, plan.level, units)
            bound = Estimate(value=estimate.value, low=low, high=high, deviation=estimate.deviation)
        gaps.append(Difference(other=answers[n].name, metric=m, estimate=estimate, slice=where, bound=bound))
    return found, gaps


def _drawn(
    truth: Truth, answers: Sequence[Answers], metrics: Iterable[Metric], plan: Plan, where: str | None
) -> tuple[dict[tuple[int, Metric], float], dict[tuple[int, Metric], Floats], dict[tuple[int, Metric], Floats]]:
    """Of every model and metric: the value, its values on every draw of rows, and (for BCa) with rows left out."""
    rows, classes, documents = len(truth.rows), len(plan.classes), resampling.numbered(truth.groups)
    asked = {(n, m): measure(m, where, plan.classes).of(truth, one, classes) for n, one in enumerate(answers) for m in metrics}
    once = np.ones((1, rows))
    found = {key: float(value(once)[0]) for key, value in asked.items()}
    drawn: dict[tuple[int, Metric], list[Floats]] = {key: [] for key in asked}
    whole: dict[tuple[int, Metric], Floats] = {}
    for weights in resampling.draws(rows, plan.resamples, plan.seed, documents):
        for key, value in asked.items():
            drawn[key].append(value(weights))
    for key in asked:
        joined = np.concatenate(drawn[key])
        if key[1] in _BIASED:  # a resample is less even than the rows, so it looks less calibrated than they are
            joined = np.maximum(joined - (joined.mean() - found[key]), 0.0)
        whole[key] = joined
    left = {key: value(resampling.leave_out(rows, documents)) for key, value in asked.items()} if plan.bca else {}
    return found, whole, left


def _duels(truth: Truth, answers: Sequence[Answers], plan: Plan) -> Iterable[Paired]:
    """The first model against every other one, row by row."""
    main = MEASURES[plan.metrics[0]]
    earned = [credit(truth, one) for one in answers]
    for place, other in enumerate(answers[1:], start=1):
        chance = None
        if main.sums and other.kind != "repeat":
            parts, value = main.sums
            ours, theirs = (parts(truth, one, len(plan.classes)) for one in (answers[0], other))
            chance = resampling.permuted(ours, theirs, value, plan.resamples, plan.seed, resampling.numbered(truth.groups))
        yield resampling.duel(other.name, earned[0], earned[place], chance)


def _point(value: float) -> float | None:
    return value if np.isfinite(value) else None
