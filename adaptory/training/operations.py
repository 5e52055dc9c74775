"""What a training computes: floating-point operations, as its method needs them (docs/performance.md)."""

from typing import Any, NamedTuple

from adaptory.training.forward import finished_for_one_token
from adaptory.training.network import blocks, learns_prompt, linear_layers, unwrapped
from adaptory.training.work import Work


def tokens_of_epoch(work: Work) -> int:
    """Tokens that an epoch computes, padding included and what is shared once."""
    return sum(work.computed(rows) for rows in work.batches(0))


def flops(work: Work, tokens: int) -> float:
    """Floating-point operations of one epoch: 2 per weight and token forward, 2 more for the gradient of what is above a
    trained weight, 2 more where the weight itself trains (docs/performance.md)."""
    found, name = _weighed(work.model), work.goal.name
    if learns_prompt(work.model):
        tokens += len(work.train) * work.goal.sequences * int(work.model.active_peft_config.num_virtual_tokens)
    own = 4 + 2 * found.trained / max(1, found.upper)
    labels = sum(work.goal.weight(row) for row in work.train) if name in ("tokens", "masked") else 0.0
    if name == "dpo":
        labels = float(sum(len(row.ids) - row.start + len(row.second or ()) - row.second_start for row in work.train))
    short = work.goal.settings.fused and name in ("classes", "value") and found.upper
    late = finished_for_one_token(work.model) if short else 0
    below = 0 if work.trunk else 2 * found.lower
    return tokens * (below + own * (found.upper - late)) + len(work.train) * own * late + labels * found.head


class _Weighed(NamedTuple):
    """Weights of linear layers."""

    lower: int  # below the lowest trained weight
    upper: int  # in blocks from it on
    trained: int  # of them
    head: int  # operations per label of the head of tokens


def _weighed(model: Any) -> _Weighed:
    numbers, kinds = blocks(model), linear_layers()
    lowest = min((numbers[n] for n, w in _weights(model) if w.requires_grad and n in numbers), default=10**9)
    if any(w.requires_grad and ("embed" in n or "prompt" in n) for n, w in _weights(model)):
        lowest = 0  # its gradient comes through all of them
    layers = [(name, one.weight) for name, one in model.named_modules() if isinstance(one, kinds)]
    inside = [(numbers[name], weight) for name, weight in layers if name in numbers and "lora_" not in name]
    lower = sum(weight.numel() for number, weight in inside if number < lowest)
    trained = sum(weight.numel() for _, weight in inside if weight.requires_grad)
    outputs = unwrapped(model).get_output_embeddings()
    head = 0 if outputs is None else outputs.weight.numel() * (6 if outputs.weight.requires_grad else 4)
    return _Weighed(lower, sum(weight.numel() for _, weight in inside) - lower, trained, head)


def _weights(model: Any) -> list[tuple[str, Any]]:
    return [(name.rpartition(".")[0], weight) for name, weight in model.named_parameters()]
