"""Fine-tune: the candidate, trained in a process of its own while this one reports; and again with other seeds."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from prefect import get_run_logger, runtime, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from adaptory import progress
from adaptory.aside import Aside
from adaptory.errors import DiedError, PlanError, TrainingError
from adaptory.process import device_count
from adaptory.registry import tracking
from adaptory.run import Run
from adaptory.search.choose import disqualify
from adaptory.training import Candidate
from adaptory.training.candidate import finished, read
from tasks.common import RETRIED, beside, key, last_try
from tasks.elsewhere import pool, stage

_EVERY = 5.0  # seconds between what MLflow and the progress artifact are told


@task(**RETRIED)
def fine_tune(run: Run) -> Candidate:
    """Returns the trained candidate; its curve is in MLflow. One that was trained before is not trained again."""
    if found := read(run.candidate_folder):
        return found
    named = {"key": key(run.recipe.name, "training"), "description": "Training steps done."}
    artifact = cache(lambda: create_progress_artifact(0.0, **named))
    mlflow_run = cache(lambda: tracking.open_run(run, runtime.flow_run.id))
    machine = cache(lambda: tracking.watch_machine(run.workspace, mlflow_run()))

    def tell(events: list[dict[str, Any]]) -> None:
        if pool() is None:  # else the machine that trains watches itself
            machine()
        tracking.log_curve(run.workspace, mlflow_run(), events)
        if steps := [event for event in events if event["event"] == "step"]:
            update_progress_artifact(artifact(), 100 * steps[-1]["step"] / steps[-1]["steps"])  # type: ignore[arg-type]

    try:
        # One process per GPU here; ADAPTORY_PROCESSES says otherwise.
        followed(run, tell, processes=device_count())
    except TrainingError as fault:
        if run.recipe.chooses and (other := disqualify(run, str(fault))):
            raise TrainingError(f"the chosen settings failed: {fault}. Run the command again: it goes on with {other}") from None
        raise
    finally:
        if machine.cache_info().currsize:
            machine()()
    with suppress(Exception):  # a page that could not be brought up to date undoes no training
        update_progress_artifact(artifact(), 100.0)  # type: ignore[arg-type]
    return finished(run)


def repeat(run: Run) -> None:
    """Trains the candidate again with other seeds, as often as evaluation.seeds asks: side by side where there is room."""
    beside([again for again in run.repeats() if read(again.candidate_folder) is None], again_with_another_seed.submit)


@task(**RETRIED)
def again_with_another_seed(run: Run, place: dict[str, str]) -> None:
    """Trains the candidate with the seed of this run. A seed that fails ends nothing here; the gate asks how many did."""
    seed = run.settings.seed
    progress.for_terminal()({"event": "stage", "what": f"again with seed {seed}"})
    try:
        followed(run, lambda events: None, words=("--seed", str(seed)), slot=place)
    except (TrainingError, PlanError, DiedError) as fault:
        if isinstance(fault, DiedError) and not last_try():
            raise
        get_run_logger().warning("seed %s could not be trained: %s", seed, fault)


def followed(run: Run, tell: Callable[[list[dict[str, Any]]], None], **how: Any) -> None:
    """Runs the stage `train` and shows what it says; `tell` may be slow or fail: the training does not wait for it."""
    display, aside = progress.for_terminal(), Aside(tell, _EVERY)

    def follow(event: dict[str, Any]) -> None:
        with suppress(OSError):  # a terminal that went away, a log on a full disk
            display(event)
        aside.add(event)

    try:
        stage(run, "train", follow, **how)
    finally:
        aside.close()
