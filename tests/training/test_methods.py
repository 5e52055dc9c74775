"""Every method trains what it says and nothing else, saves it, and the saved thing answers as the trained one did."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adaptory import bases
from adaptory.errors import BaseModelError, RecipeError, ReleaseError
from adaptory.release.prepacked import prepack
from adaptory.training import adapter, answers, curve, fit, forward, fused, methods, network, objectives, render, setup
from adaptory.training.certificate import golden_answers
from adaptory.training.render import Example
from tests.training.toys import base, recipe, work

LIKE_LORA = ["lora", "rslora", "dora", "pissa", "ia3"]
EVERY = [*LIKE_LORA, "prompt_tuning", "full", "freeze"]


def settings(method: str, **more: Any) -> dict[str, Any]:
    rate = {"prompt_tuning": 0.1, "ia3": 0.05, "full": 0.002, "freeze": 0.002}.get(method, 0.01)
    top = {"top_layers": None} if method in ("full", "prompt_tuning", "head") else {}
    return {"method": method, "learning_rate": rate, "epochs": 4} | top | more


@pytest.mark.slow
@pytest.mark.parametrize("method", [*EVERY, "head"])
def test_a_classifier_learns_by_every_method_and_is_loaded_as_it_was_trained(tmp_path: Path, method: str) -> None:
    _learns(tmp_path, "classification", "encoder", method)


@pytest.mark.slow
@pytest.mark.parametrize("method", EVERY)
def test_a_causal_network_learns_answers_by_every_method(tmp_path: Path, method: str) -> None:
    _learns(tmp_path, "sft", "causal", method)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "kind", "more"),
    [
        ("regression", "encoder", {}),
        ("pair_classification", "encoder", {}),
        ("classification", "causal", {}),
        ("text", "encoder", {}),
        ("text", "causal", {}),
        ("sft", "seq2seq", {}),
        ("preference", "causal", {"objective": "reward"}),
        ("preference", "causal", {"objective": "dpo"}),
    ],
)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_every_task_is_learned(tmp_path: Path, task: str, kind: str, more: dict[str, Any], method: str) -> None:
    _learns(tmp_path, task, kind, method, **more)


def _learns(folder: Path, task: str, kind: str, method: str, **more: Any) -> None:
    one = work(folder, task, kind, **settings(method, **more))
    first = adapter.save_first(one.model, one.goal.settings, folder / "first")
    before = adapter.digest_of_weights(one.model)
    frozen = {n: w.detach().clone() for n, w in one.model.named_parameters() if not w.requires_grad}
    state = fit.fit(one)
    losses = [event["validation_loss"] for event in curve.told(one.folder) if event["event"] == "epoch"]
    if "classification" not in task:  # of classes, the macro F1 chooses
        assert state.best["validation_loss"] == min(losses)
    steps = [event["loss"] for event in curve.told(one.folder) if event["event"] == "step"]
    assert sum(steps[-8:]) < sum(steps[:8]), "the loss falls"
    assert adapter.digest_of_weights(one.model) != before
    for name, weight in one.model.named_parameters():
        if name in frozen:
            assert weight.equal(frozen[name]), f"{name} is frozen and moved"
    saved = folder / "saved"
    saved.mkdir()
    place = folder / kind
    digest = adapter.save(one.model, one.goal.settings, saved, "./base", bases.digest_of(place), first)
    assert digest.startswith("sha256:")
    made = recipe(task, **settings(method, **more))
    fused.detach(one.model)
    golden = golden_answers(one.goal, one.model, one.validation[:6])
    for merge in (False, True):
        again = adapter.load(saved, place, bases.digest_of(place), made.task, made.training, made.data.classes, merge=merge)
        found = golden_answers(one.goal, again, one.validation[:6])
        for first_row, second_row in zip(golden, found, strict=True):
            exact = not merge and method != "pissa"
            assert second_row == (first_row if exact else pytest.approx(first_row, rel=2e-3, abs=2e-3)), (method, merge)


def test_only_the_top_blocks_and_the_head_train(tmp_path: Path) -> None:
    for method in ("lora", "freeze"):
        one = work(tmp_path / method, method=method, top_layers=1)
        names = [name for name, weight in one.model.named_parameters() if weight.requires_grad]
        assert {network._BLOCK.search(name)[1] for name in names if network._BLOCK.search(name)} == {"3"}
        assert any("classifier" in name for name in names) and any("pooler" in name for name in names)


def test_layers_can_be_named(tmp_path: Path) -> None:
    one = work(tmp_path, method="freeze", top_layers=None, layers=["LayerNorm"])
    names = [name for name, weight in one.model.named_parameters() if weight.requires_grad]
    assert all("LayerNorm" in name or "classifier" in name or "pooler" in name for name in names)
    with pytest.raises(RecipeError, match=r"no parameter's name contains LayerNorn; names are like"):
        work(tmp_path, method="freeze", top_layers=None, layers=["LayerNorn"])


def test_autograd_stops_at_the_lowest_trained_block(tmp_path: Path) -> None:
    """Gradient checkpointing leaves a hook that makes the embeddings require a gradient, and freezing gains nothing then."""
    one = work(tmp_path, top_layers=1)
    seen = []
    inner = network.unwrapped(one.model)
    inner.bert.embeddings.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    inner.bert.encoder.layer[2].register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    inner.bert.encoder.layer[3].register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    one.model.train()
    objectives.losses(one.goal, one.model, one.train[:4], (0, 0))[0].sum().backward()
    assert seen == [False, False, True]


@pytest.mark.parametrize(
    ("peft", "said"),
    [
        ({"use_rlora": True}, "LoraConfig has no key 'use_rlora'; did you mean 'use_dora'|did you mean 'use_rslora'"),
        ({"zzz": 1}, "LoraConfig has no key 'zzz'; see peft.LoraConfig"),
        ({"init_lora_weights": "no such thing"}, "refuses|no such thing"),
    ],
)
def test_an_unknown_key_of_peft_is_refused_with_the_nearest(tmp_path: Path, peft: dict[str, Any], said: str) -> None:
    with pytest.raises((RecipeError, ValueError), match=said):
        work(tmp_path, peft=peft)


def test_a_key_of_peft_is_passed_through(tmp_path: Path) -> None:
    one = work(tmp_path, peft={"rank_pattern": {"query": 2}, "bias": "lora_only"})
    assert one.model.peft_config["default"].bias == "lora_only"
    ranks = {weight.shape[0] for name, weight in one.model.named_parameters() if "query.lora_A" in name}
    assert ranks == {2}


def test_qlora_is_refused_without_a_gpu_with_the_reason(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(RecipeError, match=r"method 'qlora' needs an NVIDIA GPU.*Use method 'lora'"):
        work(tmp_path, method="qlora")


@pytest.mark.gpu
def test_qlora_learns_on_a_gpu(tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    _learns(tmp_path, "sft", "causal", "qlora")


@pytest.mark.parametrize(
    ("task", "changes", "said"),
    [
        ("classification", {"layers": ["x"]}, "names parameters for method 'freeze'"),
        ("classification", {"method": "freeze", "top_layers": None}, "what may train"),
        ("sft", {"method": "head"}, "needs a task with a head of its own"),
        ("classification", {"method": "full", "start": "other"}, "makes none"),
        ("sft", {"class_weights": "balanced"}, "has none"),
        ("classification", {"cache_trunk": True, "top_layers": None}, "needs training.top_layers"),
        ("classification", {"method": "full", "top_layers": None, "peft": {"bias": "all"}}, "makes none"),
    ],
)
def test_settings_that_cannot_go_together_are_refused_when_the_recipe_is_read(task: str, changes: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        recipe(task, **changes)


def test_more_top_layers_than_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="top_layers is 9, but the base has 4 blocks"):
        work(tmp_path, top_layers=9)


def test_the_same_seed_starts_from_the_same_bytes_and_another_seed_from_others(tmp_path: Path) -> None:
    digests = [adapter.digest_of_weights(work(tmp_path, seed=seed).model) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    one = work(tmp_path, method="freeze")
    saved = tmp_path / "saved"
    saved.mkdir()
    adapter.save(one.model, one.goal.settings, saved, "./base", "sha256:0")
    made, other = recipe("text", method="freeze"), base(tmp_path / "causal", "causal")
    with pytest.raises(ReleaseError, match="these weights are of another network"):
        adapter.load(saved, other, bases.digest_of(other), made.task, made.training, ())


def test_a_new_adapter_can_start_from_a_trained_one_whatever_its_task(tmp_path: Path) -> None:
    """Supervised tuning, then a reward model and preferences on it: one line of adapters."""
    first = work(tmp_path, "sft", "causal")
    fit.fit(first)
    saved = tmp_path / "saved"
    saved.mkdir()
    adapter.save(first.model, first.goal.settings, saved, "./base", "sha256:0")
    theirs = adapter.trained(first.model)
    for objective in ("dpo", "reward"):
        second = work(tmp_path, "preference", "causal", objective=objective)
        adapter.start_from(second.model, saved, "toy v1")
        ours = {name: weight for name, weight in adapter.trained(second.model).items() if "lora_" in name}
        assert ours and all(weight.equal(theirs[name]) for name, weight in ours.items())
    with pytest.raises(RecipeError, match=r"the adapter of toy v1 does not fit .* same method, rank and top_layers"):
        adapter.start_from(work(tmp_path, "preference", "causal", rank=2).model, saved, "toy v1")


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "ia3"])
def test_an_adapter_of_each_kind_goes_on_from_one_of_its_kind(tmp_path: Path, method: str) -> None:
    first = work(tmp_path, "sft", "causal", method=method, epochs=1)
    fit.fit(first)
    saved = tmp_path / "saved"
    saved.mkdir()
    adapter.save(first.model, first.goal.settings, saved, "./base", "sha256:0")
    second = work(tmp_path, "sft", "causal", method=method)
    adapter.start_from(second.model, saved, "toy v1")
    assert adapter.digest_of_weights(second.model) == adapter.digest_of_weights(first.model)


def test_parameters_are_counted(tmp_path: Path) -> None:
    one = work(tmp_path, "sft", "causal", method="full", top_layers=None)
    assert methods.count(one.model)[0] == methods.count(one.model)[1]
    trained, every = methods.count(work(tmp_path, "sft", "causal", method="lora").model)
    assert 0 < trained < every / 5


@pytest.mark.parametrize("more", [{"method": "full", "top_layers": 2}, {"method": "freeze", "layers": ["embed_tokens"]}])
def test_what_a_kept_trunk_depends_on_must_not_train(tmp_path: Path, more: dict[str, Any]) -> None:
    one = work(tmp_path, "sft", "causal", **{"top_layers": None, **more})
    with pytest.raises(RecipeError, match="below them would train"):
        setup._check_untouched(one.model, 2)
    setup._check_untouched(work(tmp_path, "sft", "causal", method="lora", top_layers=2).model, 2)


def test_rows_are_judged_one_by_one_also_where_training_packed_them(tmp_path: Path) -> None:
    one = work(tmp_path, "text", "causal")
    made = render.renderer(tmp_path / "causal", "text", one.goal.settings, network.config_of(tmp_path / "causal"))
    goal = objectives.to_answer("tokens", one.goal.settings, made)
    total, count = answers.losses(one.model, goal, one.train[:5])
    assert count.tolist() == [goal.weight(row) for row in one.train[:5]]
    for place, row in enumerate(one.train[:5]):
        alone = answers.losses(one.model, goal, [row])[0]
        assert total[place] == pytest.approx(alone[0], rel=1e-4)


def test_answers_do_not_depend_on_the_batch_and_end_at_any_stop_of_the_base(tmp_path: Path) -> None:
    """Left padding, several prompts at once, and a base with penalties and a second stop token of its own."""
    one = work(tmp_path, "sft", "causal")
    made = render.renderer(tmp_path / "causal", "sft", one.goal.settings, network.config_of(tmp_path / "causal"))
    inner = network.unwrapped(one.model)
    inner.generation_config.repetition_penalty = 1.7
    inner.generation_config.eos_token_id = [made.stop, 7]
    prompts = [row.ids[: row.start] for row in one.train[:9]]
    together = answers.generate(one.model, made, prompts, 12)
    alone = [answers.generate(one.model, made, [prompt], 12) for prompt in prompts]
    assert together[0] == [texts[0] for texts, _ in alone]
    assert together[1] == [stopped[0] for _, stopped in alone]
    ends = made.tokenizer.decode([7])
    assert all(ends not in text.split() for text in together[0])
    assert inner.generation_config.repetition_penalty in (None, 1.0)


def test_a_head_on_a_causal_base_reads_the_last_token_of_the_row_whatever_stands_beside_it(tmp_path: Path) -> None:
    one = work(tmp_path, "classification", "causal")
    together = answers.outputs(one.model, one.goal, one.train[:8])
    for place, row in enumerate(one.train[:8]):
        assert answers.outputs(one.model, one.goal, [row])[0] == pytest.approx(together[place], rel=1e-4, abs=1e-5)


def test_a_network_whose_weights_were_reordered_to_answer_says_the_same_and_so_do_its_copies(tmp_path: Path) -> None:
    import copy

    import torch

    one = work(tmp_path, "classification", "encoder")
    model = adapter.merged(one.model, one.goal.settings).eval()
    usual = answers.outputs(model, one.goal, one.train)
    layers = sum(type(layer) is torch.nn.Linear for layer in model.modules())
    assert prepack(model) == layers > 0
    assert not any(type(layer) is torch.nn.Linear for layer in model.modules())
    for again in (model, copy.deepcopy(model)):
        assert answers.outputs(again, one.goal, one.train) == pytest.approx(usual, abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert"])
def test_a_head_that_reads_the_first_token_answers_the_same_when_only_that_token_is_finished(kind: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    config = AutoConfig.for_model(kind, num_labels=3, max_position_embeddings=64, initializer_range=0.5, **sizes)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    rows = [Example(str(n), [2, *torch.randint(5, 50, (3 + n,)).tolist()], types=[0] * 2 + [1] * (2 + n)) for n in range(26)]
    if kind != "bert":
        rows = [replace(row, types=None) for row in rows]
    batch = forward.collate(rows, 1)
    with torch.inference_mode():
        whole = forward.row_logits(model, batch)
        with forward.first_token_only(model, batch):
            short = forward.row_logits(model, batch)
        assert torch.equal(forward.row_logits(model, batch), whole), "it ends with the block"
        one = forward.joined(model, rows)
        assert (one is not None) == (kind != "distilbert")
        if one is not None:
            assert one.ids.shape == (1, sum(len(row.ids) for row in rows))
            with forward.first_token_only(model, one):
                assert torch.allclose(forward.row_logits(model, one), whole, atol=1e-3), "no row sees another"
            assert forward.joined(model, rows[:1] * 6) is None, "nothing is padded: nothing to save"
    assert torch.allclose(short, whole, atol=1e-5) and whole.std() > 0.01
