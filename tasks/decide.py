"""Decide: the gate's verdict, and the report that explains it."""

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from adaptory import progress
from adaptory.errors import StageError
from adaptory.evaluation import report
from adaptory.gate import Evidence, Verdict, judge
from adaptory.process import run_stage
from adaptory.registry import head
from adaptory.run import Run
from adaptory.storage import open_store
from adaptory.training import Candidate
from tasks.common import RETRIED, key


@task(**RETRIED)
def decide(run: Run, candidate: Candidate, evidence: Evidence) -> Verdict:
    """Returns the verdict against whoever is champion now."""
    champion = head(open_store(run.workspace.store), run.recipe.name)
    verdict = judge(evidence, run.recipe.gate, champion.candidate if champion else None)
    (run.folder / "verdict.json").write_text(verdict.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if verdict.outcome in ("FAIL", "INCONCLUSIVE"):
        try:
            run_stage(run, "explain", progress.for_terminal())
        except StageError as fault:  # a verdict needs no explanation
            get_run_logger().warning("why it was refused could not be worked out: %s", fault)
    text = report.markdown(run, candidate, evidence, verdict)
    page = report.write(run, text)
    without_pictures = "\n".join(line for line in text.splitlines() if not line.startswith("!["))
    create_markdown_artifact(
        f"{without_pictures}\n\nWith pictures: `{page}`",
        key=key(run.recipe.name, "report"),
        description=f"{verdict.outcome}: {verdict.reason}",
    )
    return verdict
