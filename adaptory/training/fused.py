"""A LoRA layer and its base in one autograd step: the skinny products are added in place, and nothing is kept twice.

y = x W' + b + s (x A') B' as peft computes it, to rounding; the weight of the base is frozen, so its gradient is never
computed. On two AVX2 cores a layer takes 10 to 18% less time (docs/log.md). Where the device has bf16 units, the products
are of a copy of the base's weight in bf16, made once: autocast would make it again in every step.
"""

from collections.abc import Iterator
from typing import Any


def attach(model: Any, *, bf16: bool = False) -> int:
    """From now on plain LoRA layers are computed in one step, with products in bf16 if asked for; returns how many.

    Others are left as peft has them.
    """
    step = _step()
    found = list(_plain(model))
    for layer in found:
        layer.forward = _forward(layer, step, bf16=bf16)
    return len(found)


def detach(model: Any) -> None:
    """The model is as it was."""
    for layer in _plain(model):
        layer.__dict__.pop("forward", None)


def _plain(model: Any) -> Iterator[Any]:
    """LoRA layers with nothing special: one adapter, no dropout, no bias of its own, no variant, a plain base."""
    import torch
    from peft.tuners.lora import Linear

    for layer in model.modules():
        if not isinstance(layer, Linear) or type(layer.base_layer) is not torch.nn.Linear:
            continue
        names = list(layer.lora_A)
        own = names == list(layer.active_adapters) == ["default"] and not layer.merged and not layer.lora_variant
        if own and isinstance(layer.lora_dropout["default"], torch.nn.Identity) and layer.lora_B["default"].bias is None:
            yield layer


def _forward(layer: Any, step: Any, *, bf16: bool) -> Any:
    import torch

    base, down, up = layer.base_layer, layer.lora_A["default"], layer.lora_B["default"]
    scale, copy = float(layer.scaling["default"]), None
    if bf16 and base.weight.dtype is not torch.bfloat16:
        copy = base.weight.detach().bfloat16(), None if base.bias is None else base.bias.detach().bfloat16()

    def forward(x: Any) -> Any:
        if torch.is_autocast_enabled(x.device.type) and not bf16:  # which casts what peft's own steps need
            return type(layer).forward(layer, x)
        weight, bias = copy or (base.weight, base.bias)  # a sharded base has its weights only now
        flat = x.reshape(-1, x.shape[-1])
        return step.apply(flat, weight, bias, down.weight, up.weight, scale).view(*x.shape[:-1], -1)

    return forward


def _step() -> Any:
    import torch

    class Step(torch.autograd.Function):  # type: ignore[misc]
        """Forward and backward of one layer on rows x width, in the precision of the base's weight."""

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any, down: Any, up: Any, scale: float) -> Any:
            ctx.given, ctx.learned, ctx.scale = x.dtype, down.dtype, scale
            x, down, up = x.to(weight.dtype), down.to(weight.dtype), up.to(weight.dtype)
            inner = x @ down.t()
            y = x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
            ctx.save_for_backward(x, weight, down, up, inner)
            y = y.addmm_(inner, up.t(), alpha=scale)
            # A GPU attends in bf16; a CPU takes longer for that than in fp32.
            return y if torch.is_autocast_enabled(y.device.type) else y.to(ctx.given)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            x, weight, down, up, inner = ctx.saved_tensors
            grad = grads[0].to(weight.dtype)
            low = (grad @ up).mul_(ctx.scale)
            below = (grad @ weight).addmm_(low, down).to(ctx.given) if ctx.needs_input_grad[0] else None
            own = (low.t() @ x).to(ctx.learned), (grad.t() @ inner).mul_(ctx.scale).to(ctx.learned)
            return below, None, None, *own, None

    return Step
