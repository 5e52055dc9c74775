"""What a retrain says at its end, to a tired person at a terminal."""

from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from adaptory.evaluation import tables
from adaptory.evaluation.evaluate import read
from adaptory.evaluation.measures import MEASURES
from adaptory.evaluation.report import PAGE
from adaptory.gate import Evidence, Verdict
from adaptory.recipe import CALIBRATION
from adaptory.run import Outcome

_COLOUR = {
    "PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow", "STALE": "yellow", "CHAMPION_BROKEN": "red",
    "AWAITING_APPROVAL": "yellow", "REJECTED": "red",
}  # fmt: skip
_METRICS = 3  # shown; the report has all
_ASIDE = ("accuracy", "weighted_f1", "stopped", *CALIBRATION)
_MARK = {"pass": "[green]✓[/]", "fail": "[red]✗[/]", "inconclusive": "[yellow]?[/]", "not asked": "[dim]–[/]"}


def show(outcome: Outcome, console: Console | None = None) -> None:
    """Prints the panel of a run from the files it left."""
    folder = Path(outcome.folder)
    evidence = read(folder)
    assert evidence is not None
    verdict = Verdict.model_validate_json((folder / "verdict.json").read_bytes())
    title = Text.assemble((outcome.outcome, f"bold {_COLOUR[outcome.outcome]}"), f"  {outcome.recipe}: {outcome.reason}")
    body = Group(title, "", _table(evidence), "", _findings(verdict), "", _where(outcome))
    console = console or Console()
    if not console.is_terminal:
        console.width = 110
    console.print(Panel(body, padding=(1, 2), expand=False))


def _table(evidence: Evidence) -> Table:
    metrics = [metric for metric in evidence.of("candidate")[0].metrics if metric not in _ASIDE][:_METRICS]
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(f"on the same {evidence.rows:,} test rows", no_wrap=True)
    for metric in metrics:
        table.add_column(MEASURES[metric].title, justify="right")
    for model in tables.ordered(evidence):
        style = "bold" if model.kind == "candidate" else None
        cells = [tables.interval(model.metrics[metric]) for metric in metrics]
        table.add_row(tables.title(model, evidence).strip("*"), *cells, style=style)
    table.caption = f"in brackets: {evidence.confidence:.0%} bootstrap intervals"
    table.caption_justify = "left"
    return table


def _findings(verdict: Verdict) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    for finding in verdict.findings:
        table.add_row(_MARK[finding.outcome], finding.criterion, Text(finding.reason, style="dim"))
    return table


def _where(outcome: Outcome) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    if outcome.outcome == "PASS":
        where = f"(MLflow version {outcome.registry_version}, alias champion)"
        table.add_row("champion", f"{outcome.recipe} v{outcome.version} {where}")
        table.add_row("pull it", f"adaptory pull {outcome.recipe}@champion ./model")
    else:
        kept = f"{outcome.recipe} v{outcome.version}, unchanged" if outcome.version else "none yet"
        table.add_row("champion", kept)
    if outcome.outcome == "AWAITING_APPROVAL":
        table.add_row("approve it", f"adaptory promote {outcome.recipe}")
        table.add_row("reject it", f"adaptory reject {outcome.recipe} --reason ...")
    page = Path(outcome.folder) / "report" / PAGE
    here = Path.cwd()
    table.add_row("report", str(page.relative_to(here) if page.is_relative_to(here) else page))
    table.add_row("servers", "adaptory ui   (MLflow and Prefect in the browser)")
    return table
