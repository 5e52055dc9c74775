"""Order: a stage that another run asks for, done on this machine while a slot of the limit `gpu` is held."""

from contextlib import suppress
from functools import cache
from typing import Any

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.sync import concurrency

from adaptory import parcel, progress, workspace
from adaptory.aside import Aside
from adaptory.process import device_count, run_stage
from adaptory.registry import tracking
from adaptory.run import Run
from adaptory.search.choose import trials
from adaptory.storage import open_store

_LIMIT = "gpu"
_EVERY = 5.0  # seconds between what MLflow is told


@task(cache_policy=NO_CACHE)
def fulfil(order: parcel.Order) -> None:
    """Does the stage; what it leaves is in the store, by place and digest, named by this flow run.

    The slot is a matter of thrift: two stages on one GPU would be slow, not wrong. So a lease that could not be renewed does not
    end hours of work.
    """
    place = workspace.find()
    store = open_store(place.store)
    run = parcel.unpack(place, store, order)
    mlflow_run = cache(lambda: _mlflow_run(run, order))
    display = progress.for_terminal()
    trains = order.stage == "train" and "--seed" not in order.words
    machine = cache(lambda: tracking.watch_machine(place, mlflow_run()))

    def tell(events: list[dict[str, Any]]) -> None:
        if trains:
            machine()
            tracking.log_curve(place, mlflow_run(), events)

    aside = Aside(tell, _EVERY)

    def follow(event: dict[str, Any]) -> None:
        with suppress(OSError):  # a log on a full disk
            display(event)
        aside.add(event)

    try:
        with concurrency(_LIMIT, occupy=1, strict=True, lease_duration=60, raise_on_lease_renewal_failure=False):
            several = device_count() if order.stage == "train" else 1
            run_stage(run, order.stage, follow, processes=several, words=order.words)
    finally:
        aside.close()
        if machine.cache_info().currsize:
            machine()()
    parcel.leave(run, store, order.words, str(runtime.flow_run.id))


def _mlflow_run(run: Run, order: parcel.Order) -> str:
    """The MLflow run of the whole, or that of a trial below it."""
    whole = tracking.open_run(run, order.asked_by)
    if "--trial" not in order.words:
        return whole
    one = trials(run)[int(order.words[order.words.index("--trial") + 1])]
    return tracking.open_child(run.trained_with(one.settings), whole, one)
