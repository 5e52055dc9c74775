"""Activations that are computed again in the backward pass instead of kept (Chen et al., 2016): the same bits in less memory.

Only where memory would not suffice otherwise: the plan finds that out (planner.py).
"""

from contextlib import nullcontext
from functools import partial
from typing import Any

from adaptory.training import devices
from adaptory.training.network import block_modules, unwrapped
from adaptory.training.tree_attention import NAME, attending


def attach(model: Any) -> bool:
    """From now on every block but the last keeps only what it reads while it trains; whether there are any such blocks."""
    inner = unwrapped(model)
    blocks = [] if attached(model) else block_modules(model)[:-1]  # what the last one gives is needed at once
    for block in blocks:
        block.forward = partial(_computed, inner, block.forward, block is blocks[0])
    return attached(model)


def attached(model: Any) -> bool:
    """Whether activations of this network are computed again."""
    return any(getattr(vars(block).get("forward"), "func", None) is _computed for block in block_modules(model))


def _computed(inner: Any, forward: Any, first: bool, *given: Any, **named: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return forward(*given, **named)
    if first:  # what the batch before left free is in pieces: kept, it takes more than activations do
        devices.give_back()
    along = inner.config._attn_implementation == NAME  # as it attends now, so it must then

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), attending(inner, along)

    return checkpoint(forward, *given, use_reentrant=False, context_fn=contexts, **named)
