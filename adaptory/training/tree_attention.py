"""Attention along a tree of tokens (tree.py), as transformers calls it.

Segments of similar length attend together, so little is padded. Keys and values of what a segment stands on are copied beside
its own; the gradient of a copy goes back by where it came from, which is known, and not by a search of all places: that took an
eighth of a training step.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from adaptory.training import lean
from adaptory.training.label_loss import wide
from adaptory.training.tree import Tree

NAME = "adaptory-tree"  # of this attention, to transformers


@contextmanager
def attending(inner: Any, is_tree: bool) -> Iterator[None]:
    """Within it, the network attends along the tree that it is given as `tree`."""
    if not is_tree:
        yield
        return
    _register()
    usual = inner.config._attn_implementation
    inner.config._attn_implementation = NAME
    try:
        with lean.rotating(inner):
            yield
    finally:
        inner.config._attn_implementation = usual


@cache
def _register() -> None:
    """Makes this attention known to transformers."""
    import torch
    from transformers import AttentionInterface

    spread, join = _spread(), _join()

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, *, tree: Tree, **more: Any) -> tuple[Any, None]:
        heads = query.shape[1] // key.shape[1]
        repeated = heads > 1 and query.device.type != "cpu"  # on a GPU no fast kernel has both a mask and grouped heads
        if repeated:
            key, value = key.repeat_interleave(heads, dim=1), value.repeat_interleave(heads, dim=1)
        how = {"scale": more.get("scaling"), "enable_gqa": heads > 1 and not repeated}
        parts = [spread.apply(states, tree, asks) for states, asks in ((query, True), (key, False), (value, False))]
        roots, *picked = zip(*parts, strict=True)
        dot = torch.nn.functional.scaled_dot_product_attention
        first = dot(*roots, is_causal=True, **how) if tree.root else roots[0]
        masks = [lines.mask_in(query.dtype) for lines in tree.lines]
        found = [dot(*some, attn_mask=mask, is_causal=mask is None, **how) for some, mask in zip(picked, masks, strict=True)]
        return join.apply(tree, first, *found), None

    AttentionInterface.register(NAME, attend)


def _spread() -> Any:
    import torch

    class Spread(torch.autograd.Function):  # type: ignore[misc]
        """States of 1 x heads x tokens x width: those of the root, and those in what `asking` or `seen` of all lines name."""

        @staticmethod
        def forward(ctx: Any, states: Any, tree: Tree, asks: bool) -> Any:
            ctx.tree, ctx.asks = tree, asks
            flat, picked = states[0].transpose(0, 1), []  # tokens x heads x width
            for lines in tree.lines:
                places = lines.asking if asks else lines.seen
                some = flat.index_select(0, places.reshape(-1))
                picked.append(some.view(*places.shape, *flat.shape[1:]).transpose(1, 2))
            return states[:, :, : tree.root].clone(), *picked

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            tree, flat, root = ctx.tree, _flat(grads[1:]), grads[0][0]
            if ctx.asks:
                own = flat.index_select(0, tree.back)
            else:
                kind, root = root.dtype, wide(root)  # summed over all lines, in fp32 at least
                for some in grads[1:]:
                    root = root + some[:, :, : tree.root].sum(0, dtype=root.dtype)
                root = root.to(kind)
                own = flat.index_select(0, tree.home)
                if len(tree.again):
                    own.index_add_(0, tree.whose - tree.root, flat.index_select(0, tree.again))
            every = torch.cat([root.transpose(0, 1), own, own.new_zeros(tree.fill, *own.shape[1:])])
            return every.transpose(0, 1)[None], None, None

    return Spread


def _join() -> Any:
    import torch

    class Join(torch.autograd.Function):  # type: ignore[misc]
        """What was found for the root and in the lines, in the order of the places: 1 x tokens x heads x width."""

        @staticmethod
        def forward(ctx: Any, tree: Tree, first: Any, *found: Any) -> Any:
            ctx.tree = tree
            own = _flat(found).index_select(0, tree.back)
            return torch.cat([first[0].transpose(0, 1), own, own.new_zeros(tree.fill, *own.shape[1:])])[None]

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            tree = ctx.tree
            root, own, _ = grads[0][0].split([tree.root, len(tree.back), tree.fill])
            shapes = [lines.asking.shape for lines in tree.lines]
            flat = own.new_zeros(sum(shape.numel() for shape in shapes), *own.shape[1:]).index_copy_(0, tree.back, own)
            parts = zip(flat.split([shape.numel() for shape in shapes]), shapes, strict=True)
            lines = [part.view(*shape, *own.shape[1:]).transpose(1, 2) for part, shape in parts]
            return None, root.transpose(0, 1)[None], *lines

    return Join


def _flat(parts: Sequence[Any]) -> Any:
    """All lines of all parts, one after the other: tokens x heads x width."""
    import torch

    return torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])
