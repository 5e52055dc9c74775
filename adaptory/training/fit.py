"""The training loop: plain, and stopped by the first number that is not finite."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from adaptory.errors import StageError
from adaptory.recipe import Training
from adaptory.training.batches import plan
from adaptory.training.schedules import rate
from adaptory.training.scoring import collate

Event = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """Encoded texts with their class numbers."""

    encoded: Sequence[Sequence[int]]
    labels: Sequence[int]

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.encoded]


def planned_steps(rows: Rows, settings: Training) -> int:
    """How many optimizer steps the whole training takes."""
    return sum(len(plan(rows.lengths, settings.batch_rows, settings.seed, e)) for e in range(settings.epochs))


def fit(
    model: Any,
    rows: Rows,
    settings: Training,
    pad: int,
    validate: Callable[[], dict[str, float]],
    emit: Callable[[Event], None],
) -> int:
    """Trains the model's trainable weights and leaves it with those of the best epoch; returns the steps done.

    The best epoch has the highest validation macro F1; ties keep the earlier one. Raises StageError, before
    the optimizer moves, when loss or gradient is not finite.
    """
    import torch

    device = next(model.parameters()).device
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    labels = torch.tensor(rows.labels)
    steps, step = planned_steps(rows, settings), 0
    warmup = min(int(settings.warmup * steps), steps - 1)
    best: tuple[float, list[Any]] | None = None
    began = time.monotonic()
    seen = 0
    for epoch in range(settings.epochs):
        model.train()
        for batch in plan(rows.lengths, settings.batch_rows, settings.seed, epoch):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate(step, steps, warmup, settings.schedule)
            ids, mask = collate([rows.encoded[row] for row in batch], pad)
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[batch].to(device))
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(weights, settings.clip_norm)
            value = loss.item()
            if not (math.isfinite(value) and math.isfinite(norm.item())):
                raise StageError(
                    f"training step {step + 1}: loss {value}, gradient norm {norm.item()}; stopped before the "
                    f"weights moved. Lower training.learning_rate ({settings.learning_rate}); the batch was rows {batch[:8]}..."
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step, seen = step + 1, seen + len(batch)
            elapsed = time.monotonic() - began
            emit({
                "event": "step", "step": step, "steps": steps, "loss": value,
                "rows_per_second": seen / elapsed, "seconds_per_step": elapsed / step,
            })  # fmt: skip
        scores = validate()
        emit({"event": "epoch", "epoch": epoch + 1, "step": step, **scores})
        if best is None or scores["validation_macro_f1"] > best[0]:
            best = (scores["validation_macro_f1"], [weight.detach().clone() for weight in weights])
    assert best is not None
    with torch.no_grad():
        for weight, kept in zip(weights, best[1], strict=True):
            weight.copy_(kept)
    model.eval()
    return step
