"""The batch planner: which rows are computed together, in which order. Pure, and a function of its arguments.

Rows of similar length share a batch, so almost nothing is padding; batches come in random order. Rows are
shuffled, cut into megabatches, and only sorted inside one, so every epoch has other neighbours.
"""

from collections.abc import Sequence

import numpy as np

MEGABATCH = 200  # batches


def plan(lengths: Sequence[int], rows: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: every row once, `rows` in each batch (the last of a megabatch may be short)."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), rows * MEGABATCH):
        chunk = sorted(order[start : start + rows * MEGABATCH].tolist(), key=lambda row: -lengths[row])
        batches += [chunk[i : i + rows] for i in range(0, len(chunk), rows)]
    return [batches[i] for i in random.permutation(len(batches))]


def sorted_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Batches for scoring: longest rows first, so memory fails at once or never; at most `tokens` padded tokens each."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
