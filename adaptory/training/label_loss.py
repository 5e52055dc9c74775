"""The losses of labels under a frozen head over the vocabulary, a few labels at a time.

The logits of all labels are the largest thing in the training of a small language model: here neither they nor their gradients
outlive a few labels. A label's loss only scales the gradient by what the head read for it, so that gradient is computed with the
loss, and nothing is computed twice (as Liger Kernel does; Hsu et al., 2024).
"""

from functools import cache
from typing import Any

LABELS = 128  # whose logits stand at once


def losses(head: Any, states: Any, labels: Any, half: Any = None) -> Any:
    """The negative log-likelihood of each label: states are labels x width, `half` is a copy of the head's weight in bf16.

    With it, products are in bf16, as those of the layers below; sums and likelihoods are in fp32 all the same.
    """
    weight, bias = head.weight if half is None else half, head.bias
    return _step().apply(states, labels, weight, bias)


def wide(logits: Any) -> Any:
    """Logits as likelihoods are computed of: in fp32 at least."""
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@cache
def _step() -> Any:
    import torch

    class Step(torch.autograd.Function):  # type: ignore[misc]
        """Losses, and beside them their gradients by the states."""

        @staticmethod
        def forward(ctx: Any, states: Any, labels: Any, weight: Any, bias: Any) -> Any:
            found, below = [], []
            for some, wanted in zip(states.split(LABELS), labels.split(LABELS), strict=True):
                logits = wide(some.to(weight.dtype) @ weight.t())
                chances = torch.log_softmax(logits if bias is None else logits.add_(bias), dim=-1)
                del logits
                found.append(-chances.gather(1, wanted[:, None])[:, 0])
                grad = chances.exp_().scatter_add_(1, wanted[:, None], -torch.ones_like(chances[:, :1]))
                below.append((grad.to(weight.dtype) @ weight).to(states.dtype))
            ctx.save_for_backward(torch.cat(below))
            return torch.cat(found)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return ctx.saved_tensors[0] * grads[0][:, None].to(ctx.saved_tensors[0].dtype), None, None, None

    return Step
