"""Recipes that try several settings, or methods, before one is trained: through the line, with a real server and MLflow."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from adaptory import run as runs
from adaptory import workspace
from adaptory.errors import TrainingError
from adaptory.gate import Evidence
from adaptory.registry import tracking
from adaptory.search import Choice, choose
from adaptory.training import candidate
from adaptory.training.candidate import read as read_candidate
from tests.pipeline.conftest import run
from tests.support import checkout, write_recipe

pytestmark = pytest.mark.slow
SEARCH: dict[str, Any] = {"space": {"learning_rate": {"low": 0.001, "high": 0.05, "log": True}, "rank": [2, 8]}, "trials": 3}
CHANGES: dict[str, Any] = {"search": SEARCH, "evaluation.seeds": 1, "training.epochs": 3}
DESCRIPTIONS = {"negative": "awful bad poor", "neutral": "paper plain", "positive": "lovely good"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    """A checkout in which a recipe with a search of three trials was retrained, two at a time."""
    folder = checkout(tmp_path_factory.mktemp("search") / "checkout", **CHANGES)
    done = run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api, ADAPTORY_TRIALS="2")
    (folder / ".adaptory" / "said.txt").write_text(done.stdout + done.stderr)
    return folder


def choice(folder: Path) -> Choice:
    found = list((folder / ".adaptory" / "runs" / "tiny").glob("search-*/choice.json"))
    assert len(found) == 1, found
    return Choice.model_validate_json(found[0].read_bytes())


def evidence(folder: Path) -> Evidence:
    last = json.loads((folder / ".adaptory" / "runs" / "tiny" / "last.json").read_text())
    return Evidence.model_validate_json((Path(last["folder"]) / "evidence.json").read_bytes())


def test_bad_trials_stop_early_and_the_best_becomes_the_candidate(searched: Path) -> None:
    made = choice(searched)
    assert [one.share for one in made.tried] == pytest.approx([1 / 3] * 3)
    assert made.tried[0].trial.number == made.chosen == max(made.tried, key=lambda one: one.score or 0).trial.number
    told = [json.loads(path.read_text()) for path in (searched / ".adaptory" / "runs" / "tiny").glob("*.pause-*.json")]
    assert len(told) == 3 and {one["step"] for one in told} == {round(one["planned_steps"] / 3) for one in told}


def test_a_candidate_that_was_searched_for_has_the_bytes_of_one_trained_at_once(searched: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(searched, tmp_path / "copy", symlinks=True)
    shutil.rmtree(copy / ".adaptory" / "runs")
    own = choice(searched).training.model_dump(include={"learning_rate", "rank"})
    write_recipe(copy, **{"training.epochs": 3, **{f"training.{name}": value for name, value in own.items()}})
    run(copy, "stage", "train", "tiny")
    alone = json.loads(next((copy / ".adaptory" / "runs" / "tiny").glob("candidate-*/candidate.json")).read_text())
    assert alone["digest"] == evidence(searched).candidate


def test_other_seeds_are_scored_beside_the_candidate_and_decide_nothing(searched: Path) -> None:
    found = evidence(searched)
    again = found.of("repeat")
    assert [model.name for model in again] == ["seed_1"]
    assert again[0].metrics["macro_f1"].value != found.of("candidate")[0].metrics["macro_f1"].value
    page = next((searched / ".adaptory" / "runs" / "tiny").glob("*/report/report.md")).read_text()
    assert "| the same, seed 1 |" in page and "## What was tried" in page and "is best of 3" in page
    assert "other trials and seeds another " in page, "they cost, too"


def test_every_trial_is_an_mlflow_run_below_the_whole(searched: Path) -> None:
    place = workspace.find(searched)
    mlflow = tracking.client(place)
    experiment = tracking.experiment_id(mlflow, place, "tiny")
    whole = mlflow.search_runs([experiment], filter_string="tags.`adaptory.verdict` != ''")[0]
    children = mlflow.search_runs([experiment], filter_string=f"tags.`mlflow.parentRunId` = '{whole.info.run_id}'")
    assert sorted(child.data.tags["adaptory.trial"] for child in children) == ["0", "1", "2"]
    assert [child.data.tags["adaptory.trial"] for child in children if child.data.tags["adaptory.chosen"] == "true"] == [
        str(choice(searched).chosen)
    ]
    for child in children:
        assert child.info.status == "FINISHED" and child.data.params["training.rank"] in ("2", "4", "8")
        assert mlflow.get_metric_history(child.info.run_id, "loss"), "its curve"
        assert "trial/score" in child.data.metrics


def test_trials_that_lost_leave_no_checkpoints(searched: Path) -> None:
    assert not list((searched / ".adaptory" / "runs" / "tiny").glob("*.checkpoints"))


def test_a_second_retrain_has_nothing_to_search(searched: Path) -> None:
    assert "nothing new since" in run(searched, "retrain", "tiny", PREFECT_API_URL="http://127.0.0.1:9/api").stdout


def test_a_changed_gate_does_not_search_again(searched: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(searched, tmp_path / "copy", symlinks=True)
    before, floor = choice(copy), {"kind": "floor", "metric": "macro_f1", "direction": "higher", "limit": 0.99}
    write_recipe(copy, **CHANGES, **{"gate.criteria": [floor]})
    run(copy, "stage", "choose", "tiny")
    assert choice(copy) == before, "the same file, and no second one"


def test_a_trial_that_diverges_loses_and_the_search_goes_on(searched: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(searched, tmp_path / "copy", symlinks=True)
    shutil.rmtree(copy / ".adaptory" / "runs")
    # Its own adapters are scaled beyond what a number can hold; the drawn ones are sane.
    search = {"space": {"alpha": [8, 16]}, "trials": 2}
    write_recipe(copy, **{"search": search, "training.epochs": 3, "training.alpha": 10**38})
    run(copy, "stage", "choose", "tiny")
    made = choice(copy)
    failed = next(one for one in made.tried if one.trial.number == 0)
    assert failed.score is None and "stopped before the weights moved" in (failed.failed or "")
    assert made.chosen == 1 and "the recipe's own settings failed" in made.reason


def test_a_trial_that_this_base_cannot_train_loses_with_its_reason(searched: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(searched, tmp_path / "copy", symlinks=True)
    shutil.rmtree(copy / ".adaptory" / "runs")
    write_recipe(copy, **{"search": {"space": {"top_layers": [1, 9]}, "trials": 2}, "training.epochs": 3})
    run(copy, "stage", "choose", "tiny")
    made = choice(copy)
    failed = [one for one in made.tried if one.failed]
    assert [one.trial.settings.top_layers for one in failed] == [9] and "the base has 2 blocks" in (failed[0].failed or "")
    assert made.training.top_layers != 9


def test_what_is_to_be_chosen_must_be_chosen_first(searched: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(searched, tmp_path / "copy", symlinks=True)
    shutil.rmtree(copy / ".adaptory" / "runs")
    assert "adaptory stage choose tiny" in run(copy, "stage", "train", "tiny", code=2).stderr
    told = run(copy, "stage", "train", "tiny", "--trial", "9", code=2).stderr
    assert "no trial 9 that trains in the search of 'tiny'; there are 0, 1, 2" in told


@pytest.mark.long
def test_the_arbiter_weighs_the_usual_methods_on_the_same_rows(searched: Path, tmp_path: Path, prefect_api: str) -> None:
    copy = shutil.copytree(searched, tmp_path / "copy", symlinks=True)
    shutil.rmtree(copy / ".adaptory" / "runs")
    base = {"training.method": "auto", "training.epochs": 3, "evaluation.baselines": ["majority"], "evaluation.shots": 5}
    write_recipe(copy, **base, **{"evaluation.descriptions": DESCRIPTIONS})
    done = run(copy, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    made = choice(copy)
    names = [one.trial.name for one in made.tried]
    assert names == [
        "untuned base", "untuned base, shown examples", "linear probe", "LoRA, top 1 of 2", "LoRA, every block",
        "top 1 of 2 blocks", "the whole network",
    ]  # fmt: skip
    trained = [one for one in made.tried if one.trial.training]
    card = json.loads((copy / "data" / "tiny" / "splits" / "dataset.json").read_text())
    third = -(-sum(card["counts"]["train"].values()) // 3)
    assert {one.trial.settings.max_rows for one in trained} == {third}, "the same rows for all"
    assert all(one.score is not None and one.latency and one.low is not None for one in made.tried)
    assert trained[0].flops < trained[1].flops < trained[-1].flops and trained[0].trainable < trained[-1].trainable
    # The cheapest of those whose distance to the best may be nothing.
    equals = [one for one in trained if one.behind is None or one.behind[0] <= 0]
    assert made.chosen == min(equals, key=lambda one: one.flops).trial.number
    assert made.training.max_rows is None, "the candidate learns from all rows"
    card = next(
        card for path in (copy / ".adaptory" / "runs" / "tiny").glob("candidate-*")
        if (card := read_candidate(path)) and card.digest == evidence(copy).candidate
    )  # fmt: skip
    assert card.training == made.training
    assert made.reason in next((copy / ".adaptory" / "runs" / "tiny").glob("*/report/report.md")).read_text()
    assert "Traceback" not in done.stderr


def test_a_method_that_cannot_be_trained_loses_and_the_others_are_weighed(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(searched, tmp_path / "copy", symlinks=True)
    shutil.rmtree(copy / ".adaptory" / "runs")
    write_recipe(copy, **{"training.method": "auto", "training.epochs": 1})
    train = candidate.train

    def starved(now: Any, *words: Any) -> Any:
        if now.settings.method in ("full", "lora"):
            raise TrainingError("out of memory at training step 1")
        return train(now, *words)

    monkeypatch.setattr(candidate, "train", starved)
    made = choose.one_by_one(runs.current(workspace.find(copy), "tiny"), lambda event: None, 30.0)
    failed = {one.trial.name for one in made.tried if one.failed == "out of memory at training step 1"}
    assert failed == {"LoRA, top 1 of 2", "LoRA, every block", "the whole network"}
    assert made.training.method in ("head", "freeze")
    assert all(one.score is not None for one in made.tried if one.trial.name not in failed)
