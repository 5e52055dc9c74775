"""Choose: the settings of the candidate, when the recipe tries several. Every trial is a task with an MLflow run of its own."""

from collections.abc import Sequence
from functools import cache

from prefect import runtime, task
from prefect.artifacts import create_table_artifact

from adaptory import progress
from adaptory.errors import DiedError
from adaptory.registry import tracking
from adaptory.run import Run
from adaptory.search import Choice, Trial, table
from adaptory.search.choose import choose as choose_among
from adaptory.search.choose import give_up, was_trained
from tasks.common import RETRIED, beside, key, last_try
from tasks.elsewhere import stage
from tasks.fine_tune import followed


def choose(run: Run) -> Run:
    """Returns the run with the settings to train its candidate with; a recipe that says them all is left as it is."""
    if not run.recipe.chooses:
        return run
    parent = cache(lambda: opened(run))

    def train(several: Sequence[Trial], rung: int | None) -> None:
        beside(several, lambda one, place: attempt.submit(run, one, rung, parent(), place))

    made = choose_among(run, train, lambda: weigh(run))
    tell(run, made, parent())
    return run.trained_with(made.training)


@task(**RETRIED)
def opened(run: Run) -> str:
    """Returns the MLflow run that those of the trials stand below."""
    return tracking.open_run(run, runtime.flow_run.id)


@task(**RETRIED)
def tell(run: Run, made: Choice, parent: str) -> None:
    """Shows in MLflow and as an artifact what came of each trial."""
    tracking.close_children(run, made, parent)
    create_table_artifact(key=key(run.recipe.name, "search"), table=table(made), description=f"Chosen: {made.reason}.")


@task(task_run_name="trial-{one.number}", **RETRIED)
def attempt(run: Run, one: Trial, rung: int | None, parent: str, place: dict[str, str]) -> None:
    """Trains a trial as far as this rung of the search, or to its end; nothing if that was done before."""
    now = run.trained_with(one.settings)
    mlflow_run = cache(lambda: tracking.open_child(now, parent, one))
    if was_trained(run, one, rung):
        mlflow_run()  # below this search's run, too
        return
    progress.for_terminal()({"event": "stage", "what": f"trial {one.number}: {one.name}"})
    words = ("--trial", str(one.number), *(() if rung is None else ("--rung", str(rung))))
    try:
        followed(run, lambda events: tracking.log_curve(run.workspace, mlflow_run(), events), words=words, slot=place)
    except DiedError as fault:
        if not last_try():
            raise
        give_up(run, one, rung, str(fault))  # most likely the machine's memory: the others go on


@task(**RETRIED)
def weigh(run: Run) -> None:
    """Compares the methods on the validation rows; the choice is kept beside them."""
    stage(run, "weigh", progress.for_terminal())
