"""Norms and rotations of a causal network with a backward pass of their own, in fewer walks through memory.

What they compute is what transformers computes, to rounding; autograd, which takes every product and sum by itself, walks
twice as often. Only on a CPU and in fp32: where these take a quarter of a training step.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any


def attach(model: Any) -> int:
    """From now on frozen norms by root mean square are computed so; returns how many."""
    found = list(_norms(model))
    for norm in found:
        norm.forward = _forward(norm)
    return len(found)


def detach(model: Any) -> None:
    """The model is as it was."""
    for norm in _norms(model):
        norm.__dict__.pop("forward", None)


@contextmanager
def rotating(inner: Any) -> Iterator[None]:
    """Within it, the network's rotations of queries and keys are computed so, if they are the usual ones."""
    module = sys.modules[type(inner).__module__]
    usual = getattr(module, "apply_rotary_pos_emb", None)
    if usual is None or next(inner.parameters()).device.type != "cpu" or not _is_usual(usual):
        yield
        return
    module.apply_rotary_pos_emb = partial(_rotated, usual)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.apply_rotary_pos_emb = usual  # type: ignore[attr-defined]


def _norms(model: Any) -> Iterator[Any]:
    """Norms of the usual form (Llama's; Zhang and Sennrich, 2019) that are not trained, on a CPU."""
    for part in model.modules():
        if type(part).__name__.endswith("RMSNorm") and hasattr(part, "variance_epsilon"):
            weight = part.weight
            if not weight.requires_grad and weight.device.type == "cpu" and weight.dtype.itemsize == 4:
                yield part


def _forward(norm: Any) -> Any:
    step, epsilon = _norm(), norm.variance_epsilon

    def forward(x: Any) -> Any:
        weight = norm.weight  # a sharded base has its weights only now
        return step.apply(x, weight, epsilon) if x.dtype == weight.dtype else type(norm).forward(norm, x)

    return forward


@cache
def _norm() -> Any:
    import torch

    class Norm(torch.autograd.Function):  # type: ignore[misc]
        """w x / sqrt(mean(x^2) + e), and its gradient by x."""

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, epsilon: float) -> Any:
            size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            scale = (size.square() / x.shape[-1] + epsilon).rsqrt()
            ctx.save_for_backward(x, weight, scale)
            return (x * scale).mul_(weight)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            x, weight, scale = ctx.saved_tensors
            below = grads[0] * weight
            along = torch.linalg.vecdot(below, x).unsqueeze(-1)
            return below.mul_(scale).addcmul_(x, along * scale.pow(3), value=-1 / x.shape[-1]), None, None

    return Norm


def _rotated(usual: Any, query: Any, key: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
    if cos.shape[-1] != query.shape[-1]:  # only a part of the width is rotated
        return usual(query, key, cos, sin, unsqueeze_dim)
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _rotation().apply(query, cos, sin), _rotation().apply(key, cos, sin)


@cache
def _rotation() -> Any:
    import torch

    def turned(x: Any, cos: Any, sin: Any, way: int) -> Any:
        half = x.shape[-1] // 2
        found = x * cos
        found[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-way)
        found[..., half:].addcmul_(x[..., :half], sin[..., half:], value=way)
        return found

    class Rotation(torch.autograd.Function):  # type: ignore[misc]
        """Rotary positions (Su et al., 2021), and back."""

        @staticmethod
        def forward(ctx: Any, x: Any, cos: Any, sin: Any) -> Any:
            ctx.save_for_backward(cos, sin)
            return turned(x, cos, sin, 1)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            cos, sin = ctx.saved_tensors
            return turned(grads[0], cos, sin, -1), None, None

    return Rotation


@cache
def _is_usual(function: Any) -> bool:
    """Whether this rotates as Llama does, tried on a few numbers."""
    import torch

    draw = torch.Generator().manual_seed(0)
    query, key, cos, sin = (torch.randn(*shape, generator=draw) for shape in ((1, 2, 3, 8), (1, 1, 3, 8), (1, 3, 8), (1, 3, 8)))
    cos[..., 4:], sin[..., 4:] = cos[..., :4], sin[..., :4]
    try:
        theirs = function(query, key, cos, sin)
    except Exception:
        return False
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(theirs, _rotated(function, query, key, cos, sin), strict=True))
