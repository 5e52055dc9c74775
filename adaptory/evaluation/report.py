"""The report of a run: one Markdown text, shown as it is by Prefect and MLflow, and as one HTML file."""

import base64
import html
import json
import re
from pathlib import Path

from adaptory import fingerprint
from adaptory.evaluation import data_report
from adaptory.evaluation.measures import MEASURES
from adaptory.evaluation.scores import SCORES
from adaptory.gate import Estimate, Evidence, ModelScores, Verdict
from adaptory.recipe import LOWER, Metric
from adaptory.run import Run
from adaptory.training.candidate import Candidate
from adaptory.training.certificate import CERTIFICATE
from adaptory.training.xray import XRAY

MARKDOWN, PAGE = "report.md", "report.html"
_SHOWN = 12  # answers
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
_MARK = {"pass": "✓", "fail": "✗", "inconclusive": "?", "not asked": "–"}


def markdown(run: Run, candidate: Candidate, evidence: Evidence, verdict: Verdict) -> str:
    """The whole report, top down: verdict, comparison, criteria, classes, sources, lineage."""
    return "\n\n".join([
        f"# {evidence.recipe}: {verdict.outcome}",
        f"{verdict.reason[0].upper()}{verdict.reason[1:]}.",
        f"## On the same {evidence.rows:,} test rows",
        comparison(evidence),
        f"Brackets: {evidence.confidence:.0%} bootstrap intervals, {evidence.resamples:,} resamples of rows, "
        f"seed {evidence.seed}; gains are paired. " + _signatures(evidence),
        *_of_sources(evidence),
        "## What the gate asked",
        "\n".join(f"- {_MARK[f.outcome]} **{f.criterion}**: {f.reason}" for f in verdict.findings),
        "## By class and by source" if candidate.classes else "## By source",
        *([_classes(evidence.of("candidate")[0])] if candidate.classes else []),
        _slices(evidence),
        ("![confusion matrix](confusion.png)\n\n" if candidate.classes else "") + "![learning curve](learning.png)",
        *_answers(run),
        *_search(run),
        "## How it was trained",
        _training(run, candidate),
        "## The data",
        data_report.section(run),
        "## Made from",
        _lineage(run, candidate, evidence),
    ]) + "\n"


def comparison(evidence: Evidence, source: str | None = None) -> str:
    """The table of all models on all rows, or on those of a source: best baseline first after candidate and champion."""
    metrics = list(evidence.of("candidate")[0].metrics)
    head = "| model | " + " | ".join(MEASURES[m].title for m in metrics) + f" | gain in {MEASURES[metrics[0]].title} |"
    lines = [head, "|---|" + "---:|" * (len(metrics) + 1)]
    for model in ordered(evidence):
        found = [model.estimate(m, source) for m in metrics]
        cells = [interval(one) if one else "–" for one in found]
        gap = evidence.difference(model.name, metrics[0], source)
        lines.append(f"| {title(model, evidence)} | {' | '.join(cells)} | {interval(gap, sign=True) if gap else ''} |")
    return "\n".join(lines)


def ordered(evidence: Evidence) -> list[ModelScores]:
    """Candidate, champion, then baselines from best to worst."""
    rank = {"candidate": 0, "repeat": 1, "champion": 2, "baseline": 3}
    main = next(iter(evidence.of("candidate")[0].metrics))
    sign = 1 if main in LOWER else -1
    return sorted(evidence.models, key=lambda m: (rank[m.kind], sign * (m.metrics[main].value or 0)))


def title(model: ModelScores, evidence: Evidence) -> str:
    """How a person calls this model."""
    if model.kind == "champion":
        return f"champion v{evidence.champion_version}"
    if model.kind == "candidate":
        return "**candidate**"
    if model.kind == "repeat":
        return f"the same, {model.name.replace('_', ' ')}"
    return NAMES.get(model.name, f"champion of {model.name}")


def interval(found: Estimate, *, sign: bool = False) -> str:
    """`0.715 [0.698, 0.731]`, `47.0 [43.8, 50.4]`, or a dash where the number is not defined."""
    if found.value is None or found.low is None or found.high is None:
        return "–"
    form = ("+" if sign else "") + (".1f" if max(abs(found.low), abs(found.high)) >= 10 else ".3f")
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def write(run: Run, text: str) -> Path:
    """Writes the report beside its pictures, as Markdown and as one HTML file; returns the latter."""
    folder = run.folder / "report"
    (folder / MARKDOWN).write_text(text, encoding="utf-8")
    page = folder / PAGE
    page.write_text(_page(text, folder), encoding="utf-8")
    return page


def _of_sources(evidence: Evidence) -> list[str]:
    """The same table for each source that the gate asks of."""
    asked = sorted({source for model in evidence.models for source in model.by_source})
    return [part for name in asked for part in (f"## On the {evidence.count(name):,} rows of {name}", comparison(evidence, name))]


def _classes(model: ModelScores) -> str:
    lines = ["| class | precision | recall | F1 | rows |", "|---|---:|---:|---:|---:|"]
    lines += [f"| {n} | {c.precision:.3f} | {c.recall:.3f} | {c.f1:.3f} | {c.rows:,} |" for n, c in model.classes.items()]
    return "\n".join(lines)


def _slices(evidence: Evidence) -> str:
    metrics = list(evidence.of("candidate")[0].metrics)
    metric: Metric = "pearson_r" if "pearson_r" in metrics else metrics[0]
    models = ordered(evidence)
    sources = list(models[0].slices)
    lines = [f"| {MEASURES[metric].title} | " + " | ".join(sources) + " |", "|---|" + "---:|" * len(sources)]
    lines.append("| rows | " + " | ".join(f"{evidence.slice_rows.get(name, 0):,}" for name in sources) + " |")
    for model in models:
        found = [model.slices[s].get(metric) for s in sources]
        cells = ["–" if one is None else f"{one:.1f}" if abs(one) >= 10 else f"{one:.3f}" for one in found]
        lines.append(f"| {title(model, evidence)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _signatures(evidence: Evidence) -> str:
    """How each number was computed, for whoever wants to compare it with another one."""
    found = evidence.of("candidate")[0].metrics
    return "; ".join(f"{MEASURES[metric].title}: {MEASURES[metric].signature}" for metric in found) + "."


def _answers(run: Run) -> list[str]:
    """A few answers of the candidate beside the right ones, in a task that writes text."""
    import polars

    table = polars.read_parquet(run.folder / SCORES)
    if "answer" not in table.columns:
        return []
    some = table.filter(polars.col("model") == "candidate").filter(polars.col("answer") != polars.col("text")).head(_SHOWN)
    lines = ["| asked | right | the candidate wrote |", "|---|---|---|"]
    for asked, right, said in some.select("asked", "text", "answer").iter_rows():
        lines.append(f"| {data_report.shown(asked)} | {data_report.shown(right)} | {data_report.shown(said)} |")
    return [f"## Where it differs from the right answer (the first {some.height})", "\n".join(lines)] if some.height else []


def _search(run: Run) -> list[str]:
    """What was tried before, if the recipe tries several settings or methods."""
    from adaptory.search import choice, report

    made = choice.read(run.search_folder) if run.recipe.chooses else None
    return ["## What was tried", report.markdown(made)] if made else []


def _training(run: Run, candidate: Candidate) -> str:
    shares = f"{candidate.trainable_parameters:,} of {candidate.total_parameters:,} parameters"
    told = [
        f"Method {candidate.training.method}: {shares} ({candidate.trainable_parameters / candidate.total_parameters:.2%}), "
        f"{candidate.done_steps:,} of {candidate.planned_steps:,} steps, {candidate.tokens:,} tokens, "
        f"{candidate.flops / 1e12:,.1f} TFLOP in {candidate.seconds:,.0f} s on {candidate.device}, "
        f"{candidate.peak_memory:.1f} GB.",
    ]
    settings = candidate.training
    if settings.sources or settings.max_rows:
        most = f"at most {settings.max_rows:,} rows" if settings.max_rows else "the rows"
        told.append(f"It learned from {most} of {', '.join(settings.sources) or 'all sources'}.")
    if candidate.predicted_seconds:
        planned = f"{candidate.predicted_seconds:,.0f} s"
        told.append(f"The plan said {planned} for steps and validation; they took {candidate.fit_seconds:,.0f} s.")
    if candidate.stopped_early:
        told.append("It stopped early: training.patience epochs passed without a better validation score.")
    if candidate.halved:
        told.append("Memory ran out once; the rest was computed in smaller batches with the same gradients.")
    if candidate.rows_left_out:
        told.append(f"{candidate.rows_left_out:,} rows could not be learned from (first reasons in {XRAY}).")
    certificate = run.candidate_folder / CERTIFICATE
    if certificate.is_file():
        found = json.loads(certificate.read_bytes())
        told.append(
            f"Loaded in a fresh process it answers as it did in training: largest difference {found['largest_difference']:.2g} "
            f"over {found['rows']} rows."
        )
    return " ".join(told)


def _lineage(run: Run, candidate: Candidate, evidence: Evidence) -> str:
    counts = ", ".join(f"{run.dataset.rows(s):,} {s}" for s in ("train", "validation", "test"))
    quarantined = sum(run.dataset.card.quarantined.values())
    rows = {
        "data": f"`{fingerprint.short(evidence.data)}` | {run.dataset.card.rows_in:,} rows in: {counts}, "
        f"{quarantined:,} quarantined",
        "base": f"`{fingerprint.short(evidence.base)}` | {candidate.base_reference}",
        "recipe": f"`{fingerprint.short(evidence.recipe_digest)}` | params.yaml, defaults included",
        "adapter": f"`{fingerprint.short(evidence.candidate)}` | {candidate.trainable_parameters:,} of "
        f"{candidate.total_parameters:,} parameters, {candidate.done_steps:,} steps in {candidate.seconds:.0f} s",
        "scores": f"`{fingerprint.short(evidence.scores)}` | every model's answer to every test row",
        "evidence": f"`{fingerprint.short(evidence.digest)}` | all the numbers above",
    }
    head = ["| what | SHA-256 begins | |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {what} | {digest} |" for what, digest in rows.items())])


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --soft: #616e7c; --line: #d5dae0; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #9aa5b1; --line: #3e4c59; --paper: #12181f; } img { filter: brightness(.9); }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:first-child { text-align: left; }
img { max-width: 48%; vertical-align: top; background: #fff; border-radius: 4px; } p:has(> img) { display: inline; }
img[alt^="classes and"] { max-width: 100%; }
code { font-size: .9em; } ul { padding-left: 0; list-style: none; }
@media (max-width: 46rem) { img { max-width: 100%; } table { display: block; overflow-x: auto; } }
"""


def _page(text: str, folder: Path) -> str:
    from markdown_it import MarkdownIt

    def inline(found: "re.Match[str]") -> str:
        data = base64.b64encode((folder / found[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    # html=False: whatever a row or a label holds stays text.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = re.sub(r'src="([a-z]+\.png)"', inline, body)
    name = html.escape(text.splitlines()[0].lstrip("# "))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{name}</title><style>{_STYLE}</style><body>{body}</body></html>\n"
    )
