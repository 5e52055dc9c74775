"""What is minimised, held to its formula written out, and what a training may never hand on."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptory.errors import StageError
from adaptory.evaluation import respond
from adaptory.training import adapter, answers, candidate, fit, forward, network, objectives, render, trunk
from tests.training.toys import base, recipe, table, work

BASE = f"sha256:{'0' * 64}"


def loaded(one: Any, folder: Path, kind: str, task: str, **training: Any) -> respond.Loaded:
    made = recipe(task, **training)
    place = base(folder / kind, kind)
    return respond.Loaded(one.model, render.renderer(place, made.task, made.training, network.config_of(place)), one.goal)


def test_dpo_is_the_loss_of_its_paper_against_the_start(tmp_path: Path) -> None:
    """Rafailov et al. 2023, equation 7: at the start everything is log 2, and the start's own preference counts for nothing."""
    one = work(tmp_path, "preference", "causal", objective="dpo", dropout=0.0, epochs=1)
    start = answers.references(one.model, one.goal, one.train, None)
    assert len({round(a - b, 3) for a, b in start}) > 10, "the start does prefer"
    first, lead = objectives.losses(one.goal, one.model, one.train, (0, 0), start)
    assert first.tolist() == pytest.approx([math.log(2)] * len(one.train), abs=1e-5) and float(lead.abs().max()) < 1e-4
    fit.fit(one)
    with torch.no_grad():
        after, lead = objectives.losses(one.goal, one.model, one.train, (0, 0), start)
    now = np.array(answers.references(one.model, one.goal, one.train, None))
    margins = one.goal.settings.beta * ((now[:, 0] - now[:, 1]) - (np.array(start)[:, 0] - np.array(start)[:, 1]))
    assert after.tolist() == pytest.approx(np.log1p(np.exp(-margins)).tolist(), rel=1e-3)
    assert lead.tolist() == pytest.approx(margins.tolist(), abs=1e-4) and np.abs(margins).mean() > 0.01


def test_an_answer_under_dpo_is_scored_against_the_reference(tmp_path: Path) -> None:
    one = work(tmp_path, "preference", "causal", objective="dpo")
    made = recipe("preference", objective="dpo")
    held = loaded(one, tmp_path, "causal", "preference", objective="dpo")
    rows = table("preference", 8)
    alone = respond.respond("it", "candidate", held, made, rows).score
    against_itself = respond.respond("it", "candidate", held, made, rows, held).score
    assert alone is not None and against_itself is not None
    assert np.abs(alone).min() > 1e-3 and np.abs(against_itself).max() < 1e-4


def test_of_ten_guessed_tokens_eight_are_hidden_one_is_another_and_one_stays(tmp_path: Path) -> None:
    """Devlin et al. 2019, section 3.1."""
    one = work(tmp_path, "text", "encoder", count=400, masked=0.5)
    batch, plain = objectives.prepared(one.goal, one.train, (0, 1)), forward.collate(one.train, one.goal.pad)
    guessed = batch.labels != forward.IGNORED
    assert batch.labels[guessed].tolist() == plain.ids[guessed].tolist(), "what is to be guessed is what stood there"
    assert batch.ids[~guessed].tolist() == plain.ids[~guessed].tolist(), "nothing else is touched"
    hidden = (batch.ids[guessed] == one.goal.mask_token).float().mean()
    stays = (batch.ids[guessed] == batch.labels[guessed]).float().mean()
    assert int(guessed.sum()) > 1000
    assert float(hidden) == pytest.approx(0.8, abs=0.05) and float(stays) == pytest.approx(0.1, abs=0.05)


@pytest.mark.slow
def test_values_are_answered_in_their_own_unit(tmp_path: Path) -> None:
    """They are learned standardised."""
    rows = table("regression", 120)
    rows = rows.with_columns(value=rows["value"] * 50 + 400)
    one = work(tmp_path, "regression", "encoder", rows=rows, epochs=4)
    fit.fit(one)
    held = loaded(one, tmp_path, "encoder", "regression")
    said = respond.respond("it", "candidate", held, recipe("regression"), rows).score
    told = answers.reply(one.model, held.made, one.goal, (), [{"text": text} for text in rows["text"]], 4)
    assert said is not None and [one["value"] for one in told] == pytest.approx(said.tolist(), rel=1e-3)
    assert np.corrcoef(said, rows["value"])[0, 1] > 0.5 and said.mean() == pytest.approx(rows["value"].mean(), rel=0.05)


def test_a_candidate_that_learned_nothing_or_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    one = work(tmp_path, epochs=1)
    start = adapter.digest_of_weights(one.model)
    with pytest.raises(StageError, match="training left every weight as it was"):
        candidate._check_trained(one.model, start)
    fit.fit(one)
    candidate._check_trained(one.model, start)
    name, weight = next((name, weight) for name, weight in one.model.named_parameters() if weight.requires_grad)
    with torch.no_grad():
        weight.view(-1)[3] = float("inf")
    with pytest.raises(StageError, match=rf"the trained weight {name} is not finite"):
        candidate._check_trained(one.model, start)


def test_kept_states_are_of_one_base_rendering_depth_and_kind_of_weights() -> None:
    """They are found by their tokens alone: states of another network would be handed on without a word."""
    facts = [
        trunk.key(BASE, "rendering", 4), trunk.key("sha256:1", "rendering", 4), trunk.key(BASE, "another", 4),
        trunk.key(BASE, "rendering", 5), trunk.key(BASE, "rendering", 4, quantised=True),
        trunk.key(BASE, "rendering", 4, half=True),
    ]  # fmt: skip
    assert len(set(facts)) == len(facts) and trunk.key(BASE, "rendering", 4) == facts[0]
