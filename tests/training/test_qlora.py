"""QLoRA without a GPU: bitsandbytes has kernels for 4 bits on a CPU, too slow for work, and enough for a test."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from adaptory.errors import RecipeError, StageError
from adaptory.training import certificate, devices, methods, setup
from tests.support import ROOT
from tests.training.toys import recipe


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with bitsandbytes as constraints.txt has it; beside the others it would slow every import of peft."""
    folder = tmp_path_factory.mktemp("bitsandbytes")
    pin = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("bitsandbytes=="))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), pin]
    subprocess.run(install, check=True)
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "kind"),
    [("sft", "causal"), ("classification", "encoder"), ("classification", "causal"), ("text", "encoder"), ("sft", "seq2seq")],
)
def test_it_learns_beside_blocks_of_4_bits_and_is_certified_when_it_is_loaded_again(
    four_bits: dict[str, str], tmp_path: Path, task: str, kind: str
) -> None:
    command = [sys.executable, "-m", "tests.training.four_bits", task, kind, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=four_bits, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["few"] and all("layer" in name or "block" in name for name in told["few"]), "heads are left whole: they train"
    assert len(told["losses"]) == 8
    assert told["certificate"]["difference"] <= told["certificate"]["limit"] == certificate.HALF


def test_weights_of_4_bits_are_not_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "sharded", lambda: True)
    with pytest.raises(StageError, match="unset ADAPTORY_SHARD"):
        setup._check_fits(SimpleNamespace(name="tokens"), SimpleNamespace(kind="causal"), recipe("sft", method="qlora").training)


def test_without_bitsandbytes_it_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(methods, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'adaptory\[qlora\]'"):
        methods.check_device(recipe("sft", method="qlora").training)
