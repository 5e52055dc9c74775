"""QLoRA without a GPU: bitsandbytes has kernels for 4 bits on a CPU, too slow for work, and enough for a test."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adaptory import fingerprint
from adaptory.errors import RecipeError
from adaptory.training import adapter, certificate, devices, fused, methods, setup
from tests.training.toys import recipe, trajectory, work

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.nn.modules import Linear4bit

    made = Linear4bit.__init__

    def plain(self: Any, *words: Any, **more: Any) -> None:
        made(self, *words, **more)
        self.support_avx512bf16_for_cpu = False  # a kernel for answers alone

    monkeypatch.setattr(Linear4bit, "__init__", plain)
    monkeypatch.setattr(methods, "check_device", lambda settings: None)


@pytest.mark.parametrize(
    ("task", "kind"),
    [("sft", "causal"), ("classification", "encoder"), ("classification", "causal"), ("text", "encoder"), ("sft", "seq2seq")],
)
def test_it_learns_beside_blocks_of_4_bits_and_is_certified_when_it_is_loaded_again(tmp_path: Path, task: str, kind: str) -> None:
    one = work(tmp_path, task, kind, method="qlora", epochs=1, precision="bf16")
    few = [name for name, part in one.model.named_modules() if type(part).__name__ == "Linear4bit"]
    assert few and all("layer" in name or "block" in name for name in few), "heads are left whole: they train"
    losses = trajectory(one)
    assert len(losses) == 8
    fused.detach(one.model)
    folder, base = tmp_path / "candidate", tmp_path / kind
    folder.mkdir()
    digest = fingerprint.of_folder(base)
    adapter.save(one.model, one.goal.settings, folder, "./base", digest)
    made = recipe(task, method="qlora", epochs=1, precision="bf16")
    run: Any = SimpleNamespace(recipe=made, settings=made.training)
    golden = certificate.golden(one)
    certificate.write_golden(one, golden, folder, base, digest, run)  # the same bytes say exactly the same
    again = adapter.load(folder, base, digest, made.task, made.training, made.data.classes, merge=True)
    candidate: Any = SimpleNamespace(training=made.training, digest="sha256:x")
    certificate.certify(folder, candidate, one.goal, again)
    told = json.loads((folder / certificate.CERTIFICATE).read_text())
    assert told["difference"] <= told["limit"] == certificate.HALF


def test_weights_of_4_bits_are_not_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "sharded", lambda: True)
    with pytest.raises(RecipeError, match="unset ADAPTORY_SHARD"):
        setup._check_fits(SimpleNamespace(name="tokens"), SimpleNamespace(kind="causal"), recipe("sft", method="qlora").training)


def test_without_bitsandbytes_it_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(methods, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'adaptory\[qlora\]'"):
        methods.check_device(recipe("sft", method="qlora").training)
