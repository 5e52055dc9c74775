"""The report of a run: one Markdown text, shown as it is by Prefect and MLflow, and as one HTML file."""

import json
import os
from pathlib import Path

from adaptory import fingerprint
from adaptory.evaluation import data_report, flips, refusal, tables
from adaptory.evaluation.changes import CHANGES
from adaptory.evaluation.measures import MEASURES
from adaptory.evaluation.page import page
from adaptory.evaluation.scores import SCORES
from adaptory.gate import Evidence, Verdict
from adaptory.run import Run
from adaptory.search import device_seconds
from adaptory.training.candidate import Candidate
from adaptory.training.certificate import CERTIFICATE
from adaptory.training.xray import XRAY

MARKDOWN, PAGE = "report.md", "report.html"
_SHOWN = 12  # answers
_MARK = {"pass": "✓", "fail": "✗", "inconclusive": "?", "not asked": "–"}


def markdown(run: Run, candidate: Candidate, evidence: Evidence, verdict: Verdict) -> str:
    """The whole report, top down: verdict, comparison, criteria, slices, rows, training, data, lineage, what to do."""
    calibration = tables.calibration(evidence)
    return "\n\n".join([
        f"# {evidence.recipe}: {verdict.outcome}",
        f"{verdict.reason[0].upper()}{verdict.reason[1:]}.",
        *_changes(run, evidence),
        f"## On the same {evidence.rows:,} test rows",
        tables.comparison(evidence),
        "## What the gate asked",
        "\n".join(f"- {_MARK[f.outcome]} **{f.criterion}**: {f.reason}" for f in verdict.findings),
        *refusal.section(run.folder, verdict),
        "## Slice by slice",
        *_picture(run, "slices", "slices.png"),
        tables.slices(evidence),
        *(["## Class by class", tables.classes(evidence, candidate.classes)] if candidate.classes else []),
        *_picture(run, "who took which class for which", "confusion.png"),
        *(["## Are its chances honest?", *_picture(run, "reliability", "reliability.png"), calibration] if calibration else []),
        *_cases(evidence),
        "## Row by row",
        tables.duels(evidence),
        *flips.section(run.folder, evidence, candidate.classes),
        *_answers(run),
        *_search(run),
        "## How it was trained",
        *_picture(run, "learning curve", "learning.png"),
        _training(run, candidate),
        _cost(run, candidate, evidence),
        "## The data",
        data_report.section(run),
        "## How the numbers are made",
        _numbers(evidence),
        "## Made from",
        _lineage(run, candidate, evidence),
        "## What now",
        _next(run, evidence, verdict),
    ]) + "\n"  # fmt: skip


def write(run: Run, text: str) -> Path:
    """Writes the report beside its pictures, as Markdown and as one HTML file; returns the latter."""
    folder = run.folder / "report"
    (folder / MARKDOWN).write_text(text, encoding="utf-8")
    made = folder / PAGE
    made.write_text(page(text, folder), encoding="utf-8")
    return made


def _picture(run: Run, what: str, name: str) -> list[str]:
    return [f"![{what}]({name})"] if (run.folder / "report" / name).is_file() else []


def _changes(run: Run, evidence: Evidence) -> list[str]:
    path = run.folder / CHANGES
    told = json.loads(path.read_bytes()) if path.is_file() else []
    if not told:
        return []
    return [f"## What changed since v{evidence.champion_version}", "\n".join(f"- {data_report.shown(one, 200)}" for one in told)]


def _cases(evidence: Evidence) -> list[str]:
    if not evidence.cases:
        return []
    lines = [
        ["✓" if one.passed else "✗", data_report.shown(one.name, 90), data_report.shown(one.said, 110)] for one in evidence.cases
    ]
    return ["## Behavioural cases", tables.table(["", "case", "the candidate said"], lines, 3)]


def _answers(run: Run) -> list[str]:
    """A few answers of the candidate beside the right ones, in a task that writes text."""
    import polars

    table = polars.read_parquet(run.folder / SCORES)
    if "answer" not in table.columns:
        return []
    some = table.filter(polars.col("model") == "candidate").filter(polars.col("answer") != polars.col("text")).head(_SHOWN)
    if not some.height:
        return []
    lines = [[data_report.shown(one) for one in row] for row in some.select("asked", "text", "answer").iter_rows()]
    head = ["asked", "right", "the candidate wrote"]
    return [f"## Where it differs from the right answer (the first {some.height})", tables.table(head, lines, 3)]


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
    if candidate.recomputed:
        told.append("Memory would not have held all activations; they were computed again in the backward pass: the same bits.")
    if candidate.rows_left_out:
        told.append(f"{candidate.rows_left_out:,} rows could not be learned from (first reasons in {XRAY}).")
    certificate = run.candidate_folder / CERTIFICATE
    if certificate.is_file():
        found = json.loads(certificate.read_bytes())
        told.append(
            f"Loaded in a fresh process it answers as it did in training: difference {found['difference']:.2g} "
            f"over {found['rows']} rows."
        )
    return " ".join(told)


def _cost(run: Run, candidate: Candidate, evidence: Evidence) -> str:
    """What it costs to make and to run."""
    own_hours, besides = candidate.seconds * candidate.processes / 3600, device_seconds(run) / 3600
    told = [f"Training took {_device(own_hours)}"]
    if besides:
        told[0] += f", other trials and seeds another {_device(besides)}"
    if price := os.environ.get("ADAPTORY_DEVICE_HOUR"):
        told[0] += f": {(own_hours + besides) * float(price):.2f} at {price} an hour"
    own = evidence.of("candidate")[0]
    if own.latency:
        told.append(f"a row by itself is answered in {tables.interval(own.latency)} ms (median)")
    if own.size:
        told.append(f"what was trained has {own.size / 1e6:.2f} MB")
    if evidence.forgetting:
        told.append(f"on other text its perplexity is {tables.interval(evidence.forgetting)} times its base's")
    return "; ".join(told) + "."


def _device(hours: float) -> str:
    return f"{hours:.2f} device hours" if hours >= 0.1 else f"{hours * 60:.1f} device minutes"


def _numbers(evidence: Evidence) -> str:
    """How each number was computed, for whoever wants to compare it with another one."""
    found = evidence.of("candidate")[0].metrics
    told = [
        f"Brackets: {evidence.confidence:.0%} bootstrap intervals, {evidence.resamples:,} resamples of rows, seed "
        f"{evidence.seed}; differences are paired.",
        "; ".join(f"{MEASURES[metric].title}: {MEASURES[metric].signature}" for metric in found) + ".",
    ]
    if look := evidence.look:
        told.append(
            f"This is comparison {look.number} with a champion on this test split. It is judged at level {look.level:.2g} "
            "(one-sided), so that all of them together promote a candidate that is no better as rarely as gate.budget says."
        )
    if evidence.excluded:
        told.append(f"{evidence.excluded:,} test rows were left out: they were trained on before.")
    return "\n\n".join(told)


def _lineage(run: Run, candidate: Candidate, evidence: Evidence) -> str:
    counts = ", ".join(f"{run.dataset.rows(s):,} {s}" for s in ("train", "validation", "test"))
    quarantined = sum(run.dataset.card.quarantined.values())
    rows = {
        "data": (evidence.data, f"{run.dataset.card.rows_in:,} rows in: {counts}, {quarantined:,} quarantined"),
        "base": (evidence.base, candidate.base_reference),
        "recipe": (evidence.recipe_digest, "params.yaml, defaults included"),
        "adapter": (evidence.candidate, f"{candidate.done_steps:,} steps in {candidate.seconds:.0f} s"),
        "test rows": (evidence.rows_digest, f"{evidence.rows:,} rows, their names and contents"),
        "scores": (evidence.scores, "every model's answer to every test row"),
        "evidence": (evidence.digest, "all the numbers above"),
    }
    commit = evidence.commit or "outside git"
    changed = "with changes that were not committed" if commit.endswith("+changes") else ""
    lines = [[what, f"`{fingerprint.short(digest)}`", about] for what, (digest, about) in rows.items()]
    return tables.table(["what", "SHA-256 begins", ""], [*lines, ["commit", f"`{commit[:12]}`", changed]], 3)


def _next(run: Run, evidence: Evidence, verdict: Verdict) -> str:
    """The commands that follow from a verdict."""
    name = evidence.recipe
    told = {f"adaptory retrain {name}": "after new data, or with another recipe"}
    if verdict.outcome == "STALE":
        told = {f"adaptory retrain {name}": "compare with the new champion"}
    if verdict.outcome == "PASS":
        told = {f"adaptory pull {name}@champion ./model": "on another machine", f"adaptory why {name}": "every digest verified"}
        if evidence.champion:
            told[f"adaptory rollback {name}"] = f"back to v{evidence.champion_version}, in seconds"
    elif verdict.outcome in ("FAIL", "INCONCLUSIVE"):
        told[f"adaptory promote {name} --override --reason '...'"] = "if a person knows better; it stands in the ledger"
    told[f"adaptory gate replay {name} --policy other.yaml"] = "what another gate would have decided"
    width = max(map(len, told))
    return "```\n" + "\n".join(f"{command:<{width}}    # {why}" for command, why in told.items()) + "\n```"
