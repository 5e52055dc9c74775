"""A LoRA layer and its base in one autograd step: the skinny products are added in place, and nothing is kept twice.

y = x W' + b + s (x A') B' as peft computes it, to rounding; the weight of the base is frozen, so its gradient is never
computed. On two AVX2 cores a layer takes 10 to 18% less time (docs/log.md). Where the device has bf16 units, the products
are of a copy of the base's weight in bf16, made once: autocast would make it again in every step. What several layers read is
brought to bf16 once, and between the two halves of a feed-forward network it stays so.
"""

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

from adaptory.training import devices, label_loss, lean
from adaptory.training.network import MASKED_HEAD, unwrapped

# A feed-forward network: the layers before its activation, and the one after.
_HALVES = ((("gate_proj", "up_proj"), "down_proj"), (("gate_up_proj",), "down_proj"), (("intermediate.dense",), "output.dense"),
           (("lin1",), "lin2"))  # fmt: skip


def attach(model: Any, *, bf16: bool = False) -> int:
    """From now on plain LoRA layers are computed in one step, with products in bf16 if asked for; returns how many.

    Others are left as peft has them.
    """
    step, once, found = _step(), _Once(), dict(_plain(model))
    for name, layer in found.items():
        layer.forward = _forward(layer, step, once, bf16=bf16, stays=_is_first_half(name, found))
    if found:
        lean.attach(model)
        for head in _heads(model):
            head.losses = _losses(head, bf16=bf16)
    return len(found)


def detach(model: Any) -> None:
    """The model is as it was."""
    for _, layer in _plain(model):
        layer.__dict__.pop("forward", None)
    lean.detach(model)
    for head in _heads(model):
        head.__dict__.pop("losses", None)


def _plain(model: Any) -> Iterator[tuple[str, Any]]:
    """LoRA layers with nothing special: one adapter, no dropout, no bias of its own, no variant, a plain base."""
    import torch
    from peft.tuners.lora import Linear

    for name, layer in model.named_modules():
        if not isinstance(layer, Linear) or type(layer.base_layer) is not torch.nn.Linear:
            continue
        names = list(layer.lora_A)
        own = names == list(layer.active_adapters) == ["default"] and not layer.merged and not layer.lora_variant
        if own and isinstance(layer.lora_dropout["default"], torch.nn.Identity) and layer.lora_B["default"].bias is None:
            yield name, layer


def _heads(model: Any) -> Iterator[Any]:
    """The frozen head over the vocabulary, if it is a plain one."""
    import torch

    inner = unwrapped(model)
    head: Any = None if hasattr(inner, MASKED_HEAD) else inner.get_output_embeddings()
    if type(head) is torch.nn.Linear and not head.weight.requires_grad:
        yield head


def _is_first_half(name: str, plain: dict[str, Any]) -> bool:
    """Whether only an activation and another such layer read what this one gives."""
    for firsts, second in _HALVES:
        for first in firsts:
            if name.endswith(f".{first}"):
                return f"{name.removesuffix(first)}{second}" in plain
    return False


class _Once:
    """What was read last, as rows in the precision of the products: query, key and value read the same."""

    def __init__(self) -> None:
        self.read: Any = lambda: None
        self.cast: Any = None

    def __call__(self, x: Any, dtype: Any, multiple: int) -> Any:
        flat = x.reshape(-1, x.shape[-1])
        if x.dtype == dtype:
            return _filled(flat, multiple)
        if self.read() is not x:
            self.read, self.cast = weakref.ref(x), _filled(flat.to(dtype), multiple)
        return self.cast


def _filled(flat: Any, multiple: int) -> Any:
    import torch

    missing = -len(flat) % multiple
    return torch.nn.functional.pad(flat, (0, 0, 0, missing)) if missing else flat


def _forward(layer: Any, step: Any, once: _Once, *, bf16: bool, stays: bool) -> Any:
    import torch

    base, down, up = layer.base_layer, layer.lora_A["default"], layer.lora_B["default"]
    scale, copy = float(layer.scaling["default"]), None
    if bf16 and base.weight.dtype is not torch.bfloat16:
        copy = base.weight.detach().bfloat16(), None if base.bias is None else base.bias.detach().bfloat16()

    def forward(x: Any) -> Any:
        if torch.is_autocast_enabled(x.device.type) and not bf16:  # which casts what peft's own steps need
            return type(layer).forward(layer, x)
        weight, bias = copy or (base.weight, base.bias)  # a sharded base has its weights only now
        flat = once(x, weight.dtype, devices.ROWS if bf16 and x.device.type == "cpu" else 1)
        rows = x.numel() // x.shape[-1]
        y = step.apply(flat, weight, bias, down.weight, up.weight, scale)
        y = (y if rows == len(y) else y[:rows]).view(*x.shape[:-1], -1)
        # A GPU attends in bf16; a CPU takes longer for that than in fp32.
        return y if stays or torch.is_autocast_enabled(x.device.type) else y.to(down.weight.dtype)

    return forward


def _losses(head: Any, *, bf16: bool) -> Any:
    half = head.weight.detach().bfloat16() if bf16 else None
    return partial(label_loss.losses, head, half=half)


def _step() -> Any:
    import torch

    class Step(torch.autograd.Function):  # type: ignore[misc]
        """Forward and backward of one layer on rows x width, in the precision of the base's weight."""

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any, down: Any, up: Any, scale: float) -> Any:
            ctx.learned, ctx.scale = down.dtype, scale
            down, up = down.to(weight.dtype), up.to(weight.dtype)
            inner = x @ down.t()
            y = x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
            ctx.save_for_backward(x, weight, down, up, inner)
            return y.addmm_(inner, up.t(), alpha=scale)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            x, weight, down, up, inner = ctx.saved_tensors
            grad = grads[0]
            low = (grad @ up).mul_(ctx.scale)
            below = (grad @ weight).addmm_(low, down) if ctx.needs_input_grad[0] else None
            # The other way round, a product with so few rows takes half as long again.
            own = (low.t() @ x).to(ctx.learned), (inner.t() @ grad).mul_(ctx.scale).t().to(ctx.learned)
            return below, None, None, *own, None

    return Step
