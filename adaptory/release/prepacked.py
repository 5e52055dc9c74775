"""Linear layers whose weights lie as the processor's kernels read them, for a network that only answers.

A product with a weight of 384 x 1,536 and some hundred tokens takes an eighth less time when the weight is not reordered in
every call (docs/log.md). The kernels are those that torch's own compiler calls; the answers are the same to rounding.
"""

from typing import Any

_ROWS = 128  # of a usual batch, for which the order is chosen


def prepack(model: Any) -> int:
    """Replaces the linear layers of a network on a CPU; returns how many. It can answer afterwards, and not be trained or saved.

    Others than plain float32 layers stay as they are, and all do where torch was built without these kernels.
    """
    import torch

    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return 0
    plain = [
        (parent, name, layer) for parent in list(model.modules()) for name, layer in parent.named_children()
        if type(layer) is torch.nn.Linear and layer.weight.device.type == "cpu" and layer.weight.dtype is torch.float32
    ]  # fmt: skip
    for parent, name, layer in plain:
        setattr(parent, name, _layer()(layer.weight.detach(), layer.bias))
    return len(plain)


def _layer() -> Any:
    import torch

    class Prepacked(torch.nn.Module):  # type: ignore[misc]
        """A linear layer on a weight in the kernels' order, which copies of the network share."""

        def __init__(self, weight: Any, bias: Any) -> None:
            super().__init__()
            self.bias = bias
            self.weight = (torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS),)

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            return self

        def forward(self, x: Any) -> Any:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight[0], self.bias, "none", [], "")

    return Prepacked
