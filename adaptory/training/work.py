"""What a training is made of, where it stands, and how it goes on from a checkpoint."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptory.errors import StageError
from adaptory.training import checkpoint, curve, devices, preemption, recompute
from adaptory.training.adapter import digest_of_weights
from adaptory.training.batches import micro_batches, packs, plan
from adaptory.training.objectives import Objective, sequences_of
from adaptory.training.render import Example
from adaptory.training.tree import alike, tokens_of

_COPIES = 3  # keys and values of what rows share are copied for each of them: at most so many times micro_tokens in a batch


@dataclass(frozen=True)
class Work:
    """Everything a training is made of."""

    model: Any
    goal: Objective
    train: Sequence[Example]
    validation: Sequence[Example]
    key: str  # a checkpoint of another key is not gone on from
    folder: Path  # for checkpoints
    emit: Callable[[curve.Event], None]
    reference: Sequence[tuple[float, float]] = ()  # of the training rows, for DPO
    validation_reference: Sequence[tuple[float, float]] = ()
    trunk: Any = None
    every: float = 30.0  # seconds between checkpoints
    began: float = field(default_factory=time.monotonic)  # by the clock of this process

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each training row, as many sequences as it is."""
        return [row.length * self.goal.sequences for row in self.train]

    @cached_property
    def shared(self) -> int:
        """Tokens that all training rows begin with, computed once for each batch of a tree."""
        return alike(sequences_of(self.goal, self.train)) if self.goal.tree else 0

    @cached_property
    def own(self) -> list[int]:
        """Tokens that each training row adds to a batch of a tree."""
        return [tokens_of(sequences_of(self.goal, [row]), self.shared) for row in self.train]

    def windows(self, epoch: int) -> list[list[int]]:
        """The rows of each step of an epoch, the same whether they are then packed or padded."""
        settings = self.goal.settings
        return plan(self.lengths, settings.batch_rows, settings.seed, epoch, alike=not self.goal.packs)

    def batches(self, epoch: int) -> list[list[int]]:
        """The rows of what is computed at a time in an epoch."""
        return [rows for window in self.windows(epoch) for rows in self.cut(window, self.micro_tokens)]

    def computed(self, rows: Sequence[int]) -> int:
        """Tokens that a batch of these rows computes, what pads or fills it included."""
        if self.goal.tree:
            tokens = self.shared + sum(self.own[row] for row in rows)
            return tokens + -tokens % devices.ROWS
        return len(rows) * max(self.lengths[row] for row in rows)

    def cut(self, window: Sequence[int], tokens: int) -> list[list[int]]:
        """The rows of a step in batches of at most so many tokens, or of one row: alike large, and no turn too many."""
        return self._cut(window, self.room(window, tokens))

    def _cut(self, window: Sequence[int], tokens: int) -> list[list[int]]:
        if not self.goal.tree:
            return micro_batches(window, self.lengths, tokens)
        copies = self.shared * (2 * self.goal.sequences - 1)  # of a pair, the question before both answers has one, too
        most = _COPIES * max(tokens, self.micro_tokens) // max(1, copies)
        return packs(window, self.own, tokens - self.shared, max(1, most))

    def room(self, window: Sequence[int], tokens: int) -> int:
        """Tokens of a batch: as few as they can be while no process has more batches than it must."""
        costs = [(self.own if self.goal.tree else self.lengths)[row] for row in window]
        most = math.ceil(len(self._cut(window, tokens)) / devices.world()) * devices.world()
        size = self.shared + max(*costs, math.ceil(sum(costs) / most))
        while size < tokens and len(self._cut(window, size)) > most:
            size += 1 + size // 20
        return min(size, tokens)

    def tell(self, event: curve.Event) -> None:
        """Tells the event and keeps it for the learning curve."""
        self.emit(event)
        curve.note(self.folder, event)

    @property
    def device(self) -> Any:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def micro_tokens(self) -> int:
        """Tokens of a batch, as the recipe says or as suits the device."""
        return self.goal.settings.micro_tokens or devices.tokens_at_once(self.device)

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
    seconds: float = 0.0  # in steps
    validating: float = 0.0  # seconds
    best: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Any] = field(default_factory=dict)
    since_best: int = 0  # epochs
    halved: bool = False
    before: float = 0.0  # seconds that earlier attempts took, from their beginning to the checkpoint

    def give_up_weights(self) -> None:
        """Frees what only further steps need."""
        self.optimizer, self.weights, self.best_weights = None, {}, {}

    def gave_up(self, patience: int | None) -> bool:
        """Whether so many epochs brought nothing better."""
        return patience is not None and self.since_best >= patience

    def wall(self, began: float) -> float:
        """Seconds that the training took so far, all attempts together."""
        return self.before + time.monotonic() - began


def begin(work: Work) -> State:
    """A fresh start, or where the newest whole checkpoint of the same training stood."""
    import torch

    settings, named = work.goal.settings, work.model.named_parameters()
    weights = {name: weight for name, weight in named if weight.requires_grad}
    optimizer = torch.optim.AdamW(decay_groups(weights, settings.weight_decay), lr=settings.learning_rate, fused=True)
    state = State(optimizer, weights, work.micro_tokens)
    if found := checkpoint.newest(work.folder, work.key):
        _restore(work, state, found)
        if not devices.rank():
            work.emit({"event": "stage", "what": f"going on from the checkpoint of step {state.step:,}"})
    elif not devices.rank():
        (work.folder / curve.CURVE).unlink(missing_ok=True)  # of an attempt that ended before its first checkpoint
    if devices.world() > 1 and len(set(devices.gathered([(state.step, digest_of_weights(work.model))]))) > 1:
        raise StageError(
            f"the processes of this training begin with other weights, or from other checkpoints; on several machines "
            f"{work.folder} must be one folder that all of them see (and PiSSA needs machines that round alike)"
        )
    return state


def decay_groups(weights: dict[str, Any], decay: float) -> list[dict[str, Any]]:
    """The optimizer's groups: matrices are drawn towards 0; biases, norms and IA3's scales, whose neutral value is 1, are not."""
    drawn = {name for name, weight in weights.items() if weight.ndim > 1 and "ia3_" not in name}
    groups = [
        {"params": [weight for name, weight in weights.items() if name in drawn], "weight_decay": decay},
        {"params": [weight for name, weight in weights.items() if name not in drawn], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def save(work: Work, state: State) -> None:
    """Keeps a checkpoint of this state."""
    preemption.patience()
    if not devices.rank():
        # Copied to the host one by one: a GPU that trains at its limit has no room for a second set.
        tensors = {f"weight.{name}": weight.detach().cpu().contiguous() for name, weight in state.weights.items()}
        for name, weight in state.weights.items():
            for part, value in state.optimizer.state[weight].items():
                tensors[f"optimizer.{part}.{name}"] = value.detach().cpu().contiguous()
        tensors |= {f"best.{name}": weight for name, weight in state.best_weights.items()}
        facts = {
            "before": state.wall(work.began),
            "epoch": state.epoch, "tokens": state.tokens, "seconds": state.seconds, "validating": state.validating,
            "best": state.best, "since_best": state.since_best, "micro_tokens": state.micro_tokens, "halved": state.halved,
            "recomputes": recompute.attached(work.model),
        }  # fmt: skip
        checkpoint.write(work.folder, state.step, tensors, facts, work.key)
    devices.wait()


def _restore(work: Work, state: State, found: checkpoint.Checkpoint) -> None:
    import torch

    facts, tensors = found.facts, found.tensors
    state.step = facts["step"]
    state.epoch, state.tokens, state.seconds = facts["epoch"], facts["tokens"], facts["seconds"]
    state.validating, state.before = facts["validating"], facts.get("before", 0.0)
    state.best, state.since_best = facts["best"], facts["since_best"]
    state.micro_tokens, state.halved = facts["micro_tokens"], facts["halved"]
    if facts.get("recomputes"):
        recompute.attach(work.model)
    with torch.no_grad():
        for name, weight in state.weights.items():
            weight.copy_(tensors[f"weight.{name}"])
            parts = [key.split(".")[1] for key in tensors if key.startswith("optimizer.") and key.split(".", 2)[2] == name]
            state.optimizer.state[weight] = {p: tensors[f"optimizer.{p}.{name}"].to(weight.device) for p in parts}
    best = {name: f"best.{name}" for name in state.weights}
    state.best_weights = {name: tensors[key] for name, key in best.items() if key in tensors}
    if not devices.rank():
        kept = curve.told(work.folder, until=state.step)
        curve.write(work.folder, [line for line in kept if line["event"] != "epoch" or line["epoch"] <= state.epoch])
