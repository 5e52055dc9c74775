"""Who dies in the middle: claimed and never begun, killed or told to stop while it trains, a server with its memory of slots."""

import os
import signal
import time
from typing import Any

import pytest

from tests.stack.site import Site
from tests.stack.test_bad_days import begun, free
from tests.stack.test_worse_days import questions, reject

pytestmark = [pytest.mark.slow, pytest.mark.long]
GOING_ON = b"going on from the checkpoint of step"
LONG = {"training.epochs": 100}  # some twenty seconds


def in_the_middle(site: Site, seed: int) -> str:
    """A retrain whose training has left its first checkpoint right now, and has most of its way to go."""
    home = site.stack.home / "gpu-worker" / "home" / "runs" / "tiny"
    known = set(home.glob("*.checkpoints/*"))
    run = begun(site, 300, seed)
    site.until(lambda: [one for one in home.glob("*.checkpoints/*") if one not in known and one.name.startswith("step")], 60)
    return run


def told(site: Site, since: int) -> bytes:
    """What the log of the worker `gpu` tells from this place on."""
    with (site.stack.home / "logs" / "gpu-worker.log").open("rb") as log:
        log.seek(since)
        return log.read()


def log_end(site: Site) -> int:
    return (site.stack.home / "logs" / "gpu-worker.log").stat().st_size


def curve(site: Site) -> list[int]:
    """The steps of the loss of the newest training in MLflow."""
    experiment = site.mlflow.get_experiment_by_name("tiny").experiment_id
    newest = site.mlflow.search_runs([experiment], order_by=["attributes.start_time DESC"], max_results=1)[0]
    return [one.step for one in site.mlflow.get_metric_history(newest.info.run_id, "loss")]


def test_f2_a_training_whose_machine_loses_power_goes_on_from_its_checkpoint(approved: Site) -> None:
    known, since = questions(approved), log_end(approved)
    with approved.recipe(**LONG):
        run = in_the_middle(approved, seed=51)
        for name in ("gpu-worker", "cpu-worker"):
            approved.stack.stop(name, signal.SIGKILL)
        for name in ("gpu-worker", "cpu-worker"):
            approved.stack.start(name)
        found = approved.finish(run, seconds=300)
        assert found["run_count"] >= 2 and GOING_ON in told(approved, since)
        steps = curve(approved)
        assert steps == sorted(set(steps)), "no step is told twice"
        reject(approved, known)


def test_f3_when_a_worker_is_told_to_stop_the_next_one_goes_on_with_its_training(approved: Site) -> None:
    known, since = questions(approved), log_end(approved)
    with approved.recipe(**LONG):
        run = in_the_middle(approved, seed=52)
        approved.stack.stop("gpu-worker")
        approved.stack.start("gpu-worker")
        approved.finish(run, seconds=300)
        assert GOING_ON in told(approved, since)
        reject(approved, known)


def test_f1_when_a_worker_is_killed_alone_what_it_started_trains_to_its_end_and_is_not_trained_again(approved: Site) -> None:
    """Its run has nobody to report its end to, and counts as crashed; tried again, it finds the candidate."""
    known, since = questions(approved), log_end(approved)
    with approved.recipe(**LONG):
        run = in_the_middle(approved, seed=53)
        os.kill(approved.stack._running()["gpu-worker"], signal.SIGKILL)
        approved.until(lambda: "gpu-worker" not in approved.stack._running(), 10)
        approved.stack.start("gpu-worker")
        approved.finish(run, seconds=300)
        assert told(approved, since).count(b"training on ") == 1
        reject(approved, known)


def test_a_run_that_its_worker_claimed_and_never_began_is_declared_crashed_and_runs_again(approved: Site) -> None:
    known = questions(approved)
    approved.more_rows(300, seed=54)
    approved.stack.stop("cpu-worker")
    automation = _patience(approved, 10)
    run = approved.start("retrain/on-demand", recipe="tiny", accept_drift=True)
    pending = {"state": {"type": "PENDING", "name": "Pending"}, "force": True}
    approved.post(f"/flow_runs/{run}/set_state", pending)  # what a worker does first
    try:
        approved.until(lambda: "Crashed" in _states(approved, run), 60)
    finally:
        _patience(approved, automation["trigger"]["within"])
        approved.stack.start("cpu-worker")
    approved.finish(run, seconds=150)
    assert _states(approved, run)[-1] == "Completed"
    reject(approved, known)


def test_a_prefect_server_that_starts_again_frees_the_slot_of_a_holder_that_died(approved: Site) -> None:
    taken = {"names": ["gpu"], "slots": 1, "mode": "concurrency", "lease_duration": 60}
    assert approved.post("/v2/concurrency_limits/increment-with-lease", taken)["limits"]
    approved.stack.stop("prefect", signal.SIGKILL)
    approved.stack.start("prefect")
    assert not free(approved), "who holds it is known"
    began = time.monotonic()
    approved.until(lambda: free(approved), 120)
    assert time.monotonic() - began < 120


def _patience(site: Site, seconds: float) -> dict[str, Any]:
    """Makes the automation about pending runs wait so long; returns it as it was."""
    name = "adaptory: a run that its worker claimed and never began is declared crashed"
    there: dict[str, Any] = next(one for one in site.post("/automations/filter", {}) if one["name"] == name)
    body = {key: value for key, value in there.items() if key not in ("id", "created", "updated", "account", "workspace")}
    body = body | {"trigger": there["trigger"] | {"within": seconds}}
    site.answer("PUT", f"/automations/{there['id']}", json=body).raise_for_status()
    return there


def _states(site: Site, run: str) -> list[str]:
    found = site.get(f"/flow_run_states/?flow_run_id={run}")
    return [one["name"] for one in sorted(found, key=lambda one: one["timestamp"])]
