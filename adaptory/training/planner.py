"""Before a training starts: how long it will take, how much memory, and at which rates; or why it must not start.

The longest batch is tried first, so memory fails at once or never. A few batches of every size, timed, predict the rest.
"""

import time
from typing import Any, NamedTuple

from adaptory.errors import PlanError, StageError
from adaptory.frozen import Frozen
from adaptory.training import checkpoint, devices, preemption
from adaptory.training.batches import sorted_batches
from adaptory.training.forward import finished_for_one_token
from adaptory.training.network import block_count, blocks, learns_prompt, linear_layers, unwrapped
from adaptory.training.objectives import losses
from adaptory.training.schedules import rate
from adaptory.training.validate import validate
from adaptory.training.work import Work

_TIMED = 8  # batches


class Forecast(Frozen):
    """What a training is predicted to cost, and its rates."""

    steps: int
    seconds: float
    seconds_per_epoch: float
    memory: float  # GB: measured on batches and a validation, with what the optimizer and the best epoch's weights will take
    padding: float  # share of the computed tokens that is padding
    flops: float  # floating-point operations of the whole training
    first_rate: float
    peak_rate: float
    last_rate: float

    def sentence(self) -> str:
        """For a person."""
        rates = f"rate {self.first_rate:.2g} first, {self.peak_rate:.2g} at its peak, {self.last_rate:.2g} last"
        return f"plan: {self.steps:,} steps in about {_minutes(self.seconds)}, {self.memory:.1f} GB; {rates}"


@devices.memory_told(PlanError, devices.LESS)
def forecast(work: Work, *, shared: bool = False) -> Forecast:
    """Computes the longest batch and a few others, and predicts. Leaves the weights as they were.

    The deadline counts what it took to begin, unless that is `shared` with other trials: the first would pay for all of them.

    Raises PlanError for a plan that is predicted to exceed training.deadline, training.memory or the memory there is. A training
    that goes on from a checkpoint was let pass when it began; it is not stopped by a prediction any more.
    """
    settings = work.goal.settings
    micro = _batches(work, 0)
    tokens = [_computed(work, rows) for rows in micro]
    ordered = sorted(range(len(micro)), key=lambda place: tokens[place])
    # Other epochs have other batches, where a window is less than fits into memory.
    every = (rows for epoch in range(settings.epochs) for rows in (_batches(work, epoch) if epoch else micro))
    longest = max(every, key=lambda rows: _computed(work, rows))
    work.model.train()
    before = devices.peak_memory(work.device)
    if not all(devices.gathered([_fits(work, longest)])):  # what one process refuses, all do, or they would wait for it
        raise PlanError(f"the longest batch ({_computed(work, longest):,} tokens) does not fit into memory; {_smaller(work)}")
    batch, later = devices.peak_memory(work.device) - before, _kept_later(work)
    # One batch out of the middle of each of several classes of size: their mean is that of all batches.
    count = min(_TIMED, len(micro))
    timed = [ordered[int((place + 0.5) * len(micro) / count)] for place in range(count)]
    # Twice: what disturbs a machine, as an installation that is still being written to its disk, only ever adds.
    seconds = min(sum(_compute(work, micro[place]) for place in timed) for _ in range(2))
    for weight in work.model.parameters():
        weight.grad = None
    epoch = (seconds / count * len(micro) + _validation(work)) / devices.world()
    steps = work.planned_steps
    warmup = min(int(settings.warmup * steps), steps - 1)
    rates = [settings.learning_rate * rate(step, steps, warmup, settings.schedule) for step in (0, warmup, steps - 1)]
    facts = (epoch, devices.peak_memory(work.device) + later, 0.0 if shared else _begun(work))
    epoch, memory, begun = map(max, zip(*devices.gathered([facts]), strict=True))
    made = Forecast(
        steps=steps, seconds=epoch * settings.epochs, seconds_per_epoch=epoch, memory=memory,
        padding=max(0.0, 1 - sum(work.lengths) / sum(tokens)), flops=flops(work, sum(tokens)) * settings.epochs,
        first_rate=rates[0], peak_rate=rates[1], last_rate=rates[2],
    )  # fmt: skip
    if not checkpoint.exists(work.folder, work.key):
        _check(work, made, batch, _computed(work, longest), begun)
    return made


def _begun(work: Work) -> float:
    """Seconds that loading the base, computing what is frozen and scoring what is compared took."""
    return time.monotonic() - work.began


def _batches(work: Work, epoch: int) -> list[list[int]]:
    """What is computed at a time in an epoch."""
    return [rows for window in work.windows(epoch) for rows in work.cut(window, work.micro_tokens)]


def _fits(work: Work, rows: list[int]) -> bool:
    """Whether forward and backward of a batch find room."""
    import torch

    try:
        _compute(work, rows)
    except (torch.OutOfMemoryError, RuntimeError) as fault:
        if not devices.is_memory(fault):
            raise
        if devices.sharded():  # the others wait for this one's parts, and end with it
            raise StageError(f"a batch of {_computed(work, rows):,} tokens does not fit into memory; {devices.LESS}") from None
        return False
    finally:
        for weight in work.model.parameters():
            weight.grad = None
    return True


def _smaller(work: Work) -> str:
    """The largest batch, halved again and again, that was tried and found room."""
    windows, size = work.windows(0), work.micro_tokens // 2
    while size >= 1:
        largest = max((rows for window in windows for rows in work.cut(window, size)), key=lambda rows: _computed(work, rows))
        if _fits(work, largest):
            return f"with training.micro_tokens: {size} it does"
        if len(largest) == 1:
            break
        size //= 2
    return "nor does its longest row alone; lower training.max_tokens or top_layers, or take a smaller base"


def _kept_later(work: Work) -> float:
    """GB on the device that come with the first step: AdamW's two moments; on a CPU also the best epoch's weights; of several
    processes the gradients in one piece, to be summed."""
    trained: int = sum(one.numel() * one.element_size() for one in work.model.parameters() if one.requires_grad)
    copies = (3 if work.device.type == "cpu" else 2) + (devices.world() > 1)
    return trained * copies / 1e9


def tokens_of_epoch(work: Work) -> int:
    """Tokens that an epoch computes, padding included and what is shared once."""
    return sum(_computed(work, rows) for rows in _batches(work, 0))


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
    late = finished_for_one_token(work.model) if name in ("classes", "value") and found.upper else 0
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


def _computed(work: Work, rows: list[int]) -> int:
    """Tokens that a batch computes, padding included."""
    if work.goal.tree:
        tokens = work.shared + sum(work.own[row] for row in rows)
        return tokens + -tokens % devices.ROWS
    return len(rows) * max(work.lengths[row] for row in rows)


def _compute(work: Work, rows: list[int]) -> float:
    """Forward and backward of a batch; its seconds."""
    import torch

    some = [work.train[row] for row in rows]
    reference = [work.reference[row] for row in rows] if work.reference else ()
    device = work.device
    preemption.beat()
    began = time.monotonic()
    with devices.computing(device, work.goal.settings.precision):
        loss = losses(work.goal, work.model, some, (work.goal.settings.seed, 0), reference, work.trunk)[0].sum()
    loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - began


def _validation(work: Work) -> float:
    """Seconds that a validation will take: one of its batches, timed after another one."""
    lengths = [row.length * work.goal.sequences for row in work.validation]
    batches = sorted_batches(lengths, work.micro_tokens)
    middle = batches[len(batches) // 2]
    took = _forward(work, middle)
    took = min(took, _forward(work, middle))
    work.model.train()
    return took * sum(len(batch) * lengths[batch[0]] for batch in batches) / (len(middle) * lengths[middle[0]])


def _forward(work: Work, rows: list[int]) -> float:
    """A forward pass on rows of the validation; its seconds."""
    began = time.monotonic()
    reference = [work.validation_reference[row] for row in rows] if work.validation_reference else ()
    validate(work.goal, work.model, [work.validation[row] for row in rows], reference, work.trunk)
    return time.monotonic() - began


def _check(work: Work, made: Forecast, batch: float, tokens: int, begun: float) -> None:
    settings, room = work.goal.settings, devices.capacity(work.device)
    most, named = (settings.memory, "training.memory") if settings.memory and settings.memory < room else (room, "there is here")
    if made.memory > most:
        told = f"the training takes {made.memory:.2f} GB, more than {named} ({most:.3g})"
        # What a batch takes grows with its tokens; the rest does not.
        left = batch - (made.memory - most)
        size = int(min(work.micro_tokens, tokens) * left / batch) if batch > 0 else 0
        size -= size % devices.ROWS if work.goal.tree else 0  # it would be filled up
        if size >= max(work.lengths):
            raise PlanError(f"{told}; with training.micro_tokens: {size} it would take {most:.3g}")
        raise PlanError(f"{told}; {made.memory - batch:.2f} GB of it do not depend on the batch: lower max_tokens or top_layers")
    limit = (settings.deadline or float("inf")) * 60 - begun
    if made.seconds <= limit:
        return
    first = f" after {_minutes(begun)} to begin" if begun >= 1 else ""
    told = f"the training would take about {_minutes(made.seconds)}{first}"
    raise PlanError(f"{told}, more than training.deadline ({settings.deadline:g} min); {_nearest(work, made, limit)}")


def _nearest(work: Work, made: Forecast, limit: float) -> str:
    """The plan nearest to the asked one that is predicted to be in time."""
    settings = work.goal.settings
    if limit <= 0:
        kept = "; what the frozen blocks gave is kept, so the same command may be in time now" if work.trunk else ""
        return f"beginning alone took longer{kept}"
    if (fits := int(limit / made.seconds_per_epoch)) >= 1:
        return f"training.epochs: {fits} would take about {_minutes(fits * made.seconds_per_epoch)}"
    if settings.method not in ("head", "prompt_tuning") and not settings.layers and blocks(work.model):
        count = block_count(work.model)
        now = min(settings.top_layers or count, count) if settings.method != "full" else count
        # With every block trained a token costs 4 or 6; below the cut 2, or nothing where that is kept.
        own, below = (6 if settings.method in ("full", "freeze") else 4), (0 if work.trunk else 2)
        cost = {top: own * top + below * (count - top) for top in range(1, now + 1)}
        for top in range(now - 1, 0, -1):
            seconds = made.seconds_per_epoch * cost[top] / cost[now]
            if seconds <= limit:
                method = "training.method: freeze and " if settings.method == "full" else ""
                return f"training.epochs: 1 with {method}training.top_layers: {top} would take about {_minutes(seconds)}"
    rows = int(len(work.train) * limit / made.seconds_per_epoch)
    return f"one epoch over {rows:,} of the {len(work.train):,} rows (training.max_rows) would be in time"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
