"""Learning-rate schedules by their standard names."""

import math
from typing import Literal

Schedule = Literal["linear", "cosine", "constant", "inverse_sqrt"]


def rate(step: int, steps: int, warmup: int, schedule: Schedule) -> float:
    """The share of the peak rate at `step` (0-based) of `steps`: never zero, so no step is wasted."""
    assert 0 <= step < steps and 0 <= warmup < steps, (step, steps, warmup)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = (steps - step) / (steps - warmup)
    if schedule == "linear":
        return left
    if schedule == "cosine":
        return 0.5 * (1 - math.cos(math.pi * left))
    if schedule == "inverse_sqrt":
        # Vaswani et al. 2017, with the peak at the end of the warm-up.
        return math.sqrt((warmup + 1) / (step + 1))
    return 1.0
