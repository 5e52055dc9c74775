"""A finding: a number, a limit, and a reason in words. What every criterion's answer is made of."""

import math
from statistics import NormalDist
from typing import Literal

from adaptory.frozen import Frozen
from adaptory.gate.evidence import Estimate, Look


class Finding(Frozen):
    """What one criterion found."""

    criterion: str
    outcome: Literal["pass", "fail", "inconclusive", "not asked"]
    measured: Estimate | None
    limit: float | None
    reason: str


def compare(
    name: str,
    label: str,
    estimate: Estimate | None,
    bound: float,
    limit: float,
    lower: bool,
    rows: int | None,
    look: Look | None = None,
) -> Finding:
    """Passes only if the whole interval lies beyond the bound, on the better side; fails only if none of it does."""
    if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
        few = f" on {rows:,} rows" if rows is not None else ""
        return missing(name, limit, f"{label} was not measured or is not defined{few}")
    value, low, high = estimate.value, estimate.low, estimate.high
    if not all(math.isfinite(number) for number in (value, low, high)):
        return missing(name, limit, f"{label} is not finite")
    level = f" at level {look.level:.2g} (comparison {look.number})" if look else ""
    told = f"{label} {shown(estimate, signed=label.startswith('gain'))}{level}"
    side = "below" if lower else "above"
    if lower:
        passed, failed, short = high < bound, low >= bound, (bound - value, high - value)
    else:
        passed, failed, short = low > bound, high <= bound, (value - bound, value - low)
    if passed:
        return finding(name, "pass", estimate, limit, f"{told} is {side} {limit:g}")
    if failed:
        return finding(name, "fail", estimate, limit, f"{told} is not {side} {limit:g}")
    reason = f"{told} may lie on either side of {limit:g}; {more(*short, rows, look)}"
    return finding(name, "inconclusive", estimate, limit, reason)


def shown(estimate: Estimate, *, signed: bool) -> str:
    value, low, high = estimate.value, estimate.low, estimate.high
    assert value is not None and low is not None and high is not None
    form = ("+" if signed else "") + (".1f" if max(abs(low), abs(high)) >= 10 else ".3f")
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def more(gain: float, half: float, rows: int | None, look: Look | None) -> str:
    """How many more examples would decide, if what was seen is the truth: intervals shrink with the square root.

    The next comparison spends less of the budget than this one, so its interval is wider at the same rows.
    """
    if gain <= 0:
        return "at the observed value no number of examples would let it pass"
    if rows is None:
        return "measuring more would decide"
    if half > 1000 * gain:
        return "more than a million times the test rows would be needed to decide at the observed value"
    if look:
        next_level = look.level * (look.number / (look.number + 1)) ** 2
        half *= NormalDist().inv_cdf(1 - next_level) / NormalDist().inv_cdf(1 - look.level)
    needed = math.ceil(rows * (half / gain) ** 2)
    return f"about {max(needed - rows, 1):,} more test rows would decide at the observed value"


def finding(name: str, outcome: str, measured: Estimate | None, limit: float | None, reason: str) -> Finding:
    facts = {"criterion": name, "outcome": outcome, "measured": measured, "limit": limit, "reason": reason}
    return Finding.model_validate(facts)


def plain(name: str, passed: bool, reason: str, limit: float | None = None) -> Finding:
    return finding(name, "pass" if passed else "fail", None, limit, reason)


def missing(name: str, limit: float, reason: str) -> Finding:
    return finding(name, "fail", None, limit, f"{reason}; missing evidence never passes")


def not_asked(name: str, limit: float) -> Finding:
    return finding(name, "not asked", None, limit, "there is no champion yet")
