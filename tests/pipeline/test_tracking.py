"""MLflow's side of a training: F14, a curve that was told in pieces is whole and told once; the machine is watched meanwhile."""

import time
from pathlib import Path
from typing import Any

import pytest

from adaptory import workspace
from adaptory.registry import tracking
from adaptory.workspace import Workspace
from tests.pipeline.conftest import run
from tests.support import checkout

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").write_text("recipes: {}\n")
    (tmp_path / ".adaptory" / "mlflow").mkdir(parents=True)
    return workspace.find(tmp_path)


def test_the_machine_is_watched_while_it_trains(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    mlflow = tracking.client(place)
    run_id = mlflow.create_run(mlflow.create_experiment("watched")).info.run_id

    def samples() -> list[Any]:
        return list(mlflow.get_metric_history(run_id, "system/cpu_utilization_percentage"))

    for _ in range(2):  # a training that goes on
        before = len(samples())
        stop = tracking.watch_machine(place, run_id)
        for _ in range(300):
            if len(samples()) > before + 2:
                break
            time.sleep(0.1)
        stop()
    found = samples()
    assert len(found) > 5 and [one.step for one in found] == list(range(len(found)))
    assert mlflow.get_metric_history(run_id, "system/system_memory_usage_megabytes")
    after = len(found)
    time.sleep(1)
    assert len(mlflow.get_metric_history(run_id, "system/cpu_utilization_percentage")) == after


def test_f14_a_curve_told_in_pieces_is_replayed_in_order_and_without_duplicates(place: Workspace) -> None:
    mlflow = tracking.client(place)
    run_id = mlflow.create_run(mlflow.create_experiment("curve")).info.run_id
    steps = [
        {"event": "step", "step": n, "loss": 1 / n, "learning_rate": 0.1, "gradient_norm": 1.0, "tokens_per_second": 9.0}
        for n in range(1, 41)
    ]
    epoch = {"event": "epoch", "step": 20, "epoch": 1, "measured": "perplexity", "validation_loss": 0.5, "score": -0.5}
    events = [*steps[:20], epoch, *steps[20:]]
    tracking.log_curve(place, run_id, events[:7])
    tracking.log_curve(place, run_id, events[:7])
    tracking.log_curve(place, run_id, events)
    tracking.log_curve(place, run_id, events)
    assert [one.step for one in mlflow.get_metric_history(run_id, "loss")] == list(range(1, 41))
    assert [one.value for one in mlflow.get_metric_history(run_id, "validation_loss")] == [0.5]


def test_what_a_failed_retrain_left_open_is_ended(tmp_path: Path, prefect_api: str) -> None:
    folder = checkout(tmp_path / "checkout", **{"training.alpha": 10**38})
    told = run(folder, "retrain", "tiny", code=2, PREFECT_API_URL=prefect_api).stderr
    assert "stopped before the weights moved" in told
    place = workspace.find(folder)
    mlflow = tracking.client(place)
    (one,) = mlflow.search_runs([mlflow.get_experiment_by_name("tiny").experiment_id])
    assert one.info.status == "FAILED"
