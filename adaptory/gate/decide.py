"""From evidence to verdict. No clock, no file, no randomness: arithmetic on stored numbers."""

import math
from typing import Literal

from adaptory import fingerprint
from adaptory.gate.evidence import Estimate, Evidence
from adaptory.recipe import LOWER, BeatsBaselines, BeatsChampion, Criterion, Floor, Frozen, Gate

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "STALE", "CHAMPION_BROKEN"]


class Finding(Frozen):
    """What one criterion found."""

    criterion: str
    outcome: Literal["pass", "fail", "inconclusive", "not asked"]
    measured: Estimate | None
    limit: float | None
    reason: str


class Verdict(Frozen):
    """The decision, with every criterion's number, limit and reason in words."""

    schema_version: str = "verdict/v1"
    outcome: Outcome
    reason: str
    findings: tuple[Finding, ...]
    evidence: str
    candidate: str
    champion: str | None

    @property
    def digest(self) -> str:
        return fingerprint.of_json(self.model_dump(mode="json"))


def judge(evidence: Evidence, gate: Gate, champion_now: str | None) -> Verdict:
    """The verdict on a candidate.

    `champion_now` is the candidate digest at the ledger's head; if it is not the champion that the evidence
    compared with, the verdict is STALE whatever the numbers say.
    """
    findings = (_complete(evidence), *(_ask(criterion, evidence) for criterion in gate.criteria))
    outcome, reason = _decide(evidence, findings, champion_now)
    return Verdict(
        outcome=outcome,
        reason=reason,
        findings=findings,
        evidence=evidence.digest,
        candidate=evidence.candidate,
        champion=evidence.champion,
    )


def _decide(evidence: Evidence, findings: tuple[Finding, ...], champion_now: str | None) -> tuple[Outcome, str]:
    if evidence.champion != champion_now:
        return "STALE", "the champion changed after the comparison; compare with the new one"
    if evidence.champion_error is not None:
        return "CHAMPION_BROKEN", f"the champion could not be scored: {evidence.champion_error}"
    failed = [finding for finding in findings if finding.outcome == "fail"]
    if failed:
        return "FAIL", failed[0].reason
    unsure = [finding for finding in findings if finding.outcome == "inconclusive"]
    if unsure:
        return "INCONCLUSIVE", unsure[0].reason
    if not any(finding.outcome == "pass" for finding in findings[1:]):
        return "FAIL", "no criterion could be asked, so nothing was proved; add a floor or a baseline"
    return "PASS", "every criterion holds"


def _complete(evidence: Evidence) -> Finding:
    """A training that stopped early must not pass for a finished one."""
    done, planned = evidence.done_steps, evidence.planned_steps
    whole = done == planned and planned > 0
    return Finding(
        criterion="training complete",
        outcome="pass" if whole else "fail",
        measured=None,
        limit=float(planned),
        reason=f"{done:,} of {planned:,} planned steps done",
    )


def _ask(criterion: Criterion, evidence: Evidence) -> Finding:
    if isinstance(criterion, Floor):
        return _floor(criterion, evidence)
    if isinstance(criterion, BeatsBaselines):
        return _beats_baselines(criterion, evidence)
    return _beats_champion(criterion, evidence)


def _floor(criterion: Floor, evidence: Evidence) -> Finding:
    lower = criterion.metric in LOWER
    name = f"{criterion.metric} at {'most' if lower else 'least'} {criterion.limit:g}" + _on(criterion)
    candidate = evidence.of("candidate")
    estimate = candidate[0].estimate(criterion.metric, criterion.source) if candidate else None
    # A floor that is just reached is kept; every other criterion wants more than its margin.
    towards = math.inf if lower else -math.inf
    return _compare(name, criterion.metric, estimate, math.nextafter(criterion.limit, towards), criterion, evidence)


def _beats_baselines(criterion: BeatsBaselines, evidence: Evidence) -> Finding:
    name = f"{criterion.metric} beats every baseline" + _by(criterion.margin) + _on(criterion)
    defined = []
    for baseline in evidence.of("baseline"):
        estimate = baseline.estimate(criterion.metric, criterion.source)
        if estimate is None:
            return _missing(name, criterion.margin, f"no {criterion.metric} of baseline {baseline.name}")
        if estimate.defined:
            defined.append((baseline.name, evidence.difference(baseline.name, criterion.metric, criterion.source)))
    if not defined:
        return _missing(name, criterion.margin, f"no baseline has a {criterion.metric}")
    hardest, gap = min(defined, key=lambda pair: _worst_gain(pair[1], criterion.metric))
    return _compare(name, f"gain over {hardest}", gap, criterion.margin, criterion, evidence)


def _beats_champion(criterion: BeatsChampion, evidence: Evidence) -> Finding:
    name = f"{criterion.metric} beats the champion" + _by(criterion.margin) + _on(criterion)
    if evidence.champion is None:
        return Finding(
            criterion=name, outcome="not asked", measured=None, limit=criterion.margin, reason="there is no champion yet"
        )
    gap = evidence.difference("champion", criterion.metric, criterion.source)
    return _compare(name, f"gain over v{evidence.champion_version}", gap, criterion.margin, criterion, evidence)


def _worst_gain(gap: Estimate | None, metric: str) -> float:
    """The end of the interval that is worst for the candidate, higher is better."""
    if gap is None or gap.low is None or gap.high is None:
        return -math.inf
    return -gap.high if metric in LOWER else gap.low


def _compare(
    name: str, label: str, estimate: Estimate | None, bound: float, criterion: Criterion, evidence: Evidence
) -> Finding:
    """Passes only if the whole interval lies beyond the bound, on the better side; fails only if none of it does."""
    limit = criterion.limit if isinstance(criterion, Floor) else criterion.margin
    if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
        return _missing(name, limit, f"{label} was not measured")
    value, low, high = estimate.value, estimate.low, estimate.high
    if not all(math.isfinite(number) for number in (value, low, high)):
        return _missing(name, limit, f"{label} is not finite")
    gain, lower = label.startswith("gain"), criterion.metric in LOWER
    if lower and gain:  # less is better, so a gain is a fall
        value, low, high = -value, -high, -low
    form = ("+" if gain else "") + (".1f" if max(abs(low), abs(high)) >= 10 else ".3f")
    side, shown = "below" if lower and not gain else "above", f"{label} {value:{form}} [{low:{form}}, {high:{form}}]"
    if side == "below":
        passed, failed, short = high < bound, low >= bound, (bound - value, high - value)
    else:
        passed, failed, short = low > bound, high <= bound, (value - bound, value - low)
    if passed:
        outcome, reason = "pass", f"{shown} is {side} {limit:g}"
    elif failed:
        outcome, reason = "fail", f"{shown} is not {side} {limit:g}"
    else:
        more = _more(*short, evidence.count(criterion.source))
        outcome, reason = "inconclusive", f"{shown} may lie on either side of {limit:g}; {more}"
    return Finding.model_validate(
        {"criterion": name, "outcome": outcome, "measured": estimate, "limit": limit, "reason": reason}
    )


def _more(gain: float, half: float, rows: int) -> str:
    """How many more examples would decide, if what was seen is the truth: intervals shrink with the square root."""
    if gain <= 0:
        return "at the observed value no number of examples would let it pass"
    if half > 1000 * gain:
        return "more than a million times the test rows would be needed to decide at the observed value"
    needed = math.ceil(rows * (half / gain) ** 2)
    return f"about {max(needed - rows, 1):,} more test rows would decide at the observed value"


def _missing(name: str, limit: float, reason: str) -> Finding:
    return Finding(criterion=name, outcome="fail", measured=None, limit=limit, reason=f"{reason}; missing evidence never passes")


def _on(criterion: Criterion) -> str:
    return f" on {criterion.source}" if criterion.source else ""


def _by(margin: float) -> str:
    return f" by more than {margin:g}" if margin else ""
