"""A candidate: the adapter that may become champion, and the record of how it was made."""

import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from adaptory.errors import StageError
from adaptory.recipe import Frozen, Task
from adaptory.recipe.training import Training
from adaptory.run import Run

CARD = "candidate.json"


class Candidate(Frozen):
    """What was trained, from what, and how far. Its digest names the adapter's bytes."""

    schema_version: str = "candidate/v2"
    recipe: str
    key: str
    digest: str
    base_reference: str
    base_digest: str
    data_digest: str
    start: str | None  # digest of the release whose adapter this one went on from
    task: Task
    classes: tuple[str, ...]
    training: Training
    rendering: str  # digest of tokenizer, template and length: evaluation and serving must have the same
    objective: str
    centre: float  # of the values of a regression
    spread: float
    planned_steps: int
    done_steps: int
    stopped_early: bool  # by training.patience, which counts as done
    halved: bool  # memory ran out once, and the rest was computed in halves
    recomputed: bool = False  # activations, in the backward pass: memory would not have held all of them
    trainable_parameters: int
    total_parameters: int
    validation: dict[str, float]
    first_digest: str  # of the weights before the first step
    rows_left_out: int
    tokens: int
    flops: float
    seconds: float
    device: str
    processes: int = 1  # that trained together
    predicted_seconds: float = 0.0  # of the steps and validations, by the plan
    fit_seconds: float = 0.0  # and what they took
    predicted_memory: float = 0.0  # GB, by the plan
    peak_memory: float  # GB

    @property
    def due_steps(self) -> int:
        """The steps that it had to do: those planned, or those after which training.patience ended it."""
        return self.done_steps if self.stopped_early else self.planned_steps


def read(folder: Path) -> Candidate | None:
    """The finished candidate in `folder`, or None: the card is written last."""
    card = folder / CARD
    return Candidate.model_validate_json(card.read_bytes()) if card.is_file() else None


def finished(run: Run) -> Candidate:
    """The run's finished candidate. Raises StageError if it is not trained yet."""
    if found := read(run.candidate_folder):
        return found
    name, seed = run.recipe.name, run.settings.seed
    raise StageError(f"no trained candidate of seed {seed} for {name!r}; run: adaptory stage train {name} --seed {seed}")


def train(run: Run, emit: Callable[[dict[str, Any]], None], every: float = 30.0) -> Candidate:
    """Trains the run's candidate into its folder; a finished one there is returned as it is.

    Killed at any moment, the same call goes on from the last checkpoint, taken every `every` seconds, and ends with the
    same bytes (S7).
    """
    if found := read(run.candidate_folder):
        return found
    from adaptory.training import (
        adapter,
        certificate,
        checkpoint,
        curve,
        devices,
        fit,
        fused,
        methods,
        network,
        planner,
        recompute,
        xray,
    )
    from adaptory.training.preemption import patience
    from adaptory.training.setup import setup

    with devices.joined(), lock(run):
        if any(devices.gathered([read(run.candidate_folder) is not None])):  # by another process, while this one waited
            return _await_card(run.candidate_folder)
        tell = emit if not devices.rank() else lambda event: None
        devices.forget_peak(network.device())
        work, facts = setup(run, tell, every)
        forecast = planner.forecast(work)
        tell({"event": "plan", **forecast.model_dump(), "said": forecast.sentence()})
        state = fit.fit(work)
        patience()
        state.give_up_weights()
        if work.trunk:
            work.trunk.detach()
        fused.detach(work.model)
        golden = certificate.golden(work)
        if devices.rank():
            devices.wait()
            return _await_card(run.candidate_folder)
        _check_trained(work.model, facts.first_digest)
        trainable, total = methods.count(work.model)
        fresh = run.candidate_folder.with_name(f".{run.candidate_folder.name}")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        settings = run.settings
        digest = adapter.save(work.model, settings, fresh, run.recipe.base, run.dataset.base, facts.first)
        facts.renderer.tokenizer.save_pretrained(fresh)
        certificate.write_golden(work, golden, fresh, run.workspace.data(run.recipe.name) / "base", run.dataset.base, run)
        (fresh / xray.XRAY).write_text(facts.xray, encoding="utf-8")
        curve.write(fresh, curve.told(work.folder))
        made = Candidate(
            recipe=run.recipe.name,
            key=run.training_key,
            digest=digest,
            base_reference=run.recipe.base,
            base_digest=run.dataset.base,
            data_digest=run.dataset.digest,
            start=run.start,
            task=run.recipe.task,
            classes=run.recipe.data.classes,
            training=settings,
            rendering=facts.renderer.digest,
            objective=work.goal.name,
            centre=work.goal.centre,
            spread=work.goal.spread,
            planned_steps=work.planned_steps,
            done_steps=state.step,
            stopped_early=state.gave_up(settings.patience) and state.step < work.planned_steps,
            halved=state.halved,
            recomputed=recompute.attached(work.model),
            trainable_parameters=trainable,
            total_parameters=total,
            validation={name: value for name, value in state.best.items() if name != "score"},
            first_digest=facts.first_digest,
            rows_left_out=facts.left_out,
            tokens=state.tokens,
            flops=forecast.flops * state.step / work.planned_steps,
            seconds=round(state.wall(work.began), 1),
            device=str(network.device()),
            processes=devices.world(),
            predicted_seconds=round(forecast.seconds, 1),
            fit_seconds=round(state.seconds + state.validating, 1),
            predicted_memory=round(forecast.memory, 3),
            peak_memory=round(devices.peak_memory(network.device()), 3),
        )
        (fresh / CARD).write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(run.candidate_folder, ignore_errors=True)
        fresh.replace(run.candidate_folder)
        checkpoint.forget(work.folder)
        devices.wait()
    return made


def lock(run: Run) -> AbstractContextManager[None]:
    """Two processes that were both told to train this candidate, since one was taken for dead, do so one after the other."""
    from adaptory.training import devices, preemption

    if devices.rank():
        return nullcontext()
    place = run.candidate_folder.with_name(f".{run.candidate_folder.name}.lock")
    return preemption.alone(place, "trains this candidate")


def _check_trained(model: Any, start: str) -> None:
    from adaptory.training import adapter

    for name, weight in model.named_parameters():
        if weight.requires_grad and not math.isfinite(weight.detach().abs().sum().item()):
            raise StageError(f"the trained weight {name} is not finite; the adapter is not kept")
    if adapter.digest_of_weights(model) == start:
        raise StageError("training left every weight as it was; the adapter is not kept")


def _await_card(folder: Path) -> Candidate:
    found = read(folder)
    assert found is not None, "the leading process finished without a card"
    return found
