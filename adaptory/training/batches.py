"""The batch planner: which rows are computed together, in which order. Pure, and a function of its arguments.

An optimizer step takes a window of rows. Where rows are padded, windows hold rows of similar length, so almost nothing is
padding, and come in random order; where nothing is padded, they hold any rows: language models learn more of those in as many
steps (docs/log.md). A window is computed in micro-batches that fit into memory; how it is cut changes no gradient.
"""

from collections.abc import Sequence

import numpy as np

MEGABATCH = 200  # windows


def plan(lengths: Sequence[int], rows: int, seed: int, epoch: int, *, alike: bool = True) -> list[list[int]]:
    """The windows of one epoch: every row once, `rows` in each window (the last of a megabatch may be short).

    Rows are shuffled, cut into megabatches and sorted only inside one, so every epoch has other neighbours; without `alike`, a
    megabatch is one window.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    windows: list[list[int]] = []
    size = rows * (MEGABATCH if alike else 1)
    for start in range(0, len(order), size):
        chunk = sorted(order[start : start + size].tolist(), key=lambda row: -lengths[row])
        windows += [chunk[i : i + rows] for i in range(0, len(chunk), rows)]
    return [windows[i] for i in random.permutation(len(windows))]


def sorted_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Longest rows first, so memory fails at once or never; at most `tokens` padded tokens in each batch."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def micro_batches(window: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """The rows of a window in batches of at most `tokens` padded tokens, longest first."""
    return [[window[place] for place in batch] for batch in sorted_batches([lengths[row] for row in window], tokens)]


def packs(window: Sequence[int], lengths: Sequence[int], tokens: int, rows: int) -> list[list[int]]:
    """The rows of a window in packs of at most `tokens` tokens without padding, and at most `rows`: first fit, longest first."""
    found: list[list[int]] = []
    room: list[int] = []
    for row in sorted(window, key=lambda row: (-lengths[row], row)):
        fits = (place for place, left in enumerate(room) if left >= lengths[row] and len(found[place]) < rows)
        place = next(fits, None)
        if place is None:
            found.append([])
            room.append(tokens)
            place = len(found) - 1
        found[place].append(row)
        room[place] -= lengths[row]
    return found
