"""The tables of a report, as Markdown: everyone beside everyone, by class, by slice."""

from collections.abc import Iterable, Sequence

from adaptory.evaluation.measures import MEASURES
from adaptory.gate import Estimate, Evidence, ModelScores
from adaptory.recipe import CALIBRATION, LOWER, OF_A_CLASS, Metric

NAMES = {
    "majority": "majority class",
    "mean": "mean of the training rows",
    "tfidf": "TF-IDF + linear model",
    "untuned": "untuned base",
    "vader": "VADER lexicon",
    "zero_shot": "untuned base, asked directly",
    "few_shot": "untuned base, shown examples",
    "copy": "the question itself",
    "longer": "the longer answer",
}


def table(head: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first columns are texts, the others numbers."""
    rule = "|---" * left + "|---:" * (len(head) - left) + "|"
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines)])


def ordered(evidence: Evidence) -> list[ModelScores]:
    """Candidate, champion, then baselines from best to worst."""
    rank = {"candidate": 0, "repeat": 1, "champion": 2, "baseline": 3}
    main = main_of(evidence)
    sign = 1 if main in LOWER else -1
    return sorted(evidence.models, key=lambda m: (rank[m.kind], sign * (m.metrics[main].value or 0)))


def main_of(evidence: Evidence) -> Metric:
    """The recipe's main metric."""
    return next(iter(evidence.of("candidate")[0].metrics))


def rival(evidence: Evidence) -> ModelScores | None:
    """Whom the candidate is held against: the champion, or else the best baseline."""
    return next((model for model in ordered(evidence) if model.kind in ("champion", "baseline")), None)


def title(model: ModelScores, evidence: Evidence) -> str:
    """How a person calls this model."""
    if model.kind == "champion":
        return f"champion v{evidence.champion_version}"
    if model.kind == "candidate":
        return "**candidate**"
    if model.kind == "repeat":
        return f"the same, {model.name.replace('_', ' ')}"
    return NAMES.get(model.name, f"champion of {model.name}")


def interval(found: Estimate | None, *, sign: bool = False) -> str:
    """`0.715 [0.698, 0.731]`, `47.0 [43.8, 50.4]`, or a dash where the number is not defined."""
    if found is None or found.value is None or found.low is None or found.high is None:
        return "–"
    form = ("+" if sign else "") + (".1f" if max(abs(found.low), abs(found.high)) >= 10 else ".3f")
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def comparison(evidence: Evidence) -> str:
    """All models on all rows: best baseline first after candidate and champion; gains are paired."""
    metrics = [metric for metric in evidence.of("candidate")[0].metrics if metric not in CALIBRATION]
    main = metrics[0]
    lines = []
    for model in ordered(evidence):
        cells = [interval(model.metrics[metric]) for metric in metrics]
        gap = evidence.difference(model.name, main)
        lines.append([title(model, evidence), *cells, interval(gap, sign=True) if gap else ""])
    return table(["model", *(MEASURES[m].title for m in metrics), f"candidate's difference in {MEASURES[main].title}"], lines)


def calibration(evidence: Evidence) -> str:
    """Whose chances are honest: models that give any."""
    lines = []
    for model in ordered(evidence):
        if any(model.metrics[metric].defined for metric in CALIBRATION if metric in model.metrics):
            heat = f"{model.temperature:.2f}" if model.temperature else "–"
            lines.append([title(model, evidence), *(interval(model.metrics[m]) for m in CALIBRATION), heat])
    return table(["model", *(MEASURES[m].title for m in CALIBRATION), "temperature"], lines) if lines else ""


def duels(evidence: Evidence) -> str:
    """Row by row: who answered better, and how likely that is among equals."""
    lines = []
    for one in evidence.paired:
        model = evidence.model(one.other)
        assert model is not None
        lines.append([
            title(model, evidence), f"{one.wins:,}", f"{one.losses:,}", f"{one.ties:,}", interval(one.win_rate),
            chance(one.sign_test), chance(one.permutation),
        ])  # fmt: skip
    head = [
        "candidate against",
        "rows won",
        "lost",
        "even",
        "win rate, ties half",
        "exact sign test (McNemar)",
        "permutation test",
    ]
    return table(head, lines)


def chance(found: float | None) -> str:
    """`p = 0.031`, `p < 0.001`, or a dash."""
    return "–" if found is None else "p < 0.001" if found < 0.001 else f"p = {found:.3f}"


def classes(evidence: Evidence, names: Iterable[str]) -> str:
    """Precision, recall and F1 of each class, with what is gained on the rival."""
    candidate, other = evidence.of("candidate")[0], rival(evidence)
    lines = []
    for name in names:
        found = candidate.slices.get(f"class={name}", {})
        cells = [interval(found.get(metric)) for metric in OF_A_CLASS]
        gap = evidence.difference(other.name, "f1", f"class={name}") if other else None
        rows = f"{evidence.slice_rows.get(f'class={name}', 0):,}"
        lines.append([name, *cells, rows, interval(gap, sign=True) if gap else ""])
    against = f"F1 above {title(other, evidence)}" if other else ""
    return table(["class", "precision", "recall", "F1", "rows", against], lines)


def slices(evidence: Evidence) -> str:
    """The main metric in every slice, of everyone."""
    metrics = evidence.of("candidate")[0].metrics
    metric: Metric = "pearson_r" if "pearson_r" in metrics else main_of(evidence)
    models, other = ordered(evidence), rival(evidence)
    names = [name for name, found in models[0].slices.items() if metric in found]
    lines = []
    for name in names:
        cells = [short(model.slices.get(name, {}).get(metric)) for model in models]
        gap = evidence.difference(other.name, metric, name) if other else None
        lines.append([name, f"{evidence.slice_rows.get(name, 0):,}", *cells, interval(gap, sign=True) if gap else ""])
    against = f"difference to {title(other, evidence)}" if other else ""
    return table([MEASURES[metric].title, "rows", *(title(model, evidence) for model in models), against], lines)


def short(found: Estimate | None) -> str:
    """The number alone."""
    if found is None or found.value is None:
        return "–"
    return f"{found.value:.1f}" if abs(found.value) >= 10 else f"{found.value:.3f}"
