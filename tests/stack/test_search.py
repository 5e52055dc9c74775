"""A search on the pool `gpu`: its trials are runs on every machine there, and go on wherever there is room."""

from typing import Any

import pytest

from tests.stack.site import Site
from tests.stack.test_worse_days import questions, reject

pytestmark = [pytest.mark.slow, pytest.mark.long]
SPACE: dict[str, Any] = {"learning_rate": {"low": 0.003, "high": 0.03, "log": True}, "rank": [2, 4, 8]}


def test_the_trials_of_a_search_run_on_every_machine_of_the_pool_and_have_curves_of_their_own(approved: Site) -> None:
    known, trained = questions(approved), {one["id"] for one in approved.runs("tiny-train")}
    approved.more_rows(300, seed=61)
    with approved.another_gpu_worker() as second, approved.recipe(search={"space": SPACE, "trials": 4}):
        run = approved.start("retrain/on-demand", recipe="tiny", accept_drift=True)
        approved.finish(run, seconds=400)
        for name in ("gpu-worker", second):
            assert list((approved.stack.home / name / "home" / "runs" / "tiny").glob("*.pause-*.json")), name
        orders = [one["parameters"]["order"] for one in approved.runs("tiny-train") if one["id"] not in trained]
        assert sorted(one["words"][1] for one in orders if one["words"] and one["words"][3] == "0") == ["0", "1", "2", "3"]
        tasks = approved.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        assert {one["name"] for one in tasks} >= {"trial-0", "trial-1", "trial-2", "trial-3"}
        reject(approved, known)
    experiment = approved.mlflow.get_experiment_by_name("tiny").experiment_id
    children = approved.mlflow.search_runs([experiment], filter_string="tags.`mlflow.parentRunId` != ''")
    assert sorted(one.data.tags["adaptory.trial"] for one in children) == ["0", "1", "2", "3"]
    for child in children:
        steps = [one.step for one in approved.mlflow.get_metric_history(child.info.run_id, "loss")]
        assert steps == sorted(set(steps)) and steps, child.info.run_name
    assert [one.data.tags["adaptory.chosen"] for one in children].count("true") == 1
