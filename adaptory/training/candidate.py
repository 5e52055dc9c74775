"""A candidate: the adapter that may become champion, and the record of how it was made."""

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaptory.data import read_split
from adaptory.errors import StageError
from adaptory.recipe import Frozen, Recipe
from adaptory.run import Run
from adaptory.workspace import Workspace

CARD, CURVE = "candidate.json", "training.jsonl"


class Candidate(Frozen):
    """What was trained, from what, and how far. Its digest names the adapter's bytes."""

    schema_version: str = "candidate/v1"
    recipe: str
    key: str
    digest: str
    base_reference: str
    base_digest: str
    data_digest: str
    classes: tuple[str, ...]
    max_tokens: int
    planned_steps: int
    done_steps: int
    trainable_parameters: int
    total_parameters: int
    validation: dict[str, float]
    seconds: float


def read(folder: Path) -> Candidate | None:
    """The finished candidate in `folder`, or None: the card is written last."""
    card = folder / CARD
    return Candidate.model_validate_json(card.read_bytes()) if card.is_file() else None


def finished(run: Run) -> Candidate:
    """The run's finished candidate. Raises StageError if it is not trained yet."""
    if found := read(run.candidate_folder):
        return found
    raise StageError(f"no trained candidate for {run.recipe.name!r}; run: adaptory stage train {run.recipe.name}")


def train(run: Run, emit: Callable[[dict[str, Any]], None]) -> Candidate:
    """Trains the run's candidate into its folder; a finished one there is returned as it is."""
    workspace, recipe, dataset, folder = run.workspace, run.recipe, run.dataset, run.candidate_folder
    if found := read(folder):
        return found
    from adaptory.training import adapter, fit, scoring

    began = time.monotonic()
    emit({"event": "stage", "what": "loading the base"})
    base = workspace.data(recipe.name) / "base"
    tokenizer = adapter.load_tokenizer(base)
    model = adapter.add_adapter(adapter.load_classifier(base, recipe.data.label.classes, recipe.training.seed), recipe.training)
    model.to(adapter.device())
    start = adapter.digest_of_weights(model)
    rows = {split: _rows(workspace, recipe, split, tokenizer) for split in ("train", "validation")}
    pad = tokenizer.pad_token_id
    steps = fit.planned_steps(rows["train"], recipe.training)
    emit({"event": "stage", "what": f"training on {len(rows['train'].labels):,} rows, {steps:,} steps"})
    validation: dict[str, float] = {}

    def validate() -> dict[str, float]:
        model.eval()
        scores = _validation(scoring.logits(model, rows["validation"].encoded, pad), rows["validation"].labels)
        if scores["validation_macro_f1"] > validation.get("validation_macro_f1", -1):
            validation.update(scores)
        return scores

    curve: list[dict[str, Any]] = []

    def note(event: dict[str, Any]) -> None:
        curve.append(event)
        emit(event)

    done = fit.fit(model, rows["train"], recipe.training, pad, validate, note)
    _check_trained(model, start)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    digest = adapter.save(model, tokenizer, folder, recipe.base, dataset.base)
    _check_round_trip(model, folder, base, dataset.base, recipe, rows["validation"].encoded[:16], pad)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    made = Candidate(
        recipe=recipe.name,
        key=run.training_key,
        digest=digest,
        base_reference=recipe.base,
        base_digest=dataset.base,
        data_digest=dataset.digest,
        classes=recipe.data.label.classes,
        max_tokens=recipe.training.max_tokens,
        planned_steps=steps,
        done_steps=done,
        trainable_parameters=trainable,
        total_parameters=sum(weight.numel() for weight in model.parameters()),
        validation=validation,
        seconds=round(time.monotonic() - began, 1),
    )
    (folder / CURVE).write_text("".join(json.dumps(event) + "\n" for event in curve), encoding="utf-8")
    (folder / CARD).write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return made


def _rows(workspace: Workspace, recipe: Recipe, split: str, tokenizer: Any) -> Any:
    from adaptory.training import fit, scoring

    table = read_split(workspace, recipe.name, split)
    number = {label: place for place, label in enumerate(recipe.data.label.classes)}
    encoded = scoring.encode(tokenizer, table["text"].to_list(), recipe.training.max_tokens)
    return fit.Rows(encoded, [number[label] for label in table["label"]])


def _validation(logits: Any, labels: list[int]) -> dict[str, float]:
    from scipy.special import softmax
    from sklearn.metrics import f1_score, log_loss

    chances = softmax(logits, axis=1)
    classes = list(range(logits.shape[1]))
    return {
        "validation_macro_f1": float(f1_score(labels, logits.argmax(1), average="macro", labels=classes, zero_division=0)),
        "validation_loss": float(log_loss(labels, chances, labels=classes)),
    }


def _check_trained(model: Any, start: str) -> None:
    from adaptory.training import adapter

    for name, weight in model.named_parameters():
        if weight.requires_grad and not math.isfinite(weight.detach().abs().sum().item()):
            raise StageError(f"the trained weight {name} is not finite; the adapter is not kept")
    if adapter.digest_of_weights(model) == start:
        raise StageError("training left every weight as it was; the adapter is not kept")


def _check_round_trip(
    model: Any, folder: Path, base: Path, base_digest: str, recipe: Recipe, encoded: Any, pad: int
) -> None:
    """The saved adapter in a fresh model must answer as the trained one did."""
    import numpy as np

    from adaptory.training import adapter, scoring

    before = scoring.logits(model, encoded, pad)
    again = adapter.load(folder, base, base_digest, recipe.data.label.classes)
    after = scoring.logits(again, encoded, pad)
    if not np.array_equal(before, after):
        worst = float(np.abs(before - after).max())
        raise StageError(f"the saved adapter answers otherwise than the trained one (largest difference {worst:.3g})")

