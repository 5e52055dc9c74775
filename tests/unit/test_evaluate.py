"""What an evaluation passes on besides the answers: why one could not be had, steps that were due, seeds that were lost."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from adaptory.errors import Preempted, ReleaseError, ServerError, UserError
from adaptory.evaluation import contestants
from adaptory.evaluation.contestants import Contestant, Rows
from tests.promotions import Judged, MemoryStore

evaluate: Any = importlib.import_module("adaptory.evaluation.evaluate")  # the package has a function of this name


def asked(fault: Exception, kind: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    def ask() -> Any:
        raise fault

    one = Contestant(kind, kind, f"the {kind}", "d", {}, ask)
    monkeypatch.setattr(contestants, "everyone", lambda *_: iter([one]))
    rows = Rows.of(*[pl.DataFrame({"row": ["1"], "file": ["f"], "line": [1]})] * 3)
    run: Any = SimpleNamespace(recipe=SimpleNamespace(name="tiny", data=SimpleNamespace(classes=())))
    candidate: Any = None
    return evaluate._answered(run, MemoryStore(), None, candidate, rows, lambda event: None)


def test_a_champion_that_cannot_answer_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(ReleaseError("its files are gone"), "champion", monkeypatch)[2] == "its files are gone"
    with pytest.raises(ReleaseError):
        asked(ReleaseError("its files are gone"), "candidate", monkeypatch)


def test_nor_can_one_whose_files_are_gone_from_the_store(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(workspace=SimpleNamespace(cache=tmp_path))
    digest = f"sha256:{'0' * 64}"
    record: Any = SimpleNamespace(model="tiny", version=1, release=digest, candidate=digest)
    one = contestants._released(run, MemoryStore(), record, None, "champion", "champion", "it")
    with pytest.raises(UserError, match="gone from the store"):
        one.ask()


@pytest.mark.parametrize("fault", [Preempted("stopped"), ServerError("the store is away")])
def test_a_champion_whose_evaluation_was_stopped_is_not_called_broken(fault: UserError, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(fault)):
        asked(fault, "champion", monkeypatch)


@pytest.mark.parametrize("fault", [Preempted("stopped"), ServerError("the store is away")])
def test_nor_one_whose_release_was_being_fetched(fault: UserError, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(contestants, "fetch_release", fetch)
    run: Any = SimpleNamespace(workspace=SimpleNamespace(cache=None))
    record: Any = SimpleNamespace(candidate="c")
    with pytest.raises(type(fault)):
        contestants._released(run, MemoryStore(), record, None, "champion", "champion", "it")


def test_a_training_that_patience_ended_did_all_its_steps_and_one_that_was_cut_short_did_not(tmp_path: Path) -> None:
    made = Judged(tmp_path, 1, None).candidate.model_copy(update={"planned_steps": 10, "done_steps": 6})
    assert made.model_copy(update={"stopped_early": True}).due_steps == 6
    assert made.due_steps == 10, "more than were done: the gate will say so"


def test_a_seed_that_could_not_be_trained_stands_without_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    again = [SimpleNamespace(settings=SimpleNamespace(seed=seed), candidate_folder=seed) for seed in (1, 2)]
    monkeypatch.setattr(evaluate, "read_candidate", lambda folder: None if folder == 2 else "trained")
    run: Any = SimpleNamespace(repeats=lambda: again, recipe=SimpleNamespace(metrics=["macro_f1"]))
    [lost] = evaluate._lost_seeds(run)
    assert (lost.name, lost.kind, lost.metrics["macro_f1"].value) == ("seed_2", "repeat", None)
