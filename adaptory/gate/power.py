"""What an evaluation can show, before anything is trained for it."""

import math
from statistics import NormalDist

from adaptory.gate.evidence import Evidence
from adaptory.recipe import BeatsChampion, Frozen, Gate, Metric

_SHARES: tuple[Metric, ...] = ("macro_f1", "weighted_f1", "accuracy", "exact_match", "reward_accuracy", "stopped")
_DISCORDANT = 0.2  # share of the rows that two models answer differently well, where none were compared yet


class Power(Frozen):
    """The smallest gain that a criterion is likely to see."""

    criterion: str
    rows: int
    level: float
    gain: float | None  # None: nothing is known of how much the metric varies
    enough: bool
    said: str


def power(gate: Gate, rows: int, level: float, before: Evidence | None) -> tuple[Power, ...]:
    """Of each criterion that wants a gain over the champion: the smallest true gain that would pass so often as gate.power says.

    `rows` are the test rows there are now, `level` what the budget leaves (one-sided); `before` is an earlier comparison with
    a champion, whose spread is taken, scaled to the rows. Without one, a fifth of the rows is supposed to be answered
    differently (of shares; of other metrics nothing is known).
    """
    asked = [criterion for criterion in gate.criteria if isinstance(criterion, BeatsChampion)]
    return tuple(_of(criterion, gate.power, rows, level, before) for criterion in asked)


def _of(criterion: BeatsChampion, wanted: float, rows: int, level: float, before: Evidence | None) -> Power:
    name = criterion.metric.replace("_", " ") + (f" on {criterion.slice}" if criterion.slice else "")
    title, told = f"{name} beats the champion", f"{name}: with {rows:,} test rows"
    deviation, source = _deviation(criterion, rows, before)
    if deviation is None:
        said = f"{told} nothing is known of what can be shown before the first comparison"
        return Power(criterion=title, rows=rows, level=level, gain=None, enough=True, said=said)
    curve, margin = NormalDist(), criterion.margin
    reach = (curve.inv_cdf(1 - level) + curve.inv_cdf(wanted)) * deviation
    told += (
        f" a true gain of {margin + reach:.3g} over the champion passes {wanted:.0%} of the time at level {level:.2g} ({source})"
    )
    enough = margin == 0 or reach <= margin
    if not enough:
        told += f"; gains near the margin of {margin:g} cannot be proved here, only with more test rows"
    return Power(criterion=title, rows=rows, level=level, gain=margin + reach, enough=enough, said=told)


def _deviation(criterion: BeatsChampion, rows: int, before: Evidence | None) -> tuple[float | None, str]:
    """How much the difference to the champion varies by chance, and where that is known from."""
    found = before.between("champion", criterion.metric, criterion.slice) if before else None
    if before and found and found.estimate.deviation is not None:
        return found.estimate.deviation * math.sqrt(before.rows / rows), "spread as in the last comparison"
    if criterion.metric in _SHARES and not criterion.slice:
        return math.sqrt(_DISCORDANT / rows), f"if {_DISCORDANT:.0%} of the rows are answered differently"
    return None, ""
