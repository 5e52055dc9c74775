"""How good the model is on the validation rows while it trains: one number, better when higher, and what else is known."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptory.training import devices, forward, preemption
from adaptory.training.batches import sorted_batches
from adaptory.training.objectives import Objective, likelihoods, prepared, summed
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
    import torch

    model.eval()
    device = next(model.parameters()).device
    lengths = [row.length for row in rows]
    answers: list[tuple[int, float, list[float]]] = []
    loss = 0.0
    with torch.inference_mode(), devices.computing(device, goal.settings.precision):
        for batch in devices.share(sorted_batches(lengths, goal.settings.micro_tokens)):
            preemption.check()
            some = [rows[place] for place in batch]
            if trunk:
                trunk.show(goal, some)
            mine = [reference[place] for place in batch] if reference else ()
            if goal.name in ("tokens", "masked"):
                loss += float(summed(goal, model, some, (goal.settings.seed,)))
                continue
            found = _answers(goal, model, some, mine)
            answers += [(place, *one) for place, one in zip(batch, found, strict=True)]
    losses = devices.gathered([loss]) if goal.name in ("tokens", "masked") else [one[1] for one in devices.gathered(answers)]
    mean = sum(losses) / sum(goal.weight(row) for row in rows)
    if goal.name in ("tokens", "masked"):
        return {"score": -mean, "validation_loss": mean, "validation_perplexity": math.exp(min(mean, 700))}
    ordered = sorted(devices.gathered(answers))
    outputs = np.array([one[2] for one in ordered])
    return {"validation_loss": mean} | _scores(goal, outputs, rows, mean)


def reference_of(goal: Objective, model: Any, rows: Sequence[Example], trunk: Any = None) -> list[tuple[float, float]]:
    """Log-likelihood of the chosen and the rejected answer of each row, under the model as it is now."""
    import torch

    model.eval()
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(rows)
    device = next(model.parameters()).device
    with torch.inference_mode(), devices.computing(device, goal.settings.precision):
        for batch in sorted_batches([row.length for row in rows], goal.settings.micro_tokens):
            preemption.check()
            some = [rows[place] for place in batch]
            if trunk:
                trunk.show(goal, some)
            better, worse = likelihoods(model, prepared(goal, some, ()).to(device)).chunk(2)
            for place, first, second in zip(batch, better.tolist(), worse.tolist(), strict=True):
                found[place] = (first, second)
    return found


def _answers(
    goal: Objective, model: Any, rows: Sequence[Example], reference: Sequence[tuple[float, float]]
) -> list[tuple[float, list[float]]]:
    """Of each row its weighted loss and what the model says."""
    import torch

    device = next(model.parameters()).device
    batch = prepared(goal, rows, ()).to(device)
    if goal.name == "classes":
        logits = forward.row_logits(model, batch)
        weights = torch.tensor(goal.class_weights, device=device) if goal.class_weights else None
        losses = torch.nn.functional.cross_entropy(logits, batch.targets.long(), weight=weights, reduction="none")
        return list(zip(losses.tolist(), logits.tolist(), strict=True))
    if goal.name == "value":
        said = forward.row_logits(model, batch)[:, 0]
        losses = (said - (batch.targets - goal.centre) / goal.spread).square()
        return list(zip(losses.tolist(), said[:, None].tolist(), strict=True))
    if goal.name == "reward":
        better, worse = forward.row_logits(model, batch)[:, 0].chunk(2)
        margin = better - worse
    else:
        better, worse = likelihoods(model, batch).chunk(2)
        first, second = torch.tensor(reference, device=device).T
        margin = goal.settings.beta * ((better - first) - (worse - second))
    return list(zip((-torch.nn.functional.logsigmoid(margin)).tolist(), margin[:, None].tolist(), strict=True))


def _scores(goal: Objective, outputs: Any, rows: Sequence[Example], loss: float) -> dict[str, float]:
    targets = np.array([row.target for row in rows])
    if goal.name == "classes":
        from sklearn.metrics import f1_score

        numbers = list(range(outputs.shape[1]))
        found = float(f1_score(targets.astype(int), outputs.argmax(1), average="macro", labels=numbers, zero_division=0))
        return {"score": found, "validation_macro_f1": found}
    if goal.name == "value":
        said = outputs[:, 0]
        r = float(np.corrcoef(said, targets)[0, 1]) if np.ptp(said) and np.ptp(targets) else 0.0
        return {"score": -loss, "validation_pearson_r": r}
    return {"score": -loss, "validation_accuracy": float((outputs[:, 0] > 0).mean())}
