"""Norms and rotations with a backward pass of their own are those of transformers: the same numbers, the same gradients."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptory.training import lean
from tests.training.toys import work


def drawn(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64, requires_grad=True)


def gradients(compute: Any, *given: Any) -> list[Any]:
    """What is computed, and the gradients of a sum that weighs every number of it."""
    found = compute(*given)
    every = torch.cat([one.reshape(-1) for one in (found if isinstance(found, tuple) else (found,))])
    return [every, *torch.autograd.grad((every * torch.linspace(-1, 2, len(every), dtype=every.dtype)).sum(), given)]


def test_a_norm_is_that_of_the_network_and_only_frozen_ones_are_taken(tmp_path: Path) -> None:
    model = work(tmp_path, "sft", "causal", fused=False).model
    norms = [part for part in model.modules() if type(part).__name__ == "LlamaRMSNorm"]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 2)
    x = drawn(1, 7, norms[0].weight.shape[0]).detach().float().requires_grad_()
    plain = gradients(norms[0], x)
    norms[-1].weight.requires_grad_(True)
    assert lean.attach(model) == len(norms) - 1
    assert "forward" in vars(norms[0]) and "forward" not in vars(norms[-1])
    for ours, theirs in zip(gradients(norms[0], x), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    half = norms[0](x.detach().bfloat16())
    assert torch.equal(half, type(norms[0]).forward(norms[0], x.detach().bfloat16())), "of other precisions it is the usual one"
    lean.detach(model)
    assert not any("forward" in vars(norm) for norm in norms)


def test_a_rotation_is_that_of_the_network_for_as_long_as_it_is_asked_for(tmp_path: Path) -> None:
    from transformers.models.llama import modeling_llama

    inner = work(tmp_path, "sft", "causal", fused=False).model.get_base_model()
    assert sys.modules[type(inner).__module__] is modeling_llama
    usual = modeling_llama.apply_rotary_pos_emb
    query, key, angles = drawn(1, 4, 5, 8), drawn(1, 2, 5, 8), drawn(1, 5, 4).detach()
    cos, sin = (torch.cat([part, part], dim=-1) for part in (angles.cos(), angles.sin()))
    plain = gradients(lambda q, k: usual(q, k, cos, sin), query, key)
    with lean.rotating(inner):
        assert modeling_llama.apply_rotary_pos_emb is not usual
        found = gradients(lambda q, k: modeling_llama.apply_rotary_pos_emb(q, k, cos, sin), query, key)
        some = modeling_llama.apply_rotary_pos_emb(drawn(1, 4, 5, 8), drawn(1, 2, 5, 8), cos, sin)
    assert len(some) == 2
    for ours, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert modeling_llama.apply_rotary_pos_emb is usual


def test_a_network_that_rotates_otherwise_is_left_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama import modeling_llama

    inner = work(tmp_path, "sft", "causal", fused=False).model.get_base_model()

    def neighbours(query: Any, key: Any, cos: Any, sin: Any) -> Any:  # instead of halves
        def turn(x: Any) -> Any:
            return x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2) * sin

        return turn(query), turn(key)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", neighbours)
    with lean.rotating(inner):
        assert modeling_llama.apply_rotary_pos_emb is neighbours
