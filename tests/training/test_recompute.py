"""Activations that find no room are computed again: the same training, bit for bit, in less memory."""

from pathlib import Path
from typing import Any

import pytest

from adaptory.errors import PlanError
from adaptory.training import adapter, devices, fit, objectives, planner, recompute
from adaptory.training.work import Work
from tests.training.toys import trajectory, work


@pytest.mark.parametrize(
    ("task", "kind", "training"),
    [
        ("classification", "encoder", {"top_layers": 4}),
        ("classification", "encoder", {"method": "full", "top_layers": None}),
        ("text", "encoder", {"dropout": 0.3}),
        ("sft", "causal", {"top_layers": 4}),
        ("sft", "causal", {"top_layers": 3, "precision": "bf16"}),
        ("sft", "causal", {"top_layers": 4, "packing": False, "dropout": 0.3}),
        ("sft", "causal", {"top_layers": 2, "cache_trunk": True}),
        ("sft", "causal", {"method": "prompt_tuning", "top_layers": None}),
        ("preference", "causal", {"top_layers": 4, "objective": "dpo"}),
        ("preference", "causal", {"method": "dora", "top_layers": 4, "objective": "reward"}),
        ("sft", "seq2seq", {"top_layers": 4}),
    ],
)
def test_computed_again_is_the_same_training(tmp_path: Path, task: str, kind: str, training: dict[str, Any]) -> None:
    kept, again = (work(tmp_path / name, task, kind, **training) for name in "ab")
    assert recompute.attach(again.model) and not recompute.attached(kept.model)
    assert trajectory(again) == trajectory(kept)
    assert adapter.digest_of_weights(again.model) == adapter.digest_of_weights(kept.model)


@pytest.mark.parametrize(("task", "kind"), [("classification", "encoder"), ("sft", "causal"), ("sft", "seq2seq")])
def test_blocks_keep_little_more_than_what_they_read(tmp_path: Path, task: str, kind: str) -> None:
    one = work(tmp_path, task, kind, top_layers=4, micro_tokens=2000, batch_rows=60)
    plain = kept(one)
    recompute.attach(one.model)
    assert kept(one) < 0.5 * plain


def kept(one: Work) -> int:
    """Bytes that a forward pass keeps for its backward pass, each once."""
    import torch

    found: dict[int, int] = {}

    def note(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {weight.untyped_storage().data_ptr() for weight in one.model.parameters()}
    one.model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = objectives.losses(one.goal, one.model, one.train, (0, 0))[0]
    assert losses.requires_grad
    return sum(size for place, size in found.items() if place not in weights)


def hungry(monkeypatch: pytest.MonkeyPatch, *, needs: float, again: float) -> None:
    """A machine on which a batch takes so many GB, and so many with activations computed again."""
    taken = [1.0]

    def compute(work: Any, rows: list[int]) -> float:
        taken[0] = max(taken[0], again if recompute.attached(work.model) else needs)
        if taken[0] > 10:
            raise RuntimeError("not enough memory: you tried to allocate")
        return 0.01

    monkeypatch.setattr(planner, "_compute", compute)
    monkeypatch.setattr(devices, "peak_memory", lambda device: taken[0])
    monkeypatch.setattr(devices, "forget_peak", lambda device: taken.__setitem__(0, 1.0))
    monkeypatch.setattr(devices, "capacity", lambda device: 9.0)


@pytest.mark.parametrize(("needs", "memory"), [(3.0, 2.5), (9.5, None), (30.0, None)])
def test_a_plan_that_finds_no_room_otherwise_computes_again_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: float, memory: float | None
) -> None:
    hungry(monkeypatch, needs=needs, again=2.0)
    one = work(tmp_path, "sft", "causal", memory=memory)
    found = planner.forecast(one)
    assert found.recomputes and recompute.attached(one.model) and 2.25 <= found.memory < 2.3, "a quarter more than 1 + 1"
    assert found.sentence().endswith("; activations are computed again in the backward pass, for all of them would not find room")


def test_a_plan_that_finds_room_keeps_activations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hungry(monkeypatch, needs=2.1, again=2.0)
    one = work(tmp_path, "sft", "causal", memory=2.5)
    found = planner.forecast(one)
    assert not found.recomputes and not recompute.attached(one.model) and "again" not in found.sentence()


@pytest.mark.parametrize(("again", "said"), [(3.5, r"takes 4\.1\d GB, more than training\.memory"), (11.0, "does not fit")])
def test_a_plan_that_finds_no_room_even_so_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: float, said: str
) -> None:
    hungry(monkeypatch, needs=30.0, again=again)
    with pytest.raises(PlanError, match=said):
        planner.forecast(work(tmp_path, "sft", "causal", memory=2.5))


def test_a_training_that_goes_on_computes_again_as_it_did(tmp_path: Path) -> None:
    """The trials of a search do not make a plan twice."""
    whole = work(tmp_path / "a", "sft", "causal")
    losses = trajectory(whole)
    first = work(tmp_path / "b", "sft", "causal")
    recompute.attach(first.model)
    fit.fit(first, 5)
    second = work(tmp_path / "b", "sft", "causal")
    assert trajectory(second) == losses and recompute.attached(second.model)
    assert adapter.digest_of_weights(second.model) == adapter.digest_of_weights(whole.model)
