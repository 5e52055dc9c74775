"""The part of a report that tells of the data: what came in, how it differs from the champion's, and what looks wrong."""

import json
import re
from pathlib import Path

from adaptory import profile
from adaptory.profile import Comparison, Profile
from adaptory.profile.comparison import FILE
from adaptory.profile.domains import Distance
from adaptory.profile.profile import EDGES, SUSPECTS
from adaptory.run import Run

DOMAINS = "domains.json"
_DOUBTFUL = 10  # labels shown


def section(run: Run) -> str:
    """Markdown: counts, drift, sources, doubtful labels. Whatever a row holds is shown as text and nothing else."""
    folder = run.workspace.data(run.recipe.name) / "profile"
    made = profile.read(folder)
    parts = [_counts(run, made), "![classes and lengths](data.png)", _drift(run), _domains(run), _doubts(folder, made)]
    return "\n\n".join(part for part in parts if part)


def shown(text: str, width: int = 72) -> str:
    """A text as a cell of a report: one line, no markup, and nothing that a spreadsheet would take for a formula."""
    line = " ".join(text.split())
    line = line if len(line) <= width else f"{line[: width - 1]}…"
    line = re.sub(r"([\\`*_{}\[\]<>|#!~$&])", r"\\\1", line)
    return f"'{line}" if text[:1] in "=+-@\t\r" and text else line


def _counts(run: Run, made: Profile) -> str:
    classes = run.recipe.data.classes
    head = ["rows", *(shown(name) for name in classes), "all"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(classes) + 1)]
    for source, counts in made.by_source.items():
        cells = [source, *(f"{counts[name]:,}" for name in classes), f"{sum(counts.values()):,}"]
        lines.append(f"| {' | '.join(cells)} |")
    words = made.words.quantiles
    told = [f"The median text has {words['0.5']:g} words, the 99th percentile {words['0.99']:g} (of {made.vocabulary:,} words)."]
    if made.tokens:
        limit = run.recipe.training.max_tokens
        longer = sum(count for edge, count in zip((*EDGES, float("inf")), made.tokens.counts, strict=True) if edge > limit)
        longest = made.tokens.quantiles["1"]
        cut = f"at most {longer / sum(made.tokens.counts):.1%} of them are cut" if longest > limit else "none is cut"
        told.append(f"In the base's tokens the 99th percentile is {made.tokens.quantiles['0.99']:g}; {cut} at {limit}.")
    if quarantined := run.dataset.card.quarantined:
        told.append("Quarantined: " + ", ".join(f"{count:,} {shown(kind)}" for kind, count in quarantined.items()) + ".")
    return "\n".join(lines) + "\n\n" + " ".join(told)


def _drift(run: Run) -> str:
    path = run.folder / FILE
    if not path.is_file():
        return ""
    made = Comparison.model_validate_json(path.read_bytes())
    head = f"**Beside the data of v{made.champion_version}: {made.verdict}.**"
    findings = [f"- {'✗' if one.crossed else '✓'} {one.what}: {shown(one.reason, 300)}" for one in made.findings]
    return "\n".join([head, "", *findings])


def _domains(run: Run) -> str:
    path = run.folder / DOMAINS
    found = [Distance.model_validate(one) for one in json.loads(path.read_text())] if path.is_file() else []
    if not found:
        return ""
    lines = ["| source | told from the others (AUC; 0.50: not at all) |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {one.source} | {one.auc:.2f} [{one.low:.2f}, {one.high:.2f}] |" for one in found)])


def _doubts(folder: Path, made: Profile) -> str:
    import polars

    told = f"{made.conflicts:,} rows were set aside because the same text has another label elsewhere."
    if not made.suspects:
        return told
    found = polars.read_parquet(folder / SUSPECTS).head(_DOUBTFUL)
    lines = [
        f"{told} {made.suspects:,} labels are disputed by a model of words trained on the other rows; nothing was dropped. "
        f"The {found.height} most doubtful (all: `{SUSPECTS}` in the profile):",
        "",
        "| row | text | label | the model says |",
        "|---|---|---|---|",
    ]
    for row, text, label, likely in found.select("row", "text", "label", "likely").iter_rows():
        lines.append(f"| {shown(row)} | {shown(text)} | {shown(label)} | {shown(likely)} |")
    return "\n".join(lines)
