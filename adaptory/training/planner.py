"""Before a training starts: how long it will take, how much memory, and at which rates; or why it must not start.

The longest batch is tried first, so memory fails at once or never. A few batches of every size, timed, predict the rest.
"""

import time
from typing import NamedTuple

from adaptory.errors import PlanError, StageError
from adaptory.frozen import Frozen
from adaptory.training import checkpoint, devices, preemption, recompute
from adaptory.training.batches import sorted_batches
from adaptory.training.network import block_count, blocks
from adaptory.training.objectives import losses
from adaptory.training.operations import flops
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
    recomputes: bool  # activations, in the backward pass: kept, they would not find room
    padding: float  # share of the computed tokens that is padding
    flops: float  # floating-point operations of the whole training
    first_rate: float
    peak_rate: float
    last_rate: float

    def sentence(self) -> str:
        """For a person."""
        rates = f"rate {self.first_rate:.2g} first, {self.peak_rate:.2g} at its peak, {self.last_rate:.2g} last"
        again = "; activations are computed again in the backward pass, for all of them would not find room"
        told = f"plan: {self.steps:,} steps in about {_minutes(self.seconds)}, {self.memory:.1f} GB; {rates}"
        return told + again * self.recomputes


@devices.memory_told(PlanError, devices.LESS)
def forecast(work: Work, *, shared: bool = False) -> Forecast:
    """Computes the longest batch and a few others, and predicts. Leaves the weights as they were.

    The deadline counts what it took to begin, unless that is `shared` with other trials: the first would pay for all of them.

    Raises PlanError for a plan that is predicted to exceed training.deadline, training.memory or the memory there is. A training
    that goes on from a checkpoint was let pass when it began; it is not stopped by a prediction any more.
    """
    settings = work.goal.settings
    micro = work.batches(0)
    tokens = [work.computed(rows) for rows in micro]
    ordered = sorted(micro, key=work.computed)
    # Other epochs have other batches, where a window is less than fits into memory.
    every = (rows for epoch in range(settings.epochs) for rows in (work.batches(epoch) if epoch else micro))
    longest = max(every, key=work.computed)
    # One batch out of the middle of each of several classes of size: their mean is that of all batches.
    count = min(_TIMED, len(micro))
    timed = [ordered[int((place + 0.5) * len(micro) / count)] for place in range(count)]
    loaded = devices.peak_memory(work.device)
    work.model.train()
    found = _measured(work, longest, timed, loaded)
    roomy = found is not None and found.memory <= _room(work)[0]
    recomputes = not all(devices.gathered([roomy])) and recompute.attach(work.model)
    if recomputes:
        found = _measured(work, longest, timed, loaded)
    if found is None:
        raise PlanError(f"the longest batch ({work.computed(longest):,} tokens) does not fit into memory; {_smaller(work)}")
    epoch = (found.batch * len(micro) + found.validation) / devices.world()
    steps = work.planned_steps
    warmup = min(int(settings.warmup * steps), steps - 1)
    rates = [settings.learning_rate * rate(step, steps, warmup, settings.schedule) for step in (0, warmup, steps - 1)]
    epoch, begun = map(max, zip(*devices.gathered([(epoch, 0.0 if shared else _begun(work))]), strict=True))
    made = Forecast(
        steps=steps, seconds=epoch * settings.epochs, seconds_per_epoch=epoch, memory=found.memory, recomputes=recomputes,
        padding=max(0.0, 1 - sum(work.lengths) / sum(tokens)), flops=flops(work, sum(tokens)) * settings.epochs,
        first_rate=rates[0], peak_rate=rates[1], last_rate=rates[2],
    )  # fmt: skip
    if not checkpoint.exists(work.folder, work.key):
        _check(work, made, found.grows, work.computed(longest), begun)
    return made


class _Measured(NamedTuple):
    """What was found by trying."""

    batch: float  # seconds, on average
    validation: float  # seconds
    memory: float  # GB at the peak of the whole training, in the process that takes most
    grows: float  # GB of it, here, that grow with a batch


def _measured(work: Work, longest: list[int], timed: list[list[int]], loaded: float) -> _Measured | None:
    """What the longest batch, these and a validation take, after loading took so many GB; None if a process has no room: what
    one refuses, all do, or they would wait for it."""
    devices.forget_peak(work.device)
    start = devices.peak_memory(work.device)
    if not all(devices.gathered([_fits(work, longest)])):
        return None
    # Twice: what disturbs a machine, as an installation that is still being written to its disk, only ever adds.
    seconds = min(sum(_compute(work, rows) for rows in timed) for _ in range(2))
    for weight in work.model.parameters():
        weight.grad = None
    validation = _validation(work)
    grows = devices.in_pieces(work.device) * (devices.peak_memory(work.device) - start)
    memory = max(devices.gathered([max(loaded, start + grows + _kept_later(work))]))
    return _Measured(seconds / len(timed), validation, memory, grows)


def _begun(work: Work) -> float:
    """Seconds that loading the base, computing what is frozen and scoring what is compared took."""
    return time.monotonic() - work.began


def _fits(work: Work, rows: list[int]) -> bool:
    """Whether forward and backward of a batch find room."""
    import torch

    try:
        _compute(work, rows)
    except (torch.OutOfMemoryError, RuntimeError) as fault:
        if not devices.is_memory(fault):
            raise
        if devices.sharded():  # the others wait for this one's parts, and end with it
            raise StageError(f"a batch of {work.computed(rows):,} tokens does not fit into memory; {devices.LESS}") from None
        return False
    finally:
        for weight in work.model.parameters():
            weight.grad = None
    return True


def _smaller(work: Work) -> str:
    """The largest batch, halved again and again, that was tried and found room."""
    windows, size = work.windows(0), work.micro_tokens // 2
    while size >= 1:
        largest = max((rows for window in windows for rows in work.cut(window, size)), key=work.computed)
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


def _room(work: Work) -> tuple[float, str]:
    """GB that the training may take, and what says so."""
    asked, here = work.goal.settings.memory, devices.capacity(work.device)
    return (asked, "training.memory") if asked and asked < here else (here, "there is here")


def _check(work: Work, made: Forecast, batch: float, tokens: int, begun: float) -> None:
    settings, (most, named) = work.goal.settings, _room(work)
    all_fit = all(devices.gathered([made.memory <= most]))  # or those that go on would wait for those that do not
    if made.memory > most:
        told = f"the training takes {made.memory:.2f} GB, more than {named} ({most:.3g})"
        # What a batch takes grows with its tokens; the rest does not.
        left = batch - (made.memory - most)
        size = int(min(work.micro_tokens, tokens) * left / batch) if batch > 0 else 0
        size -= size % devices.ROWS if work.goal.tree else 0  # it would be filled up
        if size >= max(work.lengths):
            raise PlanError(f"{told}; with training.micro_tokens: {size} it would take {most:.3g}")
        raise PlanError(f"{told}; {made.memory - batch:.2f} GB of it do not depend on the batch: lower max_tokens or top_layers")
    if not all_fit:
        raise PlanError(f"the training takes {made.memory:.2f} GB, more than another of its processes may; {devices.LESS}")
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
