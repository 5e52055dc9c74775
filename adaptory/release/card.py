"""The model card: what a release is, what it was measured to do, and how to use it."""

from adaptory import fingerprint
from adaptory.gate import Evidence, Verdict
from adaptory.recipe import OF_A_CLASS, Recipe
from adaptory.training.candidate import Candidate


def _sources(recipe: Recipe) -> str:
    """The data statement: which sources, pinned how; and the licence, if the recipe says one."""
    lines = []
    for name, source in recipe.data.sources.items():
        lines.append(f"- {name}: `{source.uri}`" + (f" (SHA-256 `{source.sha256}`)" if source.sha256 else ""))
    licence = f"Licence: {recipe.licence}." if recipe.licence else "The recipe states no licence."
    return "\n".join(["Learned from:", "", *lines, "", licence])


def model_card(recipe: Recipe, candidate: Candidate, evidence: Evidence, verdict: Verdict) -> str:
    """Markdown for the release's README.md."""
    from adaptory.evaluation.measures import MEASURES

    scores = evidence.of("candidate")[0]
    metrics = "\n".join(
        f"| {MEASURES[name].title} | {found.value:.3f} | {found.low:.3f} to {found.high:.3f} |"
        for name, found in scores.metrics.items()
        if found.value is not None and found.low is not None and found.high is not None
    )
    classes = "\n".join(
        f"| {name} | " + " | ".join(f"{found[metric].value:.3f}" for metric in OF_A_CLASS)
        + f" | {evidence.slice_rows.get(f'class={name}', 0):,} |"
        for name in candidate.classes
        if all((found := scores.slices.get(f"class={name}", {})).get(metric) for metric in OF_A_CLASS)
    )  # fmt: skip
    findings = "\n".join(f"- {finding.criterion}: {finding.outcome} ({finding.reason})" for finding in verdict.findings)
    into = f" into {', '.join(candidate.classes)}" if candidate.classes else ""
    by_class = f"| class | precision | recall | F1 | rows |\n|---|---:|---:|---:|---:|\n{classes}\n" if classes else ""
    return f"""# {recipe.name}

Trained by method {candidate.training.method} for {recipe.task}{into}, on the base
`{candidate.base_reference}` (digest `{candidate.base_digest}`). It is loaded on no other base.

    adaptory pull {recipe.name}@champion ./model
    adaptory predict ./model "text"

## Measured on {evidence.rows:,} test rows it never saw

| metric | value | {evidence.confidence:.0%} interval |
|---|---:|---:|
{metrics}

{by_class}
## What the gate said

Verdict {verdict.outcome}: {verdict.reason}.

{findings}

## Made from

{_sources(recipe)}

| what | digest |
|---|---|
| data | `{fingerprint.short(candidate.data_digest)}` |
| recipe | `{fingerprint.short(evidence.recipe_digest)}` |
| adapter | `{fingerprint.short(candidate.digest)}` |
| evidence | `{fingerprint.short(verdict.evidence)}` |

{candidate.trainable_parameters:,} of {candidate.total_parameters:,} parameters trained, {candidate.done_steps:,} steps.
"""
