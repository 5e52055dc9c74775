"""A training that pauses part of the way, to be compared with others: how good it is so far."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaptory import whole
from adaptory.errors import BaseModelError, PlanError, RecipeError, TrainingError
from adaptory.frozen import Frozen
from adaptory.run import Run


class Pause(Frozen):
    """How a training stood when a share of its steps was done. Without a score it cannot go on, and `failed` says why."""

    schema_version: str = "pause/v1"
    step: int
    planned_steps: int
    score: float | None
    measured: str  # what the score is
    failed: str | None = None
    refused: bool = False  # by its plan: raised limits, or another machine, may let it pass, so it is asked again
    seconds: float  # of training, so far
    flops: float
    trainable: int  # parameters


def read(run: Run, share: float) -> Pause | None:
    """How the run's training stood at this share of its steps, if it was there."""
    path = _place(run, share)
    return Pause.model_validate_json(path.read_bytes()) if path.is_file() else None


def settled(run: Run, share: float) -> Pause | None:
    """The same, unless it is to be tried again."""
    found = read(run, share)
    return None if found is None or found.refused else found


def files(run: Run) -> list[Path]:
    """Everything that is noted of how far the run's training came."""
    return sorted(run.candidate_folder.parent.glob(f"{run.candidate_folder.name}.pause-*.json"))


def attempt(run: Run, share: float, emit: Callable[[dict[str, Any]], None], every: float = 30.0) -> Pause:
    """Trains the run's candidate up to this share of its steps, scores it, and leaves a checkpoint to go on from.

    A training that cannot go on, or not even begin, with its settings is a result too.
    """
    if found := settled(run, share):
        return found
    from adaptory.training import adapter, candidate, checkpoint, devices, fit, methods, network, operations, planner
    from adaptory.training.setup import setup
    from adaptory.training.validate import SCORES, validate

    with devices.joined(), candidate.lock(run):
        if any(devices.gathered([settled(run, share) is not None])):  # by another process, while this one waited
            found = read(run, share)
            assert found is not None
            return found
        tell = emit if not devices.rank() else lambda event: None
        adapter.check_base(run.workspace.data(run.recipe.name) / "base", run.dataset.base)
        methods.check_device(run.settings)  # these two are no fault of the settings
        devices.forget_peak(network.device())
        try:
            work, _ = setup(run, tell, every)
        except (RecipeError, BaseModelError, PlanError) as fault:  # settings that this base, or machine, cannot be trained with
            if not devices.rank():
                failed(run, fault, share)
            devices.wait()
            found = read(run, share)
            assert found is not None
            return found
        measured, trainable = SCORES[work.goal.name], methods.count(work.model)[0]
        steps = max(1, round(share * work.planned_steps))
        cost = operations.flops(work, operations.tokens_of_epoch(work)) / work.steps_per_epoch  # of a step
        facts: dict[str, Any] = {"planned_steps": work.planned_steps, "measured": measured, "trainable": trainable}
        try:
            if not checkpoint.exists(work.folder, work.key):
                planner.forecast(work, shared=True)  # what does not fit, or not in time, is told before it costs
            state = fit.fit(work, steps)
        except (TrainingError, PlanError) as fault:
            refused = isinstance(fault, PlanError)
            made = Pause(step=0, score=None, failed=str(fault), refused=refused, seconds=0.0, flops=0.0, **facts)
        else:
            scores = validate(work.goal, work.model, work.validation, work.validation_reference, work.trunk)
            done = state.step / work.steps_per_epoch
            score = scores["score"] if math.isfinite(scores["score"]) else None
            reason = None if score is not None else "the loss on the validation rows is not finite"
            made = Pause(step=state.step, score=score, failed=reason, seconds=state.seconds, flops=cost * state.step, **facts)
            told = {name: value for name, value in scores.items() if name != "score"}
            tell({"event": "epoch", "epoch": round(done, 2), "step": state.step, "measured": measured, **told})
        if not devices.rank():
            whole.write(_place(run, share), made.model_dump_json(indent=1) + "\n")
        devices.wait()
    return made


def failed(run: Run, fault: Exception, share: float = 1.0) -> None:
    """Notes that the run's training cannot go as far as this share of its steps."""
    made = Pause(
        step=0, planned_steps=0, score=None, measured="", failed=str(fault), refused=isinstance(fault, PlanError), seconds=0.0,
        flops=0.0, trainable=0,
    )  # fmt: skip
    run.candidate_folder.parent.mkdir(parents=True, exist_ok=True)
    whole.write(_place(run, share), made.model_dump_json(indent=1) + "\n")


def _place(run: Run, share: float) -> Path:
    """Beside the checkpoints, which are gone when the training is done."""
    return run.candidate_folder.with_name(f"{run.candidate_folder.name}.pause-{share:.4f}.json")
