"""How good the model is on the validation rows while it trains: one number, better when higher, and what else is known."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptory.training import devices
from adaptory.training.answers import scoring
from adaptory.training.objectives import Objective, losses
from adaptory.training.render import Example

# What is called `score` in each objective, and how a person calls it.
SCORES = {
    "classes": "macro F1", "value": "Pearson r", "tokens": "perplexity", "masked": "perplexity", "reward": "accuracy",
    "dpo": "accuracy",
}  # fmt: skip


def validate(
    goal: Objective, model: Any, rows: Sequence[Example], reference: Sequence[tuple[float, float]] = (), trunk: Any = None
) -> dict[str, float]:
    """`score` (higher is better), `validation_loss` and the named metric on these rows."""
    mine: list[tuple[int, float, Any]] = []  # a row's place, its loss, what was said of it
    for places, some in scoring(goal, model, rows, tokens=goal.settings.micro_tokens, shared=True):
        held = [reference[place] for place in places] if reference else ()
        each, said = losses(goal, model, some, (goal.settings.seed,), held, trunk)
        if said is None:  # of tokens only the sum matters
            mine.append((places[0], float(each.sum()), None))
        else:
            mine += zip(places, each.tolist(), said.tolist(), strict=True)
    found = {one[0]: one for one in devices.gathered(mine)}  # of a sharded base some were computed twice
    every = [found[place] for place in sorted(found)]
    mean = sum(one[1] for one in every) / sum(goal.weight(row) for row in rows)
    if goal.name in ("tokens", "masked"):
        return {"score": -mean, "validation_loss": mean, "validation_perplexity": math.exp(min(mean, 700))}
    return {"validation_loss": mean} | _scores(goal, np.array([one[2] for one in every]), rows, mean)


def _scores(goal: Objective, outputs: Any, rows: Sequence[Example], loss: float) -> dict[str, float]:
    targets = np.array([row.target for row in rows])
    if goal.name == "classes":
        found = _macro_f1(targets.astype(int), outputs.argmax(1), outputs.shape[1])
        return {"score": found, "validation_macro_f1": found}
    if goal.name == "value":
        r = float(np.corrcoef(outputs, targets)[0, 1]) if np.ptp(outputs) and np.ptp(targets) else 0.0
        return {"score": -loss, "validation_pearson_r": r}
    return {"score": -loss, "validation_accuracy": float((outputs > 0).mean())}


def _macro_f1(targets: Any, picked: Any, classes: int) -> float:
    """As scikit-learn's, which takes most of a second to import: of the classes that are met or picked."""
    confusion = np.bincount(targets * classes + picked, minlength=classes * classes).reshape(classes, classes)
    either = confusion.sum(0) + confusion.sum(1)
    return float(np.mean((2 * confusion.diagonal() / np.maximum(1, either))[either > 0]))
