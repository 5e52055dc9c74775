"""Setting a training up: rows rendered, base loaded, adapter placed, trunk and references computed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptory.data import read_split, some_rows
from adaptory.errors import DataError, PlanError, RecipeError, StageError
from adaptory.recipe.training import Training
from adaptory.run import Run
from adaptory.training import adapter, answers, devices, fused, network, objectives, render, xray
from adaptory.training.work import Work


@dataclass(frozen=True)
class Facts:
    """What the card of the candidate will tell besides what training finds out."""

    renderer: render.Renderer
    first: Path | None  # the adapter as it began, where saving needs it
    first_digest: str
    left_out: int
    xray: str


@devices.memory_told(PlanError, f"{devices.LESS}, or take a method that trains less, or a smaller base")
def setup(run: Run, emit: Callable[[dict[str, Any]], None], every: float) -> tuple[Work, Facts]:
    """Everything a training is made of, and the facts its card will need. Raises PlanError where memory does not suffice."""
    workspace, recipe, settings, began = run.workspace, run.recipe, run.settings, time.monotonic()
    base = workspace.data(recipe.name) / "base"
    adapter.check_base(base, run.dataset.base)
    emit({"event": "stage", "what": "reading the rows"})
    made = render.renderer(base, recipe.task, settings, network.config_of(base))
    train, left = render.examples(made, recipe, rows_of(run, "train"))
    validation, more = render.examples(made, recipe, rows_of(run, "validation"))
    goal = objectives.objective(recipe.task, settings, made, train, len(recipe.data.classes))
    _check_fits(goal, made, settings)
    emit({"event": "stage", "what": "loading the base"})
    model = adapter.make(base, recipe.task, settings, recipe.data.classes)
    _check_read(model, settings)
    goal = objectives.laid_out(goal, model)
    if run.start:
        _go_on_from(run, model)
    if devices.sharded():  # block by block, so that no device ever holds all of it
        devices.shard(model, network.block_modules(model), network.device())
    model.to(network.device())
    first_digest = adapter.digest_of_weights(model)
    folder = run.checkpoints
    folder.mkdir(parents=True, exist_ok=True)
    first = adapter.save_first(model, settings, folder / "first")
    trunk = _trunk(run, model, goal, made, train, validation, emit) if settings.cache_trunk else None
    if settings.fused:
        # A copy of the weights in bf16 would be of all of them.
        copies = devices.in_bf16(network.device(), settings.precision)
        fused.attach(model, bf16=copies and (network.holds_bf16(settings) or not devices.sharded()))
    references: list[Sequence[tuple[float, float]]] = [(), ()]
    if goal.name == "dpo":
        emit({"event": "stage", "what": "scoring both answers under the start"})
        references = [answers.references(model, goal, rows, trunk) for rows in (train, validation)]
    work = Work(
        model, goal, train, validation, run.training_key, folder, emit, references[0], references[1], trunk, every, began
    )
    emit({"event": "stage", "what": f"training on {len(train):,} rows, {work.planned_steps:,} steps"})
    page = xray.text(made, goal, train, left)
    return work, Facts(made, first, first_digest, len(left) + len(more), page)


def rows_of(run: Run, split: str) -> Any:
    """The rows of a split that may be learned from, as training.sources and training.max_rows say. Raises DataError if none."""
    import polars

    table, settings = read_split(run.workspace, run.recipe.name, split), run.settings
    if settings.sources:
        table = table.filter(polars.col("source").is_in(settings.sources))
    if not table.height:
        raise DataError(f"split {split!r} has no row of training.sources ({', '.join(settings.sources)}); name others")
    return some_rows(table, settings.max_rows)


def _trunk(run: Run, model: Any, goal: Any, made: Any, train: Sequence[Any], validation: Sequence[Any], emit: Any) -> Any:
    from adaptory import fingerprint
    from adaptory.training import trunk

    count = network.block_count(model)
    settings = run.settings
    cut = count if settings.method == "head" else network.lowest_trained_block(model, settings.top_layers)
    if cut == 0:
        return None
    _check_untouched(model, cut)
    held = {"quantised": settings.method == "qlora", "half": network.holds_bf16(settings)}
    key = trunk.key(run.dataset.base, made.digest, cut, **held)
    found = trunk.Trunk(model, cut, run.workspace.cache / "trunk" / fingerprint.short(key))
    sequences = [one for rows in (train, validation) for one in objectives.sequences_of(goal, rows)]
    if new := len(found.missing(sequences)):
        emit({"event": "stage", "what": f"computing the frozen {cut} of {count} blocks for {new:,} new texts, once"})
        found.extend(sequences, made.pad)  # of several processes one computes, and the others find it; or each in its own cache
    devices.wait()
    found.attach()
    return found


def _check_untouched(model: Any, cut: int) -> None:
    """Raises RecipeError if anything trains that the kept states depend on."""
    numbers, inputs = network.blocks(model), network.unwrapped(model).get_input_embeddings().weight
    for name, weight in model.named_parameters():
        low = numbers.get(name.rpartition(".")[0], cut) < cut
        if weight.requires_grad and (low or weight is inputs or "embed" in name):
            raise RecipeError(
                f"training.cache_trunk keeps what the lowest {cut} blocks give, but {name} below them would train; "
                "use an adapter or method freeze with top_layers, or set cache_trunk: false"
            )


def _check_fits(goal: Any, made: Any, settings: Training) -> None:
    if settings.cache_trunk and devices.sharded():
        raise StageError(  # no fault of the recipe: a search does not take it for one of its trials
            "training.cache_trunk needs none of the blocks that ADAPTORY_SHARD would share out; unset one of the two"
        )
    if settings.method == "qlora" and devices.sharded():
        raise StageError("method 'qlora' cannot share out weights of 4 bits; unset ADAPTORY_SHARD, or use method 'lora'")
    if settings.cache_trunk and (goal.name == "masked" or made.kind == "seq2seq"):
        raise RecipeError("training.cache_trunk needs rows that are read the same in every epoch, and one stack of blocks")
    if settings.method == "prompt_tuning" and made.kind == "causal" and goal.name in ("classes", "value", "reward"):
        raise RecipeError("method 'prompt_tuning' cannot train a head on a causal base: peft reads it where rows are padded")


def _check_read(model: Any, settings: Training) -> None:
    most = network.positions(model)
    if most is not None and settings.max_tokens > most:
        raise RecipeError(f"training.max_tokens is {settings.max_tokens:,}, but the base reads at most {most:,}; lower it")


def _go_on_from(run: Run, model: Any) -> None:
    """Gives the model the adapter of the champion that training.start names."""
    from adaptory.registry import ledger
    from adaptory.release import fetch_release
    from adaptory.storage import open_store
    from adaptory.training.candidate import CARD, Candidate

    store = open_store(run.workspace.store)
    name, settings = run.settings.start, run.settings
    assert name is not None
    record = next(one for one in ledger.history(store, name) if one.release == run.start)
    if devices.rank():
        devices.wait()  # the first process brings it
    folder = fetch_release(store, record, run.workspace.cache)
    if not devices.rank():
        devices.wait()
    theirs = Candidate.model_validate_json((folder / CARD).read_bytes())
    if theirs.base_digest != run.dataset.base:
        raise RecipeError(
            f"training.start: {name} v{record.version} is on base {theirs.base_digest}, this recipe on {run.dataset.base}"
        )
    same = ("method", "rank", "alpha", "top_layers", "peft")
    if unlike := [key for key in same if getattr(theirs.training, key) != getattr(settings, key)]:
        told = ", ".join(f"{key} {getattr(theirs.training, key)}" for key in unlike)
        raise RecipeError(f"training.start: {name} v{record.version} was trained with {told}; this recipe must be too")
    adapter.start_from(model, folder, f"{name} v{record.version}")
