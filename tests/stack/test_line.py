"""The line on servers: triggered over HTTP, trained on another machine, approved by a person, pulled from a bucket."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptory.registry import history
from tests.stack.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_a_candidate_is_trained_on_another_machine_and_waits_for_a_person(site: Site, asked: str) -> None:
    assert {one["work_pool_name"] for one in site.runs("tiny-train") + site.runs("tiny-evaluate")} == {"gpu"}
    assert not (site.folder / ".adaptory").exists()  # the worker's state lies where its environment says
    home = site.stack.home / "cpu-worker" / "home"
    assert list(home.glob("runs/tiny/candidate-*/adapter_model.safetensors")), "it came back over the store"
    assert site.first["records"] == [] and site.first["aliases"] == {"candidate"}


def test_the_pages_show_data_progress_scores_and_report(site: Site, asked: str) -> None:
    found = site.post("/artifacts/latest/filter", {})
    kinds = {one["key"]: one["type"] for one in found}
    assert "approval: required" in next(one["data"] for one in found if one["key"] == "tiny-recipe")
    named = {"tiny-data": "table", "tiny-training": "progress", "tiny-scores": "table", "tiny-report": "markdown"}
    named |= {"tiny-candidate": "markdown", "tiny-recipe": "markdown", "tiny-mlflow": "markdown"}
    assert kinds.keys() >= named.keys(), kinds
    assert next(one["data"] for one in found if one["type"] == "progress") == 100


def test_an_answer_that_is_none_leaves_the_question_open(site: Site, asked: str) -> None:
    assert site.first["answers"] == ["REJECT"] * 3 and site.first["state"] == "Suspended"


def test_who_approved_is_in_the_ledger_and_mlflow_shows_the_champion(approved: Site) -> None:
    record = history(approved.store, "tiny")[0]
    assert (record.kind, record.outcome, record.version, record.approved_by) == ("promote", "PASS", 1, "Ada")
    assert record.reason.endswith("approved: the report convinces me")
    assert approved.version(record.candidate).tags["adaptory.approved_by"] == "Ada"
    champion = approved.mlflow.get_model_version_by_alias("tiny", "champion")
    assert champion.tags["adaptory.candidate"] == history(approved.store, "tiny")[-1].candidate
    assert "candidate" not in approved.mlflow.get_registered_model("tiny").aliases
    assert approved.adaptory("audit", "tiny").strip() == "tiny: everything agrees with the ledger"


def test_people_are_told_of_the_question_and_of_the_promotion(approved: Site) -> None:
    wanted = {"tiny: adaptory.awaiting-approval", "tiny: adaptory.promoted"}
    approved.until(lambda: wanted <= {one["subject"] for one in approved.letters}, 30)
    assert next(one["text"] for one in approved.letters if one["subject"] == "tiny: adaptory.promoted") == "approved by Ada"


def test_the_champion_is_an_asset_made_of_its_data_and_its_base(approved: Site) -> None:
    record = history(approved.store, "tiny")[0]
    first = approved.until(approved.assets, 30)[-1]
    assert first["resource"]["prefect.resource.id"] == f"adaptory://tiny/release/{record.release}"
    made_of = {one["prefect.resource.id"] for one in first["related"] if one["prefect.resource.role"] == "asset"}
    assert made_of == {f"adaptory://tiny/data/{record.data}", f"adaptory://tiny/base/{record.base}"}


def test_a_release_is_pulled_from_the_bucket_and_answers(approved: Site, tmp_path: Path) -> None:
    assert "moved and verified" in approved.adaptory("pull", "tiny@champion", str(tmp_path / "model"), "--strict")
    assert "unchanged" in approved.adaptory("pull", "tiny@champion", str(tmp_path / "model"))
    assert "answers its example as when it was released" in approved.adaptory("smoke", str(tmp_path / "model"))
    told = approved.adaptory("why", str(tmp_path / "model"))
    assert "✗" not in told and history(approved.store, "tiny")[-1].approved_by in told


def test_mlflow_loads_the_champion_from_its_proxy(approved: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    import pandas

    approved.adaptory("pull", "tiny@champion", str(tmp_path / "model"))
    example = json.loads((tmp_path / "model" / "current" / "example.json").read_text())
    monkeypatch.chdir(approved.folder)  # its base is a folder there
    mlflow.set_tracking_uri(approved.mlflow.tracking_uri)
    try:
        model = mlflow.pyfunc.load_model("models:/tiny@champion")
    finally:
        mlflow.set_tracking_uri(None)  # it is this whole process's
    answers = model.predict(pandas.DataFrame([one["asked"] for one in example]))
    assert list(answers["label"]) == [one["told"]["label"] for one in example]


def test_the_same_inputs_are_not_worked_on_again(approved: Site) -> None:
    before = len(approved.runs("tiny-train"))
    run = approved.start("retrain/on-demand", recipe="tiny")
    approved.finish(run)
    assert len(approved.runs("tiny-train")) == before
    assert "adaptory.nothing-new" in events(approved, run)


def test_f10_new_data_start_one_retrain_and_a_rejected_candidate_changes_nothing(approved: Site) -> None:
    approved.more_rows(280)
    known = {one["id"] for one in approved.runs("promote-tiny")}
    before = history(approved.store, "tiny")
    assert "was told to Prefect" in approved.adaptory("notify", "tiny")
    assert "nothing new" in approved.adaptory("notify", "tiny")

    def waiting() -> Any:
        return [one for one in approved.runs("promote-tiny", "PAUSED") if one["id"] not in known]

    asking = approved.until(waiting)
    begun = [one for one in approved.runs("retrain-tiny") if one["created_by"] and one["created_by"]["type"] == "AUTOMATION"]
    assert len(begun) == 1
    told = approved.adaptory("reject", "tiny", "--reason", "the new labels are wrong")
    assert f"rejected it: the new labels are wrong; v{before[-1].version} is champion" in told
    approved.finish(asking[0]["id"])
    assert history(approved.store, "tiny") == before
    run = approved.start("retrain/on-demand", recipe="tiny")
    approved.finish(run)
    assert "REJECTED" in events(approved, run)["adaptory.nothing-new"]["reason"]


def test_f11_two_triggers_at_once_make_one_version_and_a_way_back_leads_to_the_first(approved: Site) -> None:
    approved.more_rows(300, seed=1)
    trained = {one["id"] for one in approved.runs("tiny-train")}
    champion = history(approved.store, "tiny")[-1].version
    newest = max(one.version for one in history(approved.store, "tiny")) + 1
    both = [approved.start("retrain/on-demand", recipe="tiny", accept_drift=True) for _ in range(2)]
    for run in both:
        approved.finish(run)
    assert len([one for one in approved.runs("tiny-train") if one["id"] not in trained]) == 1
    approved.until(lambda: approved.runs("promote-tiny", "PAUSED"))
    assert f"v{newest} is champion" in approved.adaptory("promote", "tiny", "--reason", "good")
    back = approved.start("rollback/on-demand", recipe="tiny", to_version=0, reason="it is slow", who="Grace")
    approved.finish(back)
    last = history(approved.store, "tiny")[-1]
    assert (last.kind, last.version, last.approved_by, last.reason) == ("rollback", champion, "Grace", "it is slow")
    shown = {alias: approved.mlflow.get_model_version_by_alias("tiny", alias).tags for alias in ("champion", "previous")}
    assert {alias: tags["adaptory.version"] for alias, tags in shown.items()} == {
        "champion": str(champion), "previous": str(newest)
    }  # fmt: skip
    gone = approved.start("rollback/on-demand", recipe="tiny", to_version=99)
    assert "never was champion" in approved.finish(gone, state="FAILED")["state"]["message"]


def test_an_alias_that_was_moved_by_hand_is_moved_back_and_told(approved: Site) -> None:
    versions = [str(one.version) for one in approved.mlflow.search_model_versions("name = 'tiny'")]
    now = approved.mlflow.get_registered_model("tiny").aliases["champion"]
    approved.mlflow.set_registered_model_alias("tiny", "champion", next(one for one in versions if one != now))
    assert "by the ledger it is version" in approved.adaptory("audit", "tiny", code=1)
    approved.finish(approved.start("reconcile/tiny", recipe="tiny"))
    assert approved.mlflow.get_registered_model("tiny").aliases["champion"] == now
    artifacts = approved.post("/artifacts/latest/filter", {"artifacts": {"key": {"any_": ["tiny-audit"]}}})
    assert "alias champion now names version" in artifacts[0]["data"]


def test_the_champion_is_watched_on_the_rows_that_arrived_since(approved: Site) -> None:
    run = approved.start("monitor/tiny", recipe="tiny", retrain_when="never")
    approved.finish(run)
    health = approved.post("/artifacts/latest/filter", {"artifacts": {"key": {"any_": ["tiny-health"]}}})[0]
    shown = json.loads(health["data"])[0]
    assert shown["rows"] >= 30 and shown["word"] in ("steady", "drifted")
    assert 0 < shown["now"] <= 1 and 0 < shown["then"] <= 1


def events(site: Site, run: str) -> dict[str, dict[str, Any]]:
    """Our events of a flow run, with what they tell."""

    def look() -> Any:
        words = {"filter": {"any_resource": {"id": [f"prefect.flow-run.{run}"]}, "event": {"prefix": ["adaptory."]}}}
        return {one["event"]: one["payload"] for one in site.post("/events/filter", words)["events"]}

    found: dict[str, dict[str, Any]] = site.until(look, 30)
    return found
