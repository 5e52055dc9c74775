"""The losses of labels under a frozen head: a plain cross-entropy's, of which only a little stands in memory at once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from adaptory.training import forward, fused, label_loss, objectives
from tests.training.toys import unfused


def drawn(labels: int, *, bias: bool, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """A head over 1,000 tokens, states and the labels that are to be guessed from them."""
    torch.manual_seed(labels)
    head = torch.nn.Linear(24, 1000, bias=bias, dtype=dtype).requires_grad_(False)
    return head, torch.randn(labels, 24, dtype=dtype, requires_grad=True), torch.randint(0, 1000, (labels,))


def both(head: Any, states: Any, labels: Any, half: Any = None) -> list[tuple[Any, Any]]:
    """Losses and the gradient of their weighted sum: ours, and a plain cross-entropy's."""
    weights = torch.linspace(-1, 2, len(labels), dtype=states.dtype)
    found = []
    for losses in (
        label_loss.losses(head, states, labels, half),
        torch.nn.functional.cross_entropy(head(states), labels, reduction="none"),
    ):
        found.append((losses, torch.autograd.grad((losses * weights).sum(), states)[0]))
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("labels", [1, 128, 129, 300])
def test_losses_and_gradients_are_those_of_a_plain_cross_entropy(labels: int, bias: bool) -> None:
    ours, theirs = both(*drawn(labels, bias=bias, dtype=torch.float64))
    for mine, plain in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-12, atol=1e-14)


def test_in_bf16_they_are_the_same_to_its_rounding() -> None:
    head, states, labels = drawn(200, bias=True, dtype=torch.float32)
    ours, theirs = both(head, states, labels, head.weight.bfloat16())
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.dtype is torch.float32 and not torch.equal(mine, plain)
        assert float((mine - plain).norm() / plain.norm()) < 0.01


def test_the_logits_of_a_few_labels_stand_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, usual = [], torch.log_softmax

    def noted(logits: Any, dim: int) -> Any:
        sizes.append(len(logits))
        return usual(logits, dim=dim)

    monkeypatch.setattr(torch, "log_softmax", noted)
    head, states, labels = drawn(300, bias=False, dtype=torch.float32)
    label_loss.losses(head, states, labels).sum().backward()
    assert sizes == [128, 128, 44]


def test_a_network_learns_by_them_and_is_measured_in_its_own_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = unfused(tmp_path, "sft", "causal")
    asked, usual = [], label_loss.losses

    def noted(*given: Any, **more: Any) -> Any:
        asked.append(more["half"].dtype)
        return usual(*given, **more)

    monkeypatch.setattr(label_loss, "losses", noted)
    fused.attach(one.model, bf16=True)
    objectives.losses(one.goal, one.model, one.train[:5], (0, 0))[0].sum().backward()
    assert asked == [torch.bfloat16]
    with torch.no_grad():
        objectives.losses(one.goal, one.model, one.train[:5], (0, 0))
    assert len(asked) == 1, "of what is measured the logits are in fp32"
    fused.detach(one.model)
    assert not hasattr(forward._head(one.model.get_base_model()), "losses")


def test_what_is_measured_has_few_logits_at_once_and_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = unfused(tmp_path, "sft", "causal")
    sizes, usual = [], torch.nn.functional.cross_entropy

    def noted(logits: Any, labels: Any, **more: Any) -> Any:
        sizes.append(len(logits))
        return usual(logits, labels, **more)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", noted)
    with torch.no_grad():
        found = []
        for few in (10_000, 5):
            monkeypatch.setattr(label_loss, "LABELS", few)
            found.append(objectives.losses(one.goal, one.model, one.train[:5], (0, 0))[0])
    assert max(sizes[1:]) == 5 < sizes[0] == sum(sizes[1:])
    torch.testing.assert_close(*found)
