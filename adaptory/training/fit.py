"""The training loop: plain, resumable at any step, and stopped by the first number that is not finite."""

import math
import time
from collections.abc import Sequence
from typing import Any

from adaptory.errors import Preempted, TrainingError
from adaptory.training import devices, preemption
from adaptory.training.objectives import losses
from adaptory.training.schedules import rate
from adaptory.training.validate import SCORES, validate
from adaptory.training.work import State, Work, begin, save


def fit(work: Work, until: int | None = None) -> State:
    """Trains the model's trainable weights and leaves it with those of the best epoch.

    With `until`, it pauses after that step, with the weights of that step and a checkpoint: called again, it goes on as if
    it had not paused. Ties keep the earlier epoch. Raises TrainingError, before the optimizer moves, when loss or gradient is
    not finite or memory does not suffice, and Preempted after saving a checkpoint when SIGTERM came.
    """
    settings = work.goal.settings
    with preemption.patiently(), devices.memory_told(TrainingError, devices.LESS):
        state = begin(work)
        saved = time.monotonic()
        while state.epoch < settings.epochs and not state.gave_up(settings.patience):
            work.model.train()
            for window in work.windows(state.epoch)[state.step - state.epoch * work.steps_per_epoch :]:
                if until is not None and state.step >= until:
                    save(work, state)
                    return state
                told, due = _step(work, state, window, due=time.monotonic() - saved > work.every)
                if told or due:
                    save(work, state)
                    saved = time.monotonic()
                if told:
                    raise Preempted(preemption.TOLD)
            try:
                _end_of_epoch(work, state)
            except Preempted:  # the epoch's steps are done; its validation is made again
                save(work, state)
                raise
            save(work, state)
            saved = time.monotonic()
    import torch

    with torch.no_grad():
        for name, weight in state.weights.items():
            weight.copy_(state.best_weights[name])
    work.model.eval()
    return state


def _step(work: Work, state: State, window: Sequence[int], *, due: bool) -> tuple[bool, bool]:
    """One optimizer step; whether a SIGTERM waits, and whether a checkpoint is due: the same answers in every process."""
    import torch

    began, settings, steps = time.monotonic(), work.goal.settings, work.planned_steps
    warmup = min(int(settings.warmup * steps), steps - 1)
    for group in state.optimizer.param_groups:
        group["lr"] = settings.learning_rate * rate(state.step, steps, warmup, settings.schedule)
    # What is random in a step is a function of the step, so that nothing of it must be kept.
    torch.manual_seed(settings.seed * 1_000_003 + state.step * 1009 + devices.rank())
    loss, told, starved, due = _gradient(work, state, window, due=due)
    while starved:
        _halve(work, state, window)
        loss, told, starved, due = _gradient(work, state, window, due=due)
    weights = list(state.weights.values())
    norm = torch.nn.utils.clip_grad_norm_(weights, settings.clip_norm).item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        rows = ", ".join(work.train[row].row for row in window[:8])
        raise TrainingError(
            f"training step {state.step + 1}: loss {loss}, gradient norm {norm}; stopped before the weights moved. "
            f"Lower training.learning_rate ({settings.learning_rate}), or look at these rows: {rows}"
        )
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.tokens += sum(work.lengths[row] for row in window)
    state.seconds += time.monotonic() - began
    if not devices.rank():
        work.tell({
            "event": "step", "step": state.step, "steps": steps, "loss": loss, "gradient_norm": norm,
            "learning_rate": state.optimizer.param_groups[0]["lr"],
            "rows_per_second": state.step * settings.batch_rows / state.seconds,
            "tokens_per_second": state.tokens / state.seconds, "seconds_per_step": state.seconds / state.step,
        })  # fmt: skip
    return told, due


def _gradient(work: Work, state: State, window: Sequence[int], *, due: bool) -> tuple[float, bool, bool, bool]:
    """The gradient of the window's summed loss by its weight, however it is cut and shared.

    Returns the loss, whether a SIGTERM came or memory ran out in any process, and whether a checkpoint is due by the clock of
    the first: all of them must do the same next.
    """
    import torch

    weight = sum(work.goal.weight(work.train[row]) for row in window)
    parts, starved = [], False
    cut = work.cut(window, state.micro_tokens)
    own = devices.own(len(cut))
    for turn, rows in enumerate(devices.share(cut)):
        try:
            parts.append(_backward(work, state, rows, weight, counts=turn < own))
        except (torch.OutOfMemoryError, RuntimeError) as fault:
            if not devices.is_memory(fault):
                raise
            if devices.sharded():  # the others wait for this one's parts, and end with it
                raise
            starved = True
            break
    total = float(sum(part.item() for part in parts))  # a device is not waited for after every batch
    told = [total, float(preemption.asked()), float(starved), float(due and not devices.rank())]
    total, stop, short, late = devices.add_up(list(state.weights.values()), told)
    return total, stop > 0, short > 0, late > 0


def _backward(work: Work, state: State, rows: Sequence[int], weight: float, *, counts: bool) -> Any:
    preemption.beat()
    some = [work.train[row] for row in rows]
    reference = [work.reference[row] for row in rows] if work.reference else ()
    with devices.computing(work.device, work.goal.settings.precision):
        each, _ = losses(work.goal, work.model, some, (work.goal.settings.seed, state.epoch), reference, work.trunk)
        loss = each.sum() / weight * counts
    loss.backward()
    return loss.detach()


def _end_of_epoch(work: Work, state: State) -> None:
    began = time.monotonic()
    scores = validate(work.goal, work.model, work.validation, work.validation_reference, work.trunk)
    if not all(map(math.isfinite, scores.values())):
        told = ", ".join(f"{name} {value}" for name, value in scores.items())
        lower = f"lower training.learning_rate ({work.goal.settings.learning_rate})"
        raise TrainingError(f"epoch {state.epoch + 1}: the validation is not finite ({told}); {lower}")
    state.validating += time.monotonic() - began
    state.epoch += 1
    state.since_best += 1
    if not state.best or scores["score"] > state.best["score"]:
        state.best, state.since_best = scores, 0
        state.best_weights = {name: weight.detach().to("cpu", copy=True) for name, weight in state.weights.items()}
    if not devices.rank():
        measured = SCORES[work.goal.name]
        work.tell({"event": "epoch", "epoch": state.epoch, "step": state.step, "measured": measured, **scores})


def _halve(work: Work, state: State, window: Sequence[int]) -> None:
    """Makes room for one more try at half the micro-batch and the same window. Raises TrainingError the second time.

    Half of what the window takes, that is, where it is less than would be allowed.
    """
    state.optimizer.zero_grad(set_to_none=True)
    if state.halved:
        raise TrainingError(
            f"out of memory at training step {state.step + 1} also with {state.micro_tokens} tokens at once; {devices.LESS}"
        )
    state.halved, state.micro_tokens = True, max(1, work.room(window, state.micro_tokens) // 2)
    if not devices.rank():
        told = f"out of memory: going on with {state.micro_tokens} tokens at once, same rows per step"
        work.emit({"event": "stage", "what": told})
