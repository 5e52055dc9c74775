"""The certificate: only a model that answers as the trained one did is evaluated, and only rendered as it was trained."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from adaptory import fingerprint
from adaptory.errors import StageError
from adaptory.release import serving
from adaptory.training import adapter, certificate, fused, network, render
from tests.training.toys import recipe, trajectory, work


@pytest.fixture(params=[("classification", "encoder", "lora"), ("sft", "causal", "lora"), ("sft", "causal", "freeze")])
def trained(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """A training that was saved with its golden answers, and everything that loading it again needs."""
    task, kind, method = request.param
    one = work(tmp_path, task, kind, method=method, epochs=1)
    first = adapter.save_first(one.model, one.goal.settings, tmp_path / "first")
    trajectory(one)
    fused.detach(one.model)
    base, folder = tmp_path / kind, tmp_path / "candidate"
    folder.mkdir()
    digest = fingerprint.of_folder(base)
    adapter.save(one.model, one.goal.settings, folder, "./base", digest, first)
    made = recipe(task, method=method, epochs=1, precision="fp32")
    run = SimpleNamespace(recipe=made, settings=made.training)
    return SimpleNamespace(one=one, folder=folder, base=base, digest=digest, run=run, task=task, made=made)


def loaded(it: Any) -> Any:
    return adapter.load(it.folder, it.base, it.digest, it.task, it.made.training, it.made.data.classes)


def test_a_model_that_was_loaded_again_is_certified_and_one_with_a_weight_moved_is_refused(trained: Any) -> None:
    import torch

    golden = certificate.golden(trained.one)
    certificate.write_golden(trained.one, golden, trained.folder, trained.base, trained.digest, trained.run)
    candidate: Any = SimpleNamespace(training=trained.made.training, digest="sha256:x")
    certificate.certify(trained.folder, candidate, trained.one.goal, loaded(trained))
    told = json.loads((trained.folder / certificate.CERTIFICATE).read_text())
    assert told["rows"] == 8 and told["difference"] <= told["limit"]
    (trained.folder / certificate.CERTIFICATE).unlink()
    other = loaded(trained)
    moved = [weight for name, weight in other.named_parameters() if "lora_B" in name or ".3." in name]
    with torch.no_grad():
        moved[-1].view(-1)[0] += 0.5
    with pytest.raises(StageError, match=r"answers otherwise than the trained one .* it is not evaluated"):
        certificate.certify(trained.folder, candidate, trained.one.goal, other)
    assert not (trained.folder / certificate.CERTIFICATE).exists()


def test_an_adapter_that_was_not_saved_as_it_was_trained_is_no_candidate(trained: Any) -> None:
    import torch

    with torch.no_grad():  # what was trained is not what lies on the disk
        for weight in trained.one.model.parameters():
            if weight.requires_grad:
                weight += 0.1
    golden = certificate.golden(trained.one)
    with pytest.raises(StageError, match="the saved adapter answers otherwise"):
        certificate.write_golden(trained.one, golden, trained.folder, trained.base, trained.digest, trained.run)


def test_rows_that_would_be_rendered_otherwise_than_in_training_are_refused(trained: Any) -> None:
    made = render.renderer(trained.base, trained.task, trained.made.training, network.config_of(trained.base))
    made.tokenizer.save_pretrained(trained.folder)
    candidate: Any = SimpleNamespace(task=trained.task, training=trained.made.training, rendering=made.digest)
    assert certificate.rendered_with(trained.folder, trained.base, candidate).digest == made.digest
    vocabulary = trained.folder / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace('"lovely"', '"lovelier"'))
    with pytest.raises(StageError, match="renders rows otherwise than in training"):
        certificate.rendered_with(trained.folder, trained.base, candidate)


@pytest.mark.parametrize(
    ("then", "now", "certified"), [(False, False, False), (True, True, True), (True, False, True), (False, True, True)]
)
def test_the_mean_is_asked_only_where_one_of_two_held_the_base_in_few_digits(
    tmp_path: Path, then: bool, now: bool, certified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"rows": [{"row": str(n), "ids": [1]} for n in range(8)], "answers": [[1.0]] * 8, "half": then}
    (tmp_path / certificate.GOLDEN).write_text(json.dumps(told))
    monkeypatch.setattr(network, "rounds", lambda settings: now)
    monkeypatch.setattr(certificate, "golden_answers", lambda *words: [[1.3], *[[1.0]] * 7])
    candidate: Any = SimpleNamespace(training=recipe().training, digest="sha256:x")
    if certified:
        certificate.certify(tmp_path, candidate, None, None)
        monkeypatch.setattr(certificate, "golden_answers", lambda *words: [[1.3]] * 8)
    with pytest.raises(StageError, match="answers otherwise"):
        certificate.certify(tmp_path, candidate, None, None)


def test_a_base_that_is_held_in_bf16_is_judged_by_the_mean() -> None:
    first, near, far = [[1.0, 2.0], [3.0]], [[1.2, 2.0], [3.0]], [[1.2, 2.1], [3.2]]
    apart, limit = certificate.difference(first, near, 1e-3, half=False)
    assert apart == pytest.approx(0.2) and limit == 1e-3
    apart, limit = certificate.difference(first, near, 1e-3, half=True)
    assert apart == pytest.approx(0.2 / 3) and apart <= limit
    apart, limit = certificate.difference(first, far, 1e-3, half=True)
    assert apart > limit
    assert not certificate.difference(first, [[1.0, math.nan], [3.0]], 1e-3, half=True)[0] <= limit


@pytest.mark.parametrize("told_then", [{}, {"half": True}, {"computed": True}])
def test_an_example_that_was_answered_in_bf16_may_be_answered_nearly_so(tmp_path: Path, told_then: dict[str, bool]) -> None:
    told = [{"label": "negative", "chances": {"negative": 0.51, "positive": 0.49}}, {"answer": "bonjour"}]
    example = [{"asked": {"text": str(place)}, "told": answer} for place, answer in enumerate(told)]
    (tmp_path / "example.json").write_text(json.dumps(example))
    (tmp_path / certificate.GOLDEN).write_text(json.dumps({"rows": [], "answers": [], **told_then}))
    now: list[dict[str, Any]] = [{"label": "positive", "chances": {"negative": 0.48, "positive": 0.52}}, {"answer": "salut"}]

    def loaded(asked: Any) -> Any:
        return now

    loaded.candidate = SimpleNamespace(training=recipe().training)  # type: ignore[attr-defined]
    told_wrong = serving.other_answers(cast(Any, loaded), tmp_path)
    assert len(told_wrong) == (0 if told_then else 2)
    now[0]["chances"] = {"negative": 0.1, "positive": 0.9}
    assert len(serving.other_answers(cast(Any, loaded), tmp_path)) == (1 if told_then else 2)


def test_the_second_model_takes_the_room_of_the_first(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    load, left, called = adapter.load, [], []

    def watched(*told: Any) -> Any:
        left.extend(trained.one.model.parameters())
        called.append(True)
        return load(*told)

    monkeypatch.setattr(adapter, "load", watched)
    golden = certificate.golden(trained.one)
    certificate.write_golden(trained.one, golden, trained.folder, trained.base, trained.digest, trained.run)
    assert called and not left
