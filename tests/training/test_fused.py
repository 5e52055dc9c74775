"""A LoRA layer in one step: what peft computes, in fp32 to the last digits, in bf16 to its rounding and in bounded memory."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adaptory import workspace
from adaptory.training import devices, fused, objectives
from tests.training.toys import unfused, work


@pytest.mark.parametrize(("task", "kind"), [("classification", "encoder"), ("sft", "causal"), ("sft", "seq2seq")])
@pytest.mark.parametrize("top_layers", [None, 2])
def test_a_fused_lora_step_gives_the_plain_gradients(tmp_path: Path, task: str, kind: str, top_layers: int | None) -> None:
    import torch

    one = unfused(tmp_path, task, kind, top_layers=top_layers)
    one.model.double()  # so that another order of additions does not hide another sum
    with torch.no_grad():
        for name, weight in one.model.named_parameters():
            if "lora_B" in name:  # which are zero at the start
                weight.normal_(std=0.1)

    def gradients() -> list[Any]:
        one.model.zero_grad()
        objectives.losses(one.goal, one.model, one.train[:9], (0, 0))[0].sum().backward()
        return [weight.grad.clone() for weight in one.model.parameters() if weight.requires_grad]

    plain = gradients()
    layers = sum(name.endswith("lora_A") for name, _ in one.model.named_modules())
    assert fused.attach(one.model) == layers > 0
    assert any("forward" in vars(module) for module in one.model.modules())
    for ours, theirs in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    fused.detach(one.model)
    assert not any("forward" in vars(module) for module in one.model.modules())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("task", "kind"), [("classification", "encoder"), ("sft", "causal")])
def test_in_bf16_a_fused_lora_step_gives_the_plain_gradients_to_its_rounding(
    tmp_path: Path, task: str, kind: str, autocast: bool
) -> None:
    import torch

    one = unfused(tmp_path, task, kind, top_layers=None)
    with torch.no_grad():
        for name, weight in one.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)

    def gradients() -> list[Any]:
        one.model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            objectives.losses(one.goal, one.model, one.train[:9], (0, 0))[0].sum().backward()
        return [weight.grad.clone() for weight in one.model.parameters() if weight.requires_grad]

    plain = gradients()
    assert fused.attach(one.model, bf16=True) > 0
    ours = gradients()
    assert all(grad.dtype is torch.float32 for grad in ours)
    assert not all(torch.equal(mine, theirs) for mine, theirs in zip(ours, plain, strict=True))
    mine, theirs = (torch.cat([grad.reshape(-1) for grad in grads]) for grads in (ours, plain))
    assert float((mine - theirs).norm() / theirs.norm()) < 0.1


def test_in_bf16_products_are_of_few_sizes_whatever_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps kernels of its own for every number of rows that it ever met."""
    one, sizes = unfused(tmp_path, "sft", "causal"), set[int]()
    filled = fused._filled

    def noted(flat: Any, multiple: int) -> Any:
        found = filled(flat, multiple)
        sizes.add(len(found))
        return found

    monkeypatch.setattr(fused, "_filled", noted)
    fused.attach(one.model, bf16=True)
    for count in range(1, 12):
        objectives.losses(one.goal, one.model, one.train[:count], (0, 0))[0].sum().backward()
    assert all(size % 16 == 0 for size in sizes) and len(sizes) <= max(sizes) // 16


_MANY_SIZES = """
import torch
weight, rows = torch.randn(128, 128).bfloat16(), torch.randn(9600, 128).bfloat16()
def taken(): return int(open("/proc/self/statm").read().split()[1])
rows @ weight
before = taken()
for count in range(16, 9601, 16): rows[:count] @ weight @ weight.t()
print(taken() - before)
"""


@pytest.mark.slow
def test_in_bf16_kernels_for_many_sizes_take_little_memory(tmp_path: Path) -> None:
    """Both libraries keep kernels; each would keep 1,024."""
    import torch

    if not devices.in_bf16(torch.device("cpu"), "auto") or not Path("/proc/self/statm").exists():
        pytest.skip("needs a GPU or, on Linux, a CPU with bf16 units")
    ours, kept = workspace.find(tmp_path).environment(), ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    theirs = {name: value for name, value in ours.items() if name not in kept}

    def grown(environment: dict[str, str]) -> int:
        command = [sys.executable, "-c", _MANY_SIZES]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    assert grown(ours) < 0.8 * grown(theirs)


@pytest.mark.parametrize(
    ("units", "precision", "wanted"),
    [({"avx512_bf16": True}, "auto", True), ({"amx_bf16": True}, "auto", True), ({"avx2": True}, "auto", False),
     ({"avx2": True}, "bf16", True), ({"avx512_bf16": True}, "fp32", False)],
)  # fmt: skip
def test_bf16_is_for_processors_that_have_units_for_it(
    units: dict[str, bool], precision: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert devices.in_bf16(torch.device("cpu"), precision) is wanted


@pytest.mark.parametrize("changes", [{"method": "dora"}, {"dropout": 0.1}, {"peft": {"lora_bias": True}}, {"method": "ia3"}])
def test_a_lora_layer_with_anything_special_is_left_to_peft(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert fused.attach(work(tmp_path, "classification", "encoder", **changes).model) == 0
