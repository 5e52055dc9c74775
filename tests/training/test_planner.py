"""Before a training starts, its cost is predicted; a plan that cannot keep its limits is refused with the nearest that can."""

import re
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from adaptory.errors import PlanError
from adaptory.training import adapter, devices, fit, operations, planner, preemption
from tests.training.toys import trajectory, work


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every padded token takes a millisecond, and every batch ten more."""
    monkeypatch.setattr(planner, "_compute", lambda work, rows: 0.01 + 0.001 * work.computed(rows))
    monkeypatch.setattr(planner, "_begun", lambda work: 0.0)
    monkeypatch.setattr(planner, "_forward", lambda work, rows: 0.0003 * len(rows) * max(work.validation[n].length for n in rows))


def test_the_prediction_adds_up_what_each_batch_takes(tmp_path: Path, steady: None) -> None:
    one = work(tmp_path, "sft", "causal", epochs=3)
    micro = [rows for window in one.windows(0) for rows in one.cut(window, 4096)]
    training = sum(0.01 + 0.001 * one.computed(rows) for rows in micro)
    found = planner.forecast(one)
    assert found.steps == 24
    assert found.seconds == pytest.approx(3 * found.seconds_per_epoch)
    assert training < found.seconds_per_epoch < 1.5 * training, "validation comes on top"


def test_what_disturbs_the_machine_for_a_moment_is_not_predicted_for_the_whole_run(
    tmp_path: Path, steady: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = work(tmp_path, "sft", "causal")
    usual, calls, compute = planner.forecast(one).seconds, [0], planner._compute

    def disturbed(work: Any, rows: list[int]) -> float:
        calls[0] += 1
        return compute(work, rows) * (5 if calls[0] < 6 else 1)

    monkeypatch.setattr(planner, "_compute", disturbed)
    assert planner.forecast(one).seconds == pytest.approx(usual)


def test_the_longest_batch_of_all_epochs_is_tried_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, tried = work(tmp_path, "sft", "causal", epochs=9, batch_rows=16), list[list[int]]()
    monkeypatch.setattr(planner, "_compute", lambda work, rows: tried.append(rows) or 0.01)
    planner.forecast(one)
    largest = [max(one.computed(rows) for rows in one.batches(epoch)) for epoch in range(9)]
    assert one.computed(tried[0]) == max(largest) > largest[0], "another epoch than the first has it"


def test_looking_ahead_changes_nothing(tmp_path: Path) -> None:
    plain = trajectory(work(tmp_path / "a", dropout=0.3))
    one = work(tmp_path / "b", dropout=0.3)
    before = adapter.digest_of_weights(one.model)
    planner.forecast(one)
    assert adapter.digest_of_weights(one.model) == before
    assert all(weight.grad is None for weight in one.model.parameters())
    assert trajectory(one) == plain


@pytest.mark.parametrize(
    ("minutes", "remedy"),
    [
        (0.025, r"training\.epochs: 1 would take"),
        (0.0145, r"epochs: 1 with training\.top_layers: \d"),
        (0.002, r"one epoch over \d+ of the 60"),
    ],
)
def test_a_plan_that_misses_its_deadline_is_refused_with_the_nearest_that_keeps_it(
    tmp_path: Path, steady: None, minutes: float, remedy: str
) -> None:
    one = work(tmp_path, "sft", "causal", epochs=2, top_layers=4, deadline=minutes)
    with pytest.raises(PlanError, match=rf"would take about .*, more than training\.deadline \({minutes:g} min\); .*{remedy}"):
        planner.forecast(one)


def test_the_nearest_plan_keeps_the_deadline(tmp_path: Path, steady: None) -> None:
    settings: dict[str, Any] = {"epochs": 9, "top_layers": 4, "deadline": 0.1}
    with pytest.raises(PlanError) as found:
        planner.forecast(work(tmp_path, "sft", "causal", **settings))
    told = re.search(r"training\.epochs: (\d+)", str(found.value))
    assert told
    planner.forecast(work(tmp_path, "sft", "causal", **settings | {"epochs": int(told[1])}))
    with pytest.raises(PlanError):
        planner.forecast(work(tmp_path, "sft", "causal", **settings | {"epochs": int(told[1]) + 1}))


def test_the_deadline_counts_what_it_took_to_begin(tmp_path: Path, steady: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"epochs": 9, "top_layers": 4, "cache_trunk": False}
    one = work(tmp_path, "sft", "causal", **settings)
    usual = planner.forecast(one).seconds / 60
    monkeypatch.setattr(planner, "_begun", lambda work: 30.0)
    planner.forecast(work(tmp_path, "sft", "causal", **settings, deadline=usual + 0.51))
    planner.forecast(work(tmp_path, "sft", "causal", **settings, deadline=usual + 0.01), shared=True)
    with pytest.raises(PlanError, match=r"about \d+ s after 30 s to begin, more than .*epochs: \d would"):
        planner.forecast(work(tmp_path, "sft", "causal", **settings, deadline=usual + 0.49))
    with pytest.raises(PlanError, match=r"beginning alone took longer$"):
        planner.forecast(work(tmp_path, "sft", "causal", **settings, deadline=0.4))
    with pytest.raises(PlanError, match=r"what the frozen blocks gave is kept, so the same command may be in time now"):
        planner.forecast(work(tmp_path, "sft", "causal", **settings | {"top_layers": 2, "cache_trunk": True}, deadline=0.4))


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"method": "full", "top_layers": None}, r"epochs: 1 with training\.method: freeze and training\.top_layers: [123] "),
        ({"method": "prompt_tuning", "top_layers": None}, r"; one epoch over \d+ of the 60 rows"),
        ({"method": "freeze", "top_layers": None, "layers": ["layers.1."]}, r"; one epoch over \d+ of the 60 rows"),
    ],
)
def test_the_nearest_plan_names_only_settings_that_the_method_heeds(
    tmp_path: Path, steady: None, settings: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(PlanError, match=remedy):
        planner.forecast(work(tmp_path, "sft", "causal", epochs=2, deadline=0.0145, **settings))


def test_a_plan_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"\d GB, more than training\.memory \(0\.001\); .* GB of it do not depend on the batch"):
        planner.forecast(work(tmp_path, memory=0.001))


def test_the_batch_that_would_keep_the_memory_is_named(tmp_path: Path, steady: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base takes 2 GB, and a batch of 1,000 tokens another one; a quarter more when the heap is in pieces."""
    taken = 2.0

    def compute(work: Any, rows: list[int]) -> float:
        nonlocal taken
        taken = max(taken, 2 + work.computed(rows) / 1000)
        return 0.01

    monkeypatch.setattr(planner, "_compute", compute)

    def forget(device: Any) -> None:
        nonlocal taken
        taken = 2.0

    monkeypatch.setattr(devices, "peak_memory", lambda device: taken)
    monkeypatch.setattr(devices, "forget_peak", forget)
    with pytest.raises(PlanError) as found:
        planner.forecast(work(tmp_path, memory=2.2, micro_tokens=1000, batch_rows=60))
    told = re.search(r"with training\.micro_tokens: (\d+) it would take 2\.2", str(found.value))
    assert told
    forget(None)
    assert planner.forecast(work(tmp_path, memory=2.2, micro_tokens=int(told[1]), batch_rows=60)).memory <= 2.2


def test_a_plan_that_this_machine_cannot_hold_is_refused(tmp_path: Path, steady: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "capacity", lambda device: 0.002)
    with pytest.raises(PlanError, match=r"\d GB, more than there is here \(0\.002\)"):
        planner.forecast(work(tmp_path))


def test_a_machine_has_no_more_than_its_container_allows_and_each_process_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    cpu, limit = torch.device("cpu"), tmp_path / "memory.max"
    monkeypatch.setattr(devices, "_LIMITS", (limit,))
    whole = devices.capacity(cpu)
    assert whole == pytest.approx(psutil.virtual_memory().total / 1e9, rel=0.01)
    limit.write_text("max\n")
    assert devices.capacity(cpu) == whole
    limit.write_text("500000000\n")
    assert devices.capacity(cpu) == 0.5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert devices.capacity(cpu) == 0.25


def test_what_one_process_of_several_refuses_all_refuse(tmp_path: Path, steady: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or those that do not would wait for it for ever."""
    one = work(tmp_path, deadline=60, memory=500)
    fine = planner.forecast(one)

    def other(fits: bool = True, memory: float = 0.1, seconds: float = 1.0) -> None:
        said = {bool: fits, float: memory, tuple: (seconds, 0.0)}
        monkeypatch.setattr(devices, "gathered", lambda mine: [*mine, said[type(mine[0])]])

    for changes, refusal in [
        ({"seconds": 1e9}, "would take about"), ({"memory": 501.0}, "takes 501.00 GB, more than"),
        ({"fits": False}, "does not fit into memory"),
    ]:  # fmt: skip
        other(**changes)
        with pytest.raises(PlanError, match=refusal):
            planner.forecast(one)
    asked: list[Any] = []

    def last_refuses(mine: list[Any]) -> list[Any]:
        asked.append(mine)
        return [*mine, len(asked) < 5 if type(mine[0]) is bool else mine[0]]

    monkeypatch.setattr(devices, "gathered", last_refuses)
    with pytest.raises(PlanError, match=r"GB, more than another of its processes may; lower training"):
        planner.forecast(one)
    other(seconds=0.001)
    assert planner.forecast(one).seconds == pytest.approx(fine.seconds)


def test_a_plan_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    monkeypatch.setattr(preemption, "beat", lambda: beats.append(1))
    planner.forecast(one := work(tmp_path))
    assert len(beats) > 2 * min(8, one.steps_per_epoch)


def test_the_longest_batch_is_tried_first_and_a_size_that_fits_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    compute = planner._compute

    def starved(work: Any, rows: list[int]) -> float:
        tried.append(work.computed(rows))
        if tried[-1] > 200:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return compute(work, rows)

    monkeypatch.setattr(planner, "_compute", starved)
    one = work(tmp_path, micro_tokens=600, batch_rows=60)
    with pytest.raises(PlanError, match=r"does not fit into memory; with training\.micro_tokens: 150 it does"):
        planner.forecast(one)
    every = [one.computed(rows) for window in one.windows(0) for rows in one.cut(window, 600)]
    assert tried[0] == max(every)


def test_a_training_that_goes_on_is_not_stopped_by_a_prediction(tmp_path: Path, steady: None) -> None:
    with pytest.raises(PlanError):
        planner.forecast(work(tmp_path, deadline=0.0001))
    fit.fit(work(tmp_path), 3)
    planner.forecast(work(tmp_path, deadline=0.0001))


def test_what_is_frozen_and_kept_costs_nothing_and_what_trains_whole_costs_most(tmp_path: Path) -> None:
    def cost(**training: Any) -> float:
        one = work(tmp_path, "sft", "causal", **training)
        return operations.flops(one, 1000)

    full = cost(method="full", top_layers=None)
    every, top, kept = cost(top_layers=4), cost(top_layers=2), cost(top_layers=2, cache_trunk=True)
    assert kept < top < every < full
    probe, top_one = work(tmp_path, method="head", top_layers=None, cache_trunk=True), work(tmp_path, top_layers=1)
    assert 0 <= operations.flops(probe, 1000) < operations.flops(top_one, 1000), "a head on kept states"
    found = operations._weighed(work(tmp_path, "sft", "causal", top_layers=1).model)
    assert found.lower == 3 * found.upper and found.trained == 0 and found.head > 0


def test_operations_are_those_of_what_trains(tmp_path: Path) -> None:
    """Per token and weight of the blocks: 2 forward, 2 for the gradient of what is above a trained weight, 2 where it trains."""

    def counted(task: str = "text", **training: Any) -> tuple[float, Any, Any]:
        one = work(tmp_path / task, task, "causal", **{"top_layers": None} | training)
        return operations.flops(one, 1000), operations._weighed(one.model), one

    every, weights, one = counted("sft", top_layers=4)
    blocks, vocabulary = weights.upper, weights.head / 4
    labels = sum(one.goal.weight(row) for row in one.train)
    assert every == 4 * blocks * 1000 + 4 * vocabulary * labels
    assert counted("sft", method="full")[0] == 6 * blocks * 1000 + 6 * vocabulary * labels
    assert counted("sft", top_layers=1)[0] == (2 * 3 + 4) / 4 * blocks * 1000 + 4 * vocabulary * labels
    # What trains is below all blocks: the gradient comes through each of them, and of none of them.
    prompt, _, one = counted("sft", method="prompt_tuning")
    assert prompt == 4 * blocks * (1000 + 16 * len(one.train)) + 4 * vocabulary * labels
    named = counted("sft", method="freeze", layers=["embed_tokens"])
    assert named[1].lower == 0 and named[1].trained == 0 and named[0] >= every
    # Both answers are scored by the head.
    preferred, _, one = counted("preference", objective="dpo", top_layers=4)
    scored = sum(len(row.ids) - row.start + len(row.second) - row.second_start for row in one.train)
    assert preferred == 4 * blocks * 1000 + 4 * vocabulary * scored > 4 * blocks * 1000


def test_the_plan_tells_the_rates(tmp_path: Path) -> None:
    found = planner.forecast(work(tmp_path, warmup=0.25, learning_rate=0.01))
    assert 0 < found.first_rate < found.peak_rate == 0.01
    assert 0 < found.last_rate < found.peak_rate
    assert re.match(r"plan: 16 steps in about \d+ s, \d+\.\d GB; rate 0\.002 first, 0\.01 at its peak", found.sentence())
