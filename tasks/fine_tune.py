"""Fine-tune: the candidate, trained in a process of its own while this one reports."""

from functools import cache
from typing import Any

from prefect import runtime, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from adaptory import progress
from adaptory.aside import Aside
from adaptory.process import device_count, run_stage
from adaptory.registry import tracking
from adaptory.run import Run
from adaptory.training import Candidate
from adaptory.training.candidate import finished, read
from tasks.common import key, worth_retrying

_EVERY = 5.0  # seconds between what MLflow and the progress artifact are told


@task(cache_policy=NO_CACHE, retries=1, retry_delay_seconds=10, retry_condition_fn=worth_retrying)
def fine_tune(run: Run) -> Candidate:
    """Returns the trained candidate; its curve is in MLflow. One that was trained before is not trained again."""
    if found := read(run.candidate_folder):
        return found
    artifact = create_progress_artifact(0.0, key=key(run.recipe.name, "training"), description="Training steps done.")
    mlflow_run = cache(lambda: tracking.open_run(run, runtime.flow_run.id))
    display = progress.for_terminal()

    def tell(events: list[dict[str, Any]]) -> None:
        tracking.log_curve(run.workspace, mlflow_run(), events)
        if steps := [event for event in events if event["event"] == "step"]:
            update_progress_artifact(artifact, 100 * steps[-1]["step"] / steps[-1]["steps"])  # type: ignore[arg-type]

    aside = Aside(tell, _EVERY)  # MLflow and Prefect may be slow or gone: the training does not wait for them

    def follow(event: dict[str, Any]) -> None:
        display(event)
        aside.add(event)

    try:
        # One process per GPU here; ADAPTORY_PROCESSES says otherwise.
        run_stage(run.workspace, "train", run.recipe.name, follow, processes=device_count())
    finally:
        aside.close()
    update_progress_artifact(artifact, 100.0)  # type: ignore[arg-type]
    return finished(run)
