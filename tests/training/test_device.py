"""Nothing is computed beside the device that a model is on: what a GPU would refuse, a played device refuses here."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support import ROOT

_CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("classification", "encoder", {}),
    ("classification", "encoder", {"class_weights": "balanced", "cache_trunk": True}),
    ("classification", "encoder", {"method": "head", "cache_trunk": True, "top_layers": None}),
    ("classification", "encoder", {"method": "full", "top_layers": None}),
    ("classification", "causal", {"method": "rslora"}),
    ("pair_classification", "encoder", {"method": "freeze"}),
    ("regression", "encoder", {}),
    ("text", "encoder", {}),
    ("text", "causal", {}),
    ("sft", "causal", {}),
    ("sft", "causal", {"cache_trunk": True}),
    ("sft", "causal", {"packing": False, "dropout": 0.1}),
    ("sft", "causal", {"method": "dora"}),
    ("sft", "causal", {"method": "pissa"}),
    ("sft", "causal", {"method": "ia3"}),
    ("sft", "causal", {"method": "prompt_tuning", "top_layers": None}),
    ("sft", "seq2seq", {}),
    ("preference", "causal", {"objective": "reward"}),
    ("preference", "causal", {"objective": "dpo"}),
]


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    """What each training, and its model's answers, came to on the CPU and on the device."""
    command = [sys.executable, "-m", "tests.training.played", json.dumps(_CASES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(told) == len(_CASES), f"{_CASES[len(told)]}: {done.stderr[-3000:]}"
    return told


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(_CASES)), ids=lambda place: "-".join(map(str, _CASES[place])))
def test_a_training_on_a_device_is_that_on_the_cpu_and_its_model_answers_alike(found: list[dict[str, Any]], place: int) -> None:
    (losses, told, here), (there_losses, there_told, there) = found[place]["cpu"], found[place]["played"]
    assert (here, there) == ("cpu", "played:0")
    assert there_losses == pytest.approx(losses, rel=1e-3) and len(losses) > 5
    for ours, theirs in zip(told, there_told, strict=True):
        assert _words(theirs) == _words(ours) and _numbers(theirs) == pytest.approx(_numbers(ours), rel=1e-3, abs=2e-3)


def _words(answer: dict[str, Any]) -> list[str]:
    return [value for value in answer.values() if isinstance(value, str)]


def _numbers(answer: dict[str, Any]) -> list[float]:
    values = [value for value in answer.values() if isinstance(value, float)]
    return [*values, *answer.get("chances", {}).values()]
