"""Evaluate: candidate, champion and baselines on the same rows, in a process of its own."""

from functools import cache
from typing import Any

from prefect import runtime, task
from prefect.artifacts import create_table_artifact

from adaptory import progress
from adaptory.evaluation import tables
from adaptory.evaluation.evaluate import read
from adaptory.evaluation.measures import MEASURES
from adaptory.gate import Evidence
from adaptory.registry import tracking
from adaptory.run import Run
from adaptory.training import Candidate
from tasks.common import RETRIED, key
from tasks.elsewhere import stage


@task(**RETRIED)
def evaluate(run: Run, candidate: Candidate) -> Evidence:
    """Returns the evidence; per-example scores lie beside it."""
    mlflow_run = cache(lambda: tracking.open_run(run, runtime.flow_run.id))
    display = progress.for_terminal()

    def follow(event: dict[str, Any]) -> None:
        display(event)
        mlflow_run()  # opened while the stage works: importing MLflow takes seconds

    stage(run, "evaluate", follow)
    evidence = read(run.folder)
    assert evidence is not None and evidence.candidate == candidate.digest
    tracking.log_candidate(run, mlflow_run(), candidate)
    tracking.log_evidence(run.workspace, mlflow_run(), evidence)
    create_table_artifact(
        key=key(run.recipe.name, "scores"),
        table=[
            {"model": tables.title(model, evidence).strip("*")}
            | {MEASURES[metric].title: tables.interval(found) for metric, found in model.metrics.items()}
            for model in tables.ordered(evidence)
        ],
        description=f"{evidence.rows:,} test rows, {evidence.confidence:.0%} intervals.",
    )
    return evidence
