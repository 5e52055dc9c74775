"""Successive halving, by thirds: who goes on, and how far. Pure.

Every rung costs about as much as the last: eight trials cost 2.2 trainings in all (8 to a ninth, 3 to a third, 1 to the
end), twenty-seven cost 3. Jamieson & Talwalkar 2016; the factor is that of Hyperband (Li et al. 2018).
"""

import math
from collections.abc import Mapping

FACTOR = 3


def rungs(trials: int) -> list[tuple[float, int]]:
    """Up to which share of its training each trial goes, and how many of them go on from there, rung after rung."""
    counts = [trials]
    while counts[-1] > 1:
        counts.append(math.ceil(counts[-1] / FACTOR))
    last = len(counts) - 1
    return [(FACTOR ** (rung - last), counts[rung + 1]) for rung in range(last)]


def best(scores: Mapping[int, float | None], keep: int) -> list[int]:
    """The `keep` best trials, best first. What failed never goes on; of equal scores the lower number does."""
    alive = {number: score for number, score in scores.items() if score is not None and math.isfinite(score)}
    return sorted(alive, key=lambda number: (-alive[number], number))[:keep]
