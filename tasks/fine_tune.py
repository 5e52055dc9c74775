"""Fine-tune: the candidate, trained in a process of its own while this one reports."""

import time
from functools import cache
from typing import Any

from prefect import runtime, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from adaptory import progress
from adaptory.process import run_stage
from adaptory.registry import tracking
from adaptory.run import Run
from adaptory.training import Candidate
from adaptory.training.candidate import finished, read
from tasks.common import key, worth_retrying

_EVERY = 2.0  # seconds between updates of the progress artifact


@task(cache_policy=NO_CACHE, retries=1, retry_delay_seconds=10, retry_condition_fn=worth_retrying)
def fine_tune(run: Run) -> Candidate:
    """Returns the trained candidate; its curve is in MLflow. One that was trained before is not trained again."""
    if found := read(run.candidate_folder):
        return found
    artifact = create_progress_artifact(0.0, key=key(run.recipe.name, "training"), description="Training steps done.")
    mlflow_run = cache(lambda: tracking.open_run(run, runtime.flow_run.id))
    display = progress.for_terminal()
    shown = 0.0

    def follow(event: dict[str, Any]) -> None:
        nonlocal shown
        display(event)
        mlflow_run()  # opened while the trainer loads its libraries: importing MLflow takes seconds
        if event["event"] == "epoch":
            tracking.log_epoch(run.workspace, mlflow_run(), event)
        if event["event"] == "step" and time.monotonic() - shown > _EVERY:
            update_progress_artifact(artifact, 100 * event["step"] / event["steps"])  # type: ignore[arg-type]
            shown = time.monotonic()

    run_stage(run.workspace, "train", run.recipe.name, follow)
    update_progress_artifact(artifact, 100.0)  # type: ignore[arg-type]
    return finished(run)
