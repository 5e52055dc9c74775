"""MLflow's side of a training: F14, a curve that was told in pieces, with gaps and repeats, is whole and told once."""

from pathlib import Path

import pytest

from adaptory import workspace
from adaptory.registry import tracking

pytestmark = pytest.mark.slow


def test_f14_a_curve_told_in_pieces_is_replayed_in_order_and_without_duplicates(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipes: {}\n")
    place = workspace.find(tmp_path)
    (tmp_path / ".adaptory" / "mlflow").mkdir(parents=True)
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
