"""The loop's habits: when it stops, whose weights it keeps, what decays, what is clipped, what a class weighs."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptory.errors import RecipeError
from adaptory.training import adapter, fit, objectives, validate, xray
from adaptory.training.work import begin, decay_groups
from tests.training.toys import base, recipe, table, trajectory, work


def scored(monkeypatch: pytest.MonkeyPatch, one: Any, scores: list[float]) -> list[str]:
    """Makes the validations find these scores; returns where the weights of each epoch will be noted."""
    seen: list[str] = []

    def validate(*_: Any) -> dict[str, float]:
        seen.append(adapter.digest_of_weights(one.model))
        return {"score": scores[len(seen) - 1], "validation_loss": 0.0, "validation_macro_f1": 0.0}

    monkeypatch.setattr(fit, "validate", validate)
    return seen


def test_patience_ends_a_training_that_gets_no_better_and_its_best_epoch_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = work(tmp_path, epochs=9, patience=2)
    seen = scored(monkeypatch, one, [0.1, 0.3, 0.3, 0.2, 0.9])
    state = fit.fit(one)
    assert state.epoch == 4 and state.step == 4 * one.steps_per_epoch < one.planned_steps
    assert state.gave_up(2) and not state.gave_up(None), "only patience may end it early"
    assert adapter.digest_of_weights(one.model) == seen[1], "of equal ones the earlier"
    assert len(set(seen)) == 4


def test_without_patience_every_epoch_is_trained_and_the_best_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = work(tmp_path, epochs=3)
    seen = scored(monkeypatch, one, [0.1, 0.3, 0.2])
    state = fit.fit(one)
    assert (state.epoch, state.step) == (3, one.planned_steps) and not state.gave_up(None)
    assert adapter.digest_of_weights(one.model) == seen[1]


def test_matrices_decay_and_biases_norms_and_scales_do_not(tmp_path: Path) -> None:
    one = work(tmp_path / "full", method="full", top_layers=None)
    names = {id(weight): name for name, weight in one.model.named_parameters()}
    decayed, kept = ([names[id(w)] for w in group["params"]] for group in decay_groups(dict(one.model.named_parameters()), 0.1))
    assert not any("bias" in name or "LayerNorm" in name for name in decayed)
    assert all("bias" in name or "LayerNorm" in name for name in kept) and decayed and kept
    scales = work(tmp_path / "ia3", "sft", "causal", method="ia3", top_layers=None, weight_decay=0.5)
    groups = begin(scales).optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.0], "an IA3 scale of 1 changes nothing; 0 silences a layer"


def test_no_step_follows_a_gradient_longer_than_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: Any, *words: Any) -> Any:
        grads = [weight.grad.norm() for group in self.param_groups for weight in group["params"]]
        norms.append(torch.stack(grads).norm().item())
        return step(self, *words)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    trajectory(work(tmp_path / "a", clip_norm=0.01))
    assert max(norms) == pytest.approx(0.01, rel=1e-3), "the loss of a new head is steeper than that"
    norms.clear()
    trajectory(work(tmp_path / "b", clip_norm=1e9))
    assert max(norms) > 0.1


def test_balanced_classes_weigh_as_scikit_learn_weighs_them(tmp_path: Path) -> None:
    import torch
    from sklearn.utils.class_weight import compute_sample_weight

    rows = table("classification", 40)
    rows = rows.filter((rows["label"] != "negative") | (rows["line"] % 4 == 0))
    one = work(tmp_path / "a", rows=rows, class_weights="balanced")
    some = one.train[:20]
    each, said = objectives.losses(one.goal, one.model, some, (0,))
    ours = each.sum() / sum(one.goal.weight(row) for row in some)
    targets = torch.tensor([int(row.target) for row in some])
    weights = compute_sample_weight("balanced", [int(row.target) for row in one.train])[:20]
    plain = torch.nn.functional.cross_entropy(said, targets, reduction="none")
    torch.testing.assert_close(ours, (plain * torch.tensor(weights, dtype=torch.float32)).mean())
    whole = trajectory(one)
    cut = trajectory(work(tmp_path / "b", rows=rows, class_weights="balanced", micro_tokens=40))
    assert cut == pytest.approx(whole, rel=2e-4, abs=2e-5)


def test_the_x_ray_of_a_reward_model_shows_the_two_tokens_that_are_scored(tmp_path: Path) -> None:
    from adaptory.training import network, render

    one = work(tmp_path, "preference", "causal", objective="reward")
    made = recipe("preference", objective="reward")
    place = base(tmp_path / "causal", "causal")
    page = xray.text(render.renderer(place, made.task, made.training, network.config_of(place)), one.goal, one.train)
    pairs = [line for line in page.splitlines() if line.startswith(("chosen: ", "rejected: "))]
    assert len(pairs) == 12 and all(line.count("[") == 1 and line.endswith("[<stop>]") for line in pairs)


@pytest.mark.parametrize(("key", "setting"), [("r", "rank"), ("lora_alpha", "alpha"), ("use_dora", "method")])
def test_a_key_of_peft_that_is_a_setting_of_ours_is_said_once(tmp_path: Path, key: str, setting: str) -> None:
    method = "dora" if key == "use_dora" else "lora"
    with pytest.raises(RecipeError, match=rf"'{key}' is said by training\.{setting}"):
        work(tmp_path, peft={key: 2}, method=method)


def test_patience_counts_on_after_a_stop_and_the_best_epoch_before_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = work(tmp_path, epochs=9, patience=2)
    seen = scored(monkeypatch, one, [0.1, 0.3, 0.3])
    fit.fit(one, 3 * one.steps_per_epoch + 1)
    again = work(tmp_path, epochs=9, patience=2)
    scored(monkeypatch, again, [0.2, 0.9])
    state = fit.fit(again)
    assert state.epoch == 4 and state.gave_up(2)
    assert adapter.digest_of_weights(again.model) == seen[1]


def test_what_earlier_attempts_took_is_counted(tmp_path: Path) -> None:
    one = work(tmp_path)
    fit.fit(replace(one, began=one.began - 100), 5)
    again = replace(work(tmp_path), began=one.began)
    state = fit.fit(again)
    assert 100 < state.wall(again.began) < 200


def test_a_network_that_was_trained_is_gone_before_the_next_one_is_loaded(tmp_path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        one = work(tmp_path, "sft", "causal", epochs=1)
        trajectory(one)
        held = [weakref.ref(weight) for weight in one.model.parameters()]
        del one
        assert any(weight() is not None for weight in held), "it holds itself"
        work(tmp_path, "sft", "causal")
        assert all(weight() is None for weight in held)
    finally:
        gc.enable()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_the_macro_f1_of_an_epoch_is_scikit_learns(rows: list[tuple[int, int]]) -> None:
    from sklearn import metrics

    targets, picked = np.array(rows).T
    theirs = metrics.f1_score(targets, picked, average="macro", zero_division=0)
    assert validate._macro_f1(targets, picked, 4) == pytest.approx(theirs, abs=1e-12)
