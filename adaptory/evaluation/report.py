"""The report of a run: one Markdown text, shown as it is by Prefect and MLflow, and as one HTML file."""

import base64
import html
import re
from pathlib import Path

from adaptory import fingerprint
from adaptory.evaluation import data_report
from adaptory.gate import Estimate, Evidence, ModelScores, Verdict
from adaptory.recipe import Metric
from adaptory.run import Run
from adaptory.training.candidate import Candidate

MARKDOWN, PAGE = "report.md", "report.html"
METRICS = {"macro_f1": "macro F1", "pearson_r": "Pearson r", "accuracy": "accuracy"}
NAMES = {
    "majority": "majority class",
    "tfidf": "TF-IDF + logistic regression",
    "untuned": "untuned base, nearest description",
    "vader": "VADER lexicon",
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
        f"seed {evidence.seed}; gains are paired.",
        "## What the gate asked",
        "\n".join(f"- {_MARK[f.outcome]} **{f.criterion}**: {f.reason}" for f in verdict.findings),
        "## By class and by source",
        _classes(evidence.of("candidate")[0]),
        _slices(evidence),
        "![confusion matrix](confusion.png)\n\n![learning curve](learning.png)",
        "## The data",
        data_report.section(run),
        "## Made from",
        _lineage(run, candidate, evidence),
    ]) + "\n"


def comparison(evidence: Evidence) -> str:
    """The table of all models, best baseline first after candidate and champion."""
    metrics = list(evidence.of("candidate")[0].metrics)
    head = "| model | " + " | ".join(METRICS[m] for m in metrics) + f" | gain in {METRICS[metrics[0]]} |"
    lines = [head, "|---|" + "---:|" * (len(metrics) + 1)]
    for model in ordered(evidence):
        cells = [interval(model.metrics[m]) for m in metrics]
        gap = evidence.difference(model.name, metrics[0])
        lines.append(f"| {title(model, evidence)} | {' | '.join(cells)} | {interval(gap, sign=True) if gap else ''} |")
    return "\n".join(lines)


def ordered(evidence: Evidence) -> list[ModelScores]:
    """Candidate, champion, then baselines from best to worst."""
    rank = {"candidate": 0, "champion": 1, "baseline": 2}
    return sorted(evidence.models, key=lambda m: (rank[m.kind], -(m.metrics["macro_f1"].value or 0)))


def title(model: ModelScores, evidence: Evidence) -> str:
    """How a person calls this model."""
    if model.kind == "champion":
        return f"champion v{evidence.champion_version}"
    if model.kind == "candidate":
        return "**candidate**"
    return NAMES.get(model.name, model.name)


def interval(found: Estimate, *, sign: bool = False) -> str:
    """`0.715 [0.698, 0.731]`, or a dash where the number is not defined."""
    if found.value is None or found.low is None or found.high is None:
        return "–"
    form = "+.3f" if sign else ".3f"
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def write(run: Run, text: str) -> Path:
    """Writes the report beside its pictures, as Markdown and as one HTML file; returns the latter."""
    folder = run.folder / "report"
    (folder / MARKDOWN).write_text(text, encoding="utf-8")
    page = folder / PAGE
    page.write_text(_page(text, folder), encoding="utf-8")
    return page


def _classes(model: ModelScores) -> str:
    lines = ["| class | precision | recall | F1 | rows |", "|---|---:|---:|---:|---:|"]
    lines += [f"| {n} | {c.precision:.3f} | {c.recall:.3f} | {c.f1:.3f} | {c.rows:,} |" for n, c in model.classes.items()]
    return "\n".join(lines)


def _slices(evidence: Evidence) -> str:
    metric: Metric = "pearson_r" if "pearson_r" in evidence.of("candidate")[0].metrics else "macro_f1"
    models = ordered(evidence)
    sources = list(models[0].slices)
    lines = [f"| {METRICS[metric]} | " + " | ".join(sources) + " |", "|---|" + "---:|" * len(sources)]
    lines.append("| rows | " + " | ".join(f"{evidence.slice_rows.get(name, 0):,}" for name in sources) + " |")
    for model in models:
        cells = [model.slices[s].get(metric) for s in sources]
        lines.append(f"| {title(model, evidence)} | " + " | ".join("–" if c is None else f"{c:.3f}" for c in cells) + " |")
    return "\n".join(lines)


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
