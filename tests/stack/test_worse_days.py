"""Worse days, with the real processes: what is cancelled, slow, full, leaked, or away at the wrong moment."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from adaptory.registry import history
from tests.stack.site import Site
from tests.stack.test_bad_days import begun, free, waits

pytestmark = [pytest.mark.slow, pytest.mark.long]


def reject(site: Site, known: set[str]) -> None:
    """The question about the new candidate comes, and is answered with no."""
    asking = waits(site, known)
    assert "rejected it" in site.adaptory("reject", "tiny", "--reason", "a bad day")
    site.finish(asking)


def questions(site: Site) -> set[str]:
    return {one["id"] for one in site.runs("promote-tiny")}


def test_a_retrain_that_is_cancelled_from_the_page_ends_on_both_machines_and_the_next_goes_on_from_there(approved: Site) -> None:
    known = questions(approved)
    run = begun(approved, 300, seed=21)
    time.sleep(5)
    approved.post(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    approved.finish(run, state="CANCELLED", seconds=60)
    approved.until(lambda: not approved.runs("tiny-train", "RUNNING", "CANCELLING", "PENDING"), 60)
    approved.until(lambda: free(approved), 90)
    again = approved.start("retrain/on-demand", recipe="tiny", accept_drift=True)
    approved.finish(again, seconds=150)
    reject(approved, known)


def test_f13_without_mlflow_a_retrain_fails_at_once_and_trains_nothing(approved: Site) -> None:
    known, trained = questions(approved), {one["id"] for one in approved.runs("tiny-train")}
    approved.stack.stop("mlflow", signal.SIGKILL)
    approved.more_rows(300, seed=22)
    run = approved.start("retrain/on-demand", recipe="tiny", accept_drift=True)
    found = approved.finish(run, state="FAILED", seconds=90)
    assert approved.stack.values["MLFLOW"] in found["state"]["message"], "it says which server"
    assert {one["id"] for one in approved.runs("tiny-train")} == trained
    approved.stack.start("mlflow")
    letter = approved.until(lambda: [one for one in approved.letters if one["subject"] == "retrain: Failed"], 30)[-1]
    values = approved.stack.values
    assert values["MLFLOW"] in letter["text"] and f"http://{values['PREFECT']}/runs/flow-run/{run}" in letter["text"]
    approved.finish(approved.start("retrain/on-demand", recipe="tiny", accept_drift=True), seconds=150)
    reject(approved, known)


def test_f15_a_promotion_without_mlflow_is_in_the_ledger_and_mlflow_follows_when_it_is_back(approved: Site) -> None:
    known, before = questions(approved), len(history(approved.store, "tiny"))
    approved.finish(begun(approved, 300, seed=23), seconds=150)
    asking = waits(approved, known)
    approved.stack.stop("mlflow", signal.SIGKILL)
    answer = {"decision": "approve", "name": "Ada", "reason": "although MLflow is away"}
    approved.post(f"/flow_runs/{asking}/resume", {"run_input": answer})
    records = approved.until(lambda: (found := history(approved.store, "tiny"))[before:] and found, 60)
    approved.stack.start("mlflow")
    approved.finish(asking, seconds=120)
    champion = approved.mlflow.get_model_version_by_alias("tiny", "champion")
    assert champion.tags["adaptory.candidate"] == records[-1].candidate
    assert approved.adaptory("audit", "tiny").strip().endswith("everything agrees with the ledger")


def test_f14_a_candidate_that_could_not_be_told_to_mlflow_is_not_trained_again(approved: Site) -> None:
    """MLflow is away for longer than anybody waits: the run fails, and the next one goes on after the training."""
    known = questions(approved)
    run = begun(approved, 300, seed=27)
    approved.stack.stop("mlflow", signal.SIGKILL)
    approved.finish(run, state="FAILED", seconds=500)
    trained = {one["id"] for one in approved.runs("tiny-train")}
    approved.stack.start("mlflow")
    approved.finish(approved.start("retrain/on-demand", recipe="tiny", accept_drift=True), seconds=150)
    assert {one["id"] for one in approved.runs("tiny-train")} == trained
    reject(approved, known)


def test_f25_servers_that_stop_answering_for_half_a_minute_are_waited_for(approved: Site) -> None:
    known = questions(approved)
    run = begun(approved, 300, seed=24)
    with frozen(approved, "s3"), frozen(approved, "mlflow"):
        time.sleep(30)
    approved.finish(run, seconds=200)
    reject(approved, known)


def test_f6_a_full_disk_is_named_and_the_work_is_finished_when_there_is_room(approved: Site) -> None:
    known = questions(approved)
    home = approved.stack.home / "gpu-worker" / "home"
    approved.stack.stop("gpu-worker")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(home)], check=True)
    try:
        approved.stack.start("gpu-worker")
        approved.more_rows(300, seed=25)
        run = approved.start("retrain/on-demand", recipe="tiny", accept_drift=True)
        found = approved.finish(run, state="FAILED", seconds=150)
        assert "disk is full" in found["state"]["message"] or "No space left" in found["state"]["message"], found["state"][
            "message"
        ]
        approved.stack.stop("gpu-worker")
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)
    approved.stack.start("gpu-worker")
    approved.finish(approved.start("retrain/on-demand", recipe="tiny", accept_drift=True), seconds=150)
    reject(approved, known)


def test_a_slot_that_nobody_gives_back_is_free_after_its_lease(approved: Site) -> None:
    known = questions(approved)
    taken = {"names": ["gpu"], "slots": 1, "mode": "concurrency", "lease_duration": 60}
    assert approved.post("/v2/concurrency_limits/increment-with-lease", taken)["limits"]
    began = time.monotonic()
    approved.finish(begun(approved, 300, seed=26), seconds=200)
    assert time.monotonic() - began > 30, "it waited for the slot"
    reject(approved, known)


@contextmanager
def frozen(site: Site, name: str) -> Iterator[None]:
    """The service keeps its connections, and answers nobody."""
    group = site.stack._running()[name]
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)
