"""How many trainings run side by side on a machine, and what each of them may use."""

import os
from pathlib import Path

import pytest

from adaptory import process


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADAPTORY_TRIALS", "ADAPTORY_PROCESSES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("together", ["1", "2"])
def test_a_machine_without_gpus_trains_one_after_the_other_with_all_processors(
    together: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "gpus", list)
    monkeypatch.setenv("ADAPTORY_PROCESSES", together)  # that train one model: no GPUs
    assert process.slots() == [{}]


def test_each_gpu_trains_one_and_sees_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "gpus", lambda: ["0", "1", "2"])
    assert process.slots() == [{"CUDA_VISIBLE_DEVICES": name} for name in "012"]


def test_as_many_as_were_asked_for_are_spread_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "gpus", lambda: ["0", "1"])
    monkeypatch.setenv("ADAPTORY_TRIALS", "4")
    assert process.slots() == [{"CUDA_VISIBLE_DEVICES": name} for name in "0101"]


def test_of_a_container_only_its_own_gpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"/dev": ["nvidia3"], "/proc/driver/nvidia/gpus": [str(number) for number in range(8)]}
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [name for name in there.get(str(folder), []) if "nvidia" in name])
    assert process.gpus() == ["0"] and process.device_count() == 1


def test_gpus_that_were_hidden_stay_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    assert process.slots() == [{"CUDA_VISIBLE_DEVICES": name} for name in "46"]


def test_several_on_the_same_processors_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTORY_TRIALS", "2")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert process.slots() == [{"OMP_NUM_THREADS": "4"}] * 2
