"""What people are asked and told: one question per candidate, silence, refusals; and what starts by itself."""

import re
from pathlib import Path
from typing import Any

import pytest

from adaptory.registry import history, proposals
from tests.stack.site import FLOOR, Site
from tests.stack.test_bad_days import free, waits
from tests.stack.test_line import events
from tests.stack.test_worse_days import questions, reject
from tests.support import rows, write_tsv

pytestmark = [pytest.mark.slow, pytest.mark.long]


def retrain(site: Site, seconds: float = 150) -> str:
    run = site.start("retrain/on-demand", recipe="tiny", accept_drift=True)
    site.finish(run, seconds=seconds)
    return run


def test_f11_a_candidate_is_asked_about_once_however_often_its_retrain_ends_and_the_page_can_say_no(approved: Site) -> None:
    known, before = _asked(approved), history(approved.store, "tiny")
    approved.more_rows(300, seed=41)
    for _ in range(2):
        retrain(approved)
    asking = waits(approved, known)
    assert _asked(approved) - known == {asking}
    approved.until(lambda: not _processes(asking), 30)
    assert free(approved), "a run that waits for a person holds no slot"
    answer = {"decision": "reject", "name": "Ada", "reason": "not convincing"}
    assert approved.post(f"/flow_runs/{asking}/resume", {"run_input": answer})["status"] == "ACCEPT"
    approved.finish(asking)
    assert history(approved.store, "tiny") == before
    assert "REJECTED" in events(approved, retrain(approved))["adaptory.nothing-new"]["reason"]
    assert _asked(approved) - known == {asking}


def test_a_question_that_nobody_answers_is_closed_and_the_next_retrain_asks_again(approved: Site) -> None:
    known, before = _asked(approved), history(approved.store, "tiny")
    approved.more_rows(300, seed=42)
    retrain(approved)
    first = waits(approved, known)
    approved.post(f"/flow_runs/{first}/set_state", {"state": {"type": "CANCELLED"}, "force": True})
    short = approved.start("promote/ask", recipe="tiny", wait_hours=0.003)
    assert waits(approved, known) == short
    approved.until(lambda: approved.get(f"/flow_runs/{short}")["state"]["type"] == "FAILED", 60)
    assert history(approved.store, "tiny") == before
    retrain(approved)
    again = waits(approved, known | {first, short})
    assert _asked(approved) - known == {first, short, again}
    assert "rejected it" in approved.adaptory("reject", "tiny", "--reason", "late")
    approved.finish(again)


def test_a_question_stays_about_its_candidate_when_another_one_comes(approved: Site) -> None:
    known, asking = _asked(approved), list[str]()
    for seed in (46, 47):
        approved.more_rows(300, seed)
        retrain(approved)
        asking.append(waits(approved, known | set(asking)))
    newer = proposals.waiting(approved.store, "tiny")
    assert "rejected it" in approved.adaptory("reject", "tiny", "--reason", "the older one is better")
    approved.finish(asking[1])
    older = proposals.waiting(approved.store, "tiny")
    assert older and newer and older.draft.candidate != newer.draft.candidate
    answer = {"decision": "approve", "name": "Ada", "reason": "the older one"}
    assert approved.post(f"/flow_runs/{asking[0]}/resume", {"run_input": answer})["status"] == "ACCEPT"
    approved.finish(asking[0])
    assert history(approved.store, "tiny")[-1].candidate == older.draft.candidate


def test_people_are_told_of_a_refusal_and_of_a_doubt(approved: Site) -> None:
    before, known = history(approved.store, "tiny"), questions(approved)
    approved.more_rows(300, seed=43)

    def letter_of(word: str, limit: float) -> str:
        with approved.recipe(**{"gate.criteria": [FLOOR | {"limit": limit}]}):
            retrain(approved)
        subject = f"tiny: adaptory.{word}"
        return str(approved.until(lambda: [one for one in approved.letters if one["subject"] == subject])[-1]["text"])

    said = re.search(r"macro_f1 [\d.]+ \[([\d.]+), ([\d.]+)\]", letter_of("fail", 0.999))
    assert said, "the letter tells the interval"
    between = (float(said[1]) + float(said[2])) / 2
    assert "may lie on either side" in letter_of("inconclusive", between)
    assert history(approved.store, "tiny") == before and questions(approved) == known


def test_the_poller_starts_one_retrain_per_digest_and_a_dead_source_hides_no_other(approved: Site) -> None:
    known, begun = questions(approved), _by_automation(approved)
    params = approved.folder / "params.yaml"
    text = params.read_text()
    dead = text.replace("  tiny:", "  dead:").removeprefix("recipes:\n").replace("incoming/rows.tsv", "incoming/gone.tsv")
    approved.more_rows(300, seed=44)
    params.write_text(text + dead)
    try:
        looks = [approved.start("arrivals/poll") for _ in range(2)]
        ends = ("COMPLETED", "CANCELLED")
        approved.until(lambda: all(approved.get(f"/flow_runs/{look}")["state"]["type"] in ends for look in looks))
        wanted = {"logs": {"flow_run_id": {"any_": looks}}}
        logs = approved.until(lambda: [one for one in approved.post("/logs/filter", wanted) if "gone.tsv" in one["message"]], 30)
        assert logs[0]["message"].startswith("dead:")
        new = approved.until(lambda: _by_automation(approved) - begun)
        approved.finish(next(iter(new)), seconds=150)
        assert _by_automation(approved) - begun == new and len(new) == 1
    finally:
        params.write_text(text)
    if proposals.waiting(approved.store, "tiny"):  # the rows may have drifted instead
        reject(approved, known)


def test_a_champion_that_got_worse_starts_a_retrain(approved: Site) -> None:
    """From now on people mean the opposite of what they say."""
    begun = {one["id"] for one in approved.runs("retrain-tiny")}
    other = {"-2.0": "2.0", "2.0": "-2.0", "0.1": "0.1"}
    turned = [(f"new{key}", other[rating], text) for key, rating, text in rows(500, seed=45)]
    write_tsv(approved.folder / "incoming" / "rows.tsv", turned)
    approved.finish(approved.start("monitor/tiny", recipe="tiny", retrain_when="worse"), seconds=150)
    assert "worse" in approved.post("/artifacts/latest/filter", {"artifacts": {"key": {"any_": ["tiny-health"]}}})[0]["data"]
    approved.until(lambda: [one for one in approved.letters if one["subject"] == "tiny: adaptory.monitor.worse"], 30)
    run = approved.until(lambda: {one["id"] for one in approved.runs("retrain-tiny", "RUNNING")} - begun)
    assert len(run) == 1
    approved.post(f"/flow_runs/{next(iter(run))}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    approved.finish(next(iter(run)), state="CANCELLED", seconds=60)
    approved.until(lambda: free(approved), 90)


def test_deploying_again_changes_nothing(site: Site) -> None:
    before = _deployed(site)
    site.stack.start("deploy")
    assert _deployed(site) == before


def test_what_a_person_stopped_is_not_started_by_deploying_again(site: Site) -> None:
    declared = site.folder / "prefect.yaml"
    before, weekly = declared.read_text(), "'0 4 * * 1', timezone: UTC, active: "
    poll = site.get("/deployments/name/arrivals/poll")["id"]

    def schedule(**change: bool) -> bool:
        found = site.get("/deployments/name/retrain/tiny")
        if change:
            site.answer("PATCH", f"/deployments/{found['id']}/schedules/{found['schedules'][0]['id']}", json=change)
        return bool(site.get("/deployments/name/retrain/tiny")["schedules"][0]["active"])

    declared.write_text(before.replace(weekly + "false", weekly + "true"))
    try:
        assert schedule(active=True)
        site.stack.start("deploy")
        assert schedule(), "what runs goes on running"
        assert not schedule(active=False)
        site.post(f"/deployments/{poll}/pause_deployment", {})
        site.stack.start("deploy")
        assert not schedule()
        assert site.get("/deployments/name/arrivals/poll")["paused"]
    finally:
        declared.write_text(before)
        site.post(f"/deployments/{poll}/resume_deployment", {})
        site.stack.start("deploy")


def _asked(site: Site) -> set[str]:
    """Every run of `promote/ask`, begun or not."""
    return {one["id"] for one in site.post("/flow_runs/filter", {"deployments": {"name": {"any_": ["ask"]}}})}


def _by_automation(site: Site) -> set[str]:
    wanted = {"deployments": {"name": {"any_": ["on-demand"]}}, "flows": {"name": {"any_": ["retrain"]}}}
    found = site.post("/flow_runs/filter", wanted)
    return {one["id"] for one in found if (one["created_by"] or {}).get("type") == "AUTOMATION"}


def _processes(flow_run: str) -> list[str]:
    """The processes of this host that do this flow run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"PREFECT__FLOW_RUN_ID={flow_run}".encode() in (folder / "environ").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found


def _deployed(site: Site) -> Any:
    """Everything `make deploy` makes, without the times of its making."""
    passing = {"updated", "last_polled", "status", "active_slots", "version", "version_id", "version_info"}
    pages = ("/deployments/filter", "/automations/filter", "/v2/concurrency_limits/filter", "/work_pools/filter")

    def still(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: still(one) for key, one in value.items() if key not in passing}
        return [still(one) for one in value] if isinstance(value, list) else value

    return {page: still(sorted(site.post(page, {}), key=lambda one: one["id"])) for page in pages}
