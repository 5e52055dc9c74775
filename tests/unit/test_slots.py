"""How many trainings run side by side on a machine, and what each of them may use."""

import os

import pytest

from adaptory import process


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADAPTORY_TRIALS", "ADAPTORY_PROCESSES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def test_a_machine_without_gpus_trains_one_after_the_other_with_all_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "device_count", lambda: 1)
    assert process.slots() == [{}]


def test_each_gpu_trains_one_and_sees_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "device_count", lambda: 3)
    assert process.slots() == [{"CUDA_VISIBLE_DEVICES": name} for name in "012"]


def test_gpus_that_were_hidden_stay_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    assert process.slots() == [{"CUDA_VISIBLE_DEVICES": name} for name in "46"]


def test_several_on_the_same_processors_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTORY_TRIALS", "2")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert process.slots() == [{"OMP_NUM_THREADS": "4"}] * 2
