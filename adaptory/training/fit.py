"""The training loop: plain, resumable at any step, and stopped by the first number that is not finite."""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptory.errors import Preempted, StageError
from adaptory.training import checkpoint, devices, preemption
from adaptory.training.batches import micro_batches, packs, plan
from adaptory.training.objectives import Objective, summed
from adaptory.training.render import Example
from adaptory.training.schedules import rate
from adaptory.training.validate import SCORES, validate

Event = dict[str, Any]
CURVE = "training.jsonl"


@dataclass(frozen=True)
class Work:
    """Everything a training is made of."""

    model: Any
    goal: Objective
    train: Sequence[Example]
    validation: Sequence[Example]
    key: str  # a checkpoint of another key is not gone on from
    folder: Path  # for checkpoints
    emit: Callable[[Event], None]
    reference: Sequence[tuple[float, float]] = ()  # of the training rows, for DPO
    validation_reference: Sequence[tuple[float, float]] = ()
    trunk: Any = None
    every: float = 30.0  # seconds between checkpoints

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each training row, as many sequences as it is."""
        return [row.length * self.goal.sequences for row in self.train]

    def windows(self, epoch: int) -> list[list[int]]:
        """The rows of each step of an epoch."""
        return plan(self.lengths, self.goal.settings.batch_rows, self.goal.settings.seed, epoch)

    def cut(self, window: Sequence[int], tokens: int) -> list[list[int]]:
        """The rows of a step in batches that fit into memory."""
        return (packs if self.goal.settings.packing else micro_batches)(window, self.lengths, tokens)

    def room(self, window: Sequence[int], tokens: int) -> int:
        """Tokens of a batch, small enough that every process has one to compute."""
        longest = max(self.lengths[row] for row in window)
        return min(tokens, max(longest, math.ceil(longest * len(window) / devices.world())))

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train) / self.goal.settings.batch_rows)

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.goal.settings.epochs * self.steps_per_epoch


@dataclass
class State:
    """Where a training stands. Its position is one integer, the step: the plan is a function of it."""

    optimizer: Any
    weights: dict[str, Any]
    micro_tokens: int
    step: int = 0
    epoch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Any] = field(default_factory=dict)
    since_best: int = 0  # epochs
    halved: bool = False


def fit(work: Work) -> State:
    """Trains the model's trainable weights and leaves it with those of the best epoch.

    Ties keep the earlier epoch. Raises StageError, before the optimizer moves, when loss or gradient is not finite, and
    Preempted after saving a checkpoint when SIGTERM came.
    """
    settings = work.goal.settings
    with preemption.patiently():
        state = begin(work)
        saved = time.monotonic()
        while state.epoch < settings.epochs and not (settings.patience and state.since_best >= settings.patience):
            work.model.train()
            for window in work.windows(state.epoch)[state.step - state.epoch * work.steps_per_epoch :]:
                told = _step(work, state, window)
                if told or time.monotonic() - saved > work.every:
                    _save(work, state)
                    saved = time.monotonic()
                if told:
                    raise Preempted(preemption.TOLD)
            _end_of_epoch(work, state)
            _save(work, state)
            saved = time.monotonic()
    import torch

    with torch.no_grad():
        for name, weight in state.weights.items():
            weight.copy_(state.best_weights[name])
    work.model.eval()
    return state


def begin(work: Work) -> State:
    """A fresh start, or where the newest whole checkpoint of the same training stood."""
    import torch

    settings, named = work.goal.settings, work.model.named_parameters()
    weights = {name: weight for name, weight in named if weight.requires_grad}
    decayed = [weight for weight in weights.values() if weight.ndim > 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": [weight for weight in weights.values() if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate, fused=True)
    state = State(optimizer, weights, settings.micro_tokens)
    if found := checkpoint.newest(work.folder, work.key):
        _restore(work, state, found)
        if not devices.rank():
            work.emit({"event": "stage", "what": f"going on from the checkpoint of step {state.step:,}"})
    elif not devices.rank():
        (work.folder / CURVE).unlink(missing_ok=True)  # of an attempt that ended before its first checkpoint
    return state


def _step(work: Work, state: State, window: Sequence[int]) -> bool:
    """One optimizer step; whether a SIGTERM waits (the same answer in every process)."""
    import torch

    began, settings, steps = time.monotonic(), work.goal.settings, work.planned_steps
    warmup = min(int(settings.warmup * steps), steps - 1)
    for group in state.optimizer.param_groups:
        group["lr"] = settings.learning_rate * rate(state.step, steps, warmup, settings.schedule)
    # What is random in a step is a function of the step, so that nothing of it must be kept.
    torch.manual_seed(settings.seed * 1_000_003 + state.step * 1009 + devices.rank())
    loss, told, starved = _gradient(work, state, window)
    while starved:
        _halve(work, state)
        loss, told, starved = _gradient(work, state, window)
    weights = list(state.weights.values())
    norm = torch.nn.utils.clip_grad_norm_(weights, settings.clip_norm).item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        rows = ", ".join(work.train[row].row for row in window[:8])
        raise StageError(
            f"training step {state.step + 1}: loss {loss}, gradient norm {norm}; stopped before the weights moved. "
            f"Lower training.learning_rate ({settings.learning_rate}), or look at these rows: {rows}"
        )
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.tokens += sum(work.lengths[row] for row in window)
    state.seconds += time.monotonic() - began
    _tell(work, state, loss, norm)
    return told


def _gradient(work: Work, state: State, window: Sequence[int]) -> tuple[float, bool, bool]:
    """The gradient of the window's summed loss by its weight, however it is cut and shared.

    Returns the loss, and whether a SIGTERM came or memory ran out in any process: all of them must do the same next.
    """
    import torch

    weight = sum(work.goal.weight(work.train[row]) for row in window)
    total, starved = 0.0, False
    for rows in devices.share(work.cut(window, work.room(window, state.micro_tokens))):
        try:
            total += _backward(work, state, rows, weight)
        except (torch.OutOfMemoryError, RuntimeError) as fault:
            if not is_memory(fault):
                raise
            starved = True
            break
    told = [total, float(preemption.asked()), float(starved)]
    total, stop, short = devices.add_up(list(state.weights.values()), told)
    return total, stop > 0, short > 0


def _backward(work: Work, state: State, rows: Sequence[int], weight: float) -> float:
    preemption.beat()
    some = [work.train[row] for row in rows]
    if work.trunk:
        work.trunk.show(work.goal, some)
    reference = [work.reference[row] for row in rows] if work.reference else ()
    with devices.computing(next(work.model.parameters()).device, work.goal.settings.precision):
        loss = summed(work.goal, work.model, some, (work.goal.settings.seed, state.epoch), reference) / weight
    loss.backward()
    return float(loss.item())


def _end_of_epoch(work: Work, state: State) -> None:
    scores = validate(work.goal, work.model, work.validation, work.validation_reference, work.trunk)
    state.epoch += 1
    state.since_best += 1
    if not state.best or scores["score"] > state.best["score"]:
        state.best, state.since_best = scores, 0
        state.best_weights = {name: weight.detach().clone() for name, weight in state.weights.items()}
    if not devices.rank():
        measured = SCORES[work.goal.name]
        _note(work, {"event": "epoch", "epoch": state.epoch, "step": state.step, "measured": measured, **scores})


def _tell(work: Work, state: State, loss: float, norm: float) -> None:
    if devices.rank():
        return
    rows = state.step * work.goal.settings.batch_rows
    _note(work, {
        "event": "step", "step": state.step, "steps": work.planned_steps, "loss": loss, "gradient_norm": norm,
        "learning_rate": state.optimizer.param_groups[0]["lr"], "rows_per_second": rows / state.seconds,
        "tokens_per_second": state.tokens / state.seconds, "seconds_per_step": state.seconds / state.step,
    })  # fmt: skip


def _note(work: Work, event: Event) -> None:
    """Tells the event and keeps it for the learning curve."""
    work.emit(event)
    work.folder.mkdir(parents=True, exist_ok=True)
    with (work.folder / CURVE).open("a", encoding="utf-8") as curve:
        curve.write(json.dumps(event) + "\n")


def curve(folder: Path, until: int | None = None) -> list[Event]:
    """What was told of the training in this folder, up to a step; without what a later attempt told again."""
    if not (folder / CURVE).is_file():
        return []
    found = []
    for line in (folder / CURVE).read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):  # a line that was cut off when the process died
            found.append(json.loads(line))
    return [line for line in found if until is None or line["step"] <= until]


def _save(work: Work, state: State) -> None:
    if not devices.rank():
        tensors = {f"weight.{name}": weight.detach().contiguous() for name, weight in state.weights.items()}
        for name, weight in state.weights.items():
            for part, value in state.optimizer.state[weight].items():
                tensors[f"optimizer.{part}.{name}"] = value.detach().clone()
        tensors |= {f"best.{name}": weight for name, weight in state.best_weights.items()}
        facts = {
            "epoch": state.epoch, "tokens": state.tokens, "seconds": state.seconds, "best": state.best,
            "since_best": state.since_best, "micro_tokens": state.micro_tokens, "halved": state.halved,
        }  # fmt: skip
        checkpoint.write(work.folder, state.step, tensors, facts, work.key)
    devices.wait()


def _restore(work: Work, state: State, found: checkpoint.Checkpoint) -> None:
    import torch

    facts, tensors = found.facts, found.tensors
    state.step = facts["step"]
    state.epoch, state.tokens, state.seconds = facts["epoch"], facts["tokens"], facts["seconds"]
    state.best, state.since_best = facts["best"], facts["since_best"]
    state.micro_tokens, state.halved = facts["micro_tokens"], facts["halved"]
    with torch.no_grad():
        for name, weight in state.weights.items():
            weight.copy_(tensors[f"weight.{name}"])
            parts = [key.split(".")[1] for key in tensors if key.startswith("optimizer.") and key.split(".", 2)[2] == name]
            state.optimizer.state[weight] = {p: tensors[f"optimizer.{p}.{name}"].to(weight.device) for p in parts}
    best = {name: f"best.{name}" for name in state.weights}
    state.best_weights = {name: tensors[key].to(state.weights[name].device) for name, key in best.items() if key in tensors}
    if not devices.rank():
        kept = curve(work.folder, until=state.step)
        told = [line for line in kept if line["event"] != "epoch" or line["epoch"] <= state.epoch]
        (work.folder / CURVE).write_text("".join(json.dumps(line) + "\n" for line in told), encoding="utf-8")


def is_memory(fault: Exception) -> bool:
    """Whether this is memory that ran out, of a GPU or of the host."""
    import torch

    return isinstance(fault, torch.OutOfMemoryError) or "not enough memory" in str(fault)


def _halve(work: Work, state: State) -> None:
    """Makes room for one more try at half the micro-batch and the same window. Raises StageError the second time."""
    state.optimizer.zero_grad(set_to_none=True)
    if state.halved:
        raise StageError(
            f"out of memory at training step {state.step + 1} also with {state.micro_tokens} tokens at once; "
            "lower training.micro_tokens, top_layers or max_tokens"
        )
    state.halved, state.micro_tokens = True, max(1, state.micro_tokens // 2)
    if not devices.rank():
        told = f"out of memory: going on with {state.micro_tokens} tokens at once, same rows per step"
        work.emit({"event": "stage", "what": told})
