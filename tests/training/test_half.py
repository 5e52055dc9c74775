"""What a GPU does, on a CPU: a frozen base held in bf16 and computed with in bf16; what trains stays in fp32."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptory import bases
from adaptory.training import adapter, answers, curve, devices, fit, network, render
from adaptory.training.certificate import golden_answers
from tests.training.toys import base, recipe, work


@pytest.fixture(autouse=True)
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that computes everything in bf16 where a recipe does not say fp32; autocast does the same on both devices."""
    monkeypatch.setattr(devices, "all_in_bf16", lambda device, precision: precision != "fp32")



@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "kind", "more"),
    [
        ("classification", "encoder", {}),
        ("classification", "causal", {}),
        ("regression", "encoder", {}),
        ("text", "encoder", {}),
        ("text", "causal", {}),
        ("sft", "causal", {}),
        ("sft", "causal", {"cache_trunk": True}),
        ("sft", "causal", {"packing": False}),
        ("sft", "seq2seq", {}),
        ("preference", "causal", {"objective": "reward"}),
        ("preference", "causal", {"objective": "dpo"}),
        ("sft", "causal", {"method": "dora"}),
        ("sft", "causal", {"method": "ia3", "learning_rate": 0.05}),
        ("sft", "causal", {"method": "prompt_tuning", "learning_rate": 0.1, "top_layers": None}),
    ],
)
def test_an_adapter_learns_in_fp32_on_a_base_in_bf16_and_answers_so_when_it_is_loaded(
    tmp_path: Path, task: str, kind: str, more: dict[str, Any]
) -> None:
    settings = {"precision": "bf16", "epochs": 4} | more
    one = work(tmp_path, task, kind, **settings)
    assert {weight.dtype for weight in one.model.parameters() if weight.requires_grad} == {torch.float32}
    bare = network.unwrapped(one.model).get_input_embeddings().weight
    assert bare.dtype == (torch.float32 if (task, kind) == ("text", "encoder") else torch.bfloat16)  # it is tied to a head there
    fit.fit(one)
    steps = [event["loss"] for event in curve.told(one.folder) if event["event"] == "step"]
    assert sum(steps[-8:]) < sum(steps[:8]), "the loss falls"
    if one.trunk:
        one.trunk.detach()
    from adaptory.training import fused

    fused.detach(one.model)
    golden = golden_answers(one.goal, one.model, one.validation[:6])
    (tmp_path / "saved").mkdir()
    place = tmp_path / kind
    adapter.save(one.model, one.goal.settings, tmp_path / "saved", "./base", bases.digest_of(place))
    made = recipe(task, **settings)
    again = adapter.load(
        tmp_path / "saved", place, bases.digest_of(place), made.task, made.training, made.data.classes, merge=True
    )
    assert golden_answers(one.goal, again, one.validation[:6]) == golden, "not merged into numbers too coarse for it"


@pytest.mark.parametrize("method", ["full", "freeze", "pissa", "head"])
def test_what_changes_the_base_holds_it_in_fp32(tmp_path: Path, method: str) -> None:
    top = {} if method in ("freeze", "pissa") else {"top_layers": None}
    one = recipe("classification", method=method, precision="bf16", **top)
    made = adapter.make(base(tmp_path / "encoder"), one.task, one.training, one.data.classes)
    assert {weight.dtype for weight in made.parameters()} == {torch.float32}


def test_answers_are_written_in_the_precision_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = work(tmp_path, "sft", "causal", precision="fp32")
    made = render.renderer(tmp_path / "causal", "sft", one.goal.settings, network.config_of(tmp_path / "causal"))
    asked: list[str] = []
    monkeypatch.setattr(devices, "computing", lambda device, precision: asked.append(precision) or nullcontext())
    answers.reply(one.model, made, one.goal, (), [{"prompt": "the film"}, {"prompt": "the film was"}], 3)
    assert asked == ["fp32"]


def test_fp32_is_fp32_on_any_device(tmp_path: Path) -> None:
    one = recipe("sft", precision="fp32")
    made = adapter.make(base(tmp_path / "causal", "causal"), one.task, one.training, one.data.classes)
    assert {weight.dtype for weight in made.parameters()} == {torch.float32}
