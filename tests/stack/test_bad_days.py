"""Bad days, with the real processes: whoever dies, the next schedule or the automation finishes the work."""

import signal
import time
from typing import Any

import pytest

from adaptory.registry import history
from tests.stack.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.long]


def begun(site: Site, rows: int, seed: int) -> str:
    """A retrain on new data, whose training runs right now on the other machine."""
    known = {one["id"] for one in site.runs("tiny-train")}
    site.more_rows(rows, seed)
    run = site.start("retrain/on-demand", recipe="tiny", accept_drift=True)
    site.until(lambda: [one for one in site.runs("tiny-train", "RUNNING") if one["id"] not in known])
    return run


def waits(site: Site, known: set[str]) -> str:
    """The question about a new candidate."""
    found = site.until(lambda: [one["id"] for one in site.runs("promote-tiny", "PAUSED") if one["id"] not in known], 150)
    return str(found[0])


def test_servers_that_start_again_meanwhile_cost_nothing_but_time(approved: Site) -> None:
    """F14, F24: PostgreSQL, MLflow and S3 are away for some seconds while a candidate is trained; nobody helps."""
    known = {one["id"] for one in approved.runs("promote-tiny")}
    run = begun(approved, 300, seed=11)
    for name in ("mlflow", "s3", "postgres"):
        approved.stack.stop(name, signal.SIGKILL)
    time.sleep(2)
    for name in ("postgres", "s3", "mlflow"):
        approved.stack.start(name)
    approved.finish(run, seconds=200)
    asking = waits(approved, known)
    assert "rejected it" in approved.adaptory("reject", "tiny", "--reason", "a bad day")
    approved.finish(asking)
    assert approved.adaptory("audit", "tiny").strip().endswith("everything agrees with the ledger")


def test_a_prefect_server_that_starts_again_finds_its_runs_and_loses_no_slot(approved: Site) -> None:
    known = {one["id"] for one in approved.runs("promote-tiny")}
    run = begun(approved, 300, seed=12)
    approved.stack.stop("prefect", signal.SIGKILL)
    approved.stack.start("prefect")
    approved.finish(run, seconds=200)
    waits(approved, known)
    assert "rejected it" in approved.adaptory("reject", "tiny", "--reason", "a bad day")
    limits = approved.until(lambda: free(approved), 150)
    assert {one["name"] for one in limits} >= {"gpu", "promote-tiny"}


def test_f2_a_machine_that_dies_with_its_worker_is_noticed_and_its_work_is_finished(approved: Site) -> None:
    """Both machines lose power in the middle of a training. The automation declares the runs crashed after 90 s without a
    heartbeat, resubmits the retrain, and it goes on from the last checkpoint when there are workers again."""
    known = {one["id"] for one in approved.runs("promote-tiny")}
    before = len(history(approved.store, "tiny"))
    run = begun(approved, 300, seed=13)
    for name in ("gpu-worker", "cpu-worker"):
        approved.stack.stop(name, signal.SIGKILL)
    for name in ("gpu-worker", "cpu-worker"):
        approved.stack.start(name)
    found = approved.finish(run, seconds=240)
    assert found["run_count"] >= 2
    names = [one["state_name"] for one in approved.runs("tiny-train")]
    assert "Crashed" in names, names
    asking = waits(approved, known)
    assert "is champion" in approved.adaptory("promote", "tiny", "--reason", "it came through")
    approved.finish(asking)
    assert len(history(approved.store, "tiny")) == before + 1
    assert approved.adaptory("audit", "tiny").strip().endswith("everything agrees with the ledger")


def test_after_a_downtime_only_the_newest_of_the_runs_that_are_due_works(approved: Site) -> None:
    """Two scheduled runs came due while no worker was there."""
    approved.stack.stop("cpu-worker")
    found = approved.get("/deployments/name/retrain/tiny")
    due = [_scheduled(approved, found["id"], minutes) for minutes in (2, 1)]
    approved.stack.start("cpu-worker")
    for run in due:
        approved.finish(run, seconds=150)
    ends = [_ended_as(approved, run) for run in due]
    assert ends == ["superseded", "works"]


def _scheduled(site: Site, deployment: str, minutes: int) -> str:
    """A run as the scheduler would have made it, so many minutes ago."""
    import subprocess
    from datetime import UTC, datetime, timedelta

    when = datetime.now(UTC) - timedelta(minutes=minutes)
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": when.isoformat()}}
    body = {"state": state, "parameters": {"recipe": "tiny"}, "idempotency_key": f"scheduled {deployment} by-hand {when}"}
    made = site.post(f"/deployments/{deployment}/create_flow_run", body)
    host, port = site.stack.values["POSTGRES"].split(":")
    password = (site.stack.home / "secrets" / "PGPASSWORD").read_text()
    sql = f"update flow_run set auto_scheduled = true where id = '{made['id']}'"
    command = ["psql", "-h", host, "-p", port, "-U", "adaptory", "-d", "prefect", "-qc", sql]
    subprocess.run(command, check=True, env={"PGPASSWORD": password, "PATH": "/usr/bin:/bin"})
    return str(made["id"])


def _ended_as(site: Site, run: str) -> str:
    tasks = site.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return "works" if any(one["name"].startswith("prepare") for one in tasks) else "superseded"


def free(site: Site) -> Any:
    """The limits, if nobody holds a slot of any."""
    limits = site.post("/v2/concurrency_limits/filter", {})
    return limits if not any(one["active_slots"] for one in limits) else None
