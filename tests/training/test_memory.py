"""Memory that runs out where nobody had asked how much there is, and two trainings of one candidate."""

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adaptory.errors import PlanError, StageError
from adaptory.training import adapter, candidate, devices, preemption, setup


def test_memory_that_runs_out_while_a_training_is_set_up_is_told_as_a_plan_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    def full(*words: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(adapter, "check_base", full)
    run: Any = SimpleNamespace(
        workspace=SimpleNamespace(data=lambda name: Path()), recipe=SimpleNamespace(name="tiny"), settings=None,
        dataset=SimpleNamespace(base=""),
    )  # fmt: skip
    with pytest.raises(PlanError, match=r"out of memory, of [\d.]+ GB; lower training.micro_tokens, .* or a smaller base"):
        setup.setup(run, print, 30.0)


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory"])
def test_of_several_processes_it_is_the_fault_of_one_and_no_result_of_a_trial(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "world", lambda: 2)
    with pytest.raises(StageError, match="out of memory") as told, devices.memory_told(PlanError, "take less"):
        raise RuntimeError(said)
    assert type(told.value) is StageError
    with pytest.raises(RuntimeError, match="shapes"), devices.memory_told(PlanError, "take less"):
        raise RuntimeError("shapes do not match")


def test_what_an_earlier_trial_took_does_not_count_for_the_next() -> None:
    import torch

    here = torch.device("cpu")
    large = torch.ones(100_000_000)
    before = devices.peak_memory(here)
    del large
    devices.forget_peak(here)
    assert devices.peak_memory(here) < before - 0.3


def test_a_gpu_that_nothing_has_used_yet_has_no_peak_to_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", told.append)
    gpu: Any = SimpleNamespace(type="cuda")
    for used, wanted in ((False, []), (True, [gpu])):  # torch refuses to be asked before it has begun
        monkeypatch.setattr("torch.cuda.is_initialized", lambda used=used: used)
        devices.forget_peak(gpu)
        assert told == wanted


def test_a_second_training_of_the_same_candidate_waits_for_the_first(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(candidate_folder=tmp_path / "candidate-1")
    order: list[str] = []

    def second() -> None:
        with candidate.lock(run):
            order.append("second")

    with candidate.lock(run):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.3)
        order.append("first")
    other.join(20)
    assert order == ["first", "second"]


def test_who_waits_can_be_told_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    from adaptory.errors import Preempted

    monkeypatch.setattr(preemption, "_told", True)
    with FileLock(tmp_path / "lock"), pytest.raises(Preempted), preemption.alone(tmp_path / "lock", "trains this"):
        pass


def test_who_waits_says_for_whom_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from filelock import FileLock

    monkeypatch.setattr(preemption, "_listening", True)
    monkeypatch.setattr(preemption, "_BEAT", 1e9)
    held = FileLock(tmp_path / "lock", thread_local=False)
    held.acquire()
    monkeypatch.setattr(preemption, "_LOOK", 0.1)
    threading.Timer(1, held.release).start()
    with preemption.alone(tmp_path / "lock", "trains this"):
        [said] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said["what"] == f"waiting for another process here that trains this (it holds {tmp_path / 'lock'})"
