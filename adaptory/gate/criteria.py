"""What each criterion finds in the evidence: a number, a limit, and a reason in words."""

import math
from collections.abc import Callable
from statistics import NormalDist, stdev
from typing import Any

from adaptory.gate.evidence import Estimate, Evidence
from adaptory.gate.findings import Finding, compare, finding, missing, not_asked, plain, shown
from adaptory.recipe import (
    LOWER,
    NEW,
    SEEN,
    Asked,
    BeatsBaselines,
    BeatsChampion,
    Cases,
    Criterion,
    DataChecks,
    Floor,
    Forgetting,
    Latency,
    Lineage,
    NoSliceWorse,
    NotWorse,
    Steady,
)


def ask(criterion: Criterion, evidence: Evidence) -> Finding:
    """What the criterion finds in the evidence."""
    if isinstance(criterion, Asked) and criterion.slice == NEW and not evidence.count(NEW):
        name = f"{criterion.metric} on {NEW}"
        return finding(name, "not asked", None, None, "no test row is new since a champion")
    return _ASK[type(criterion)](criterion, evidence)


def complete(evidence: Evidence) -> Finding:
    """A training that stopped early must not pass for a finished one."""
    done, planned = evidence.done_steps, evidence.planned_steps
    return plain("training complete", done == planned and planned > 0, f"{done:,} of {planned:,} planned steps done", planned)


def traceable(evidence: Evidence) -> Finding:
    """Everything the verdict rests on has a digest."""
    names = ("candidate", "data", "base", "recipe_digest", "scores", "key")
    absent = [name for name in names if not getattr(evidence, name).startswith("sha256:")]
    told = "data, base, recipe, adapter and scores have their digests" if not absent else f"no digest of {', '.join(absent)}"
    return plain("lineage complete", not absent, told)


def _floor(criterion: Floor, evidence: Evidence) -> Finding:
    lower = criterion.metric in LOWER
    name = f"{criterion.metric} at {'most' if lower else 'least'} {criterion.limit:g}{_on(criterion)}"
    candidate = evidence.of("candidate")
    estimate = candidate[0].estimate(criterion.metric, criterion.slice) if candidate else None
    # A floor that is just reached is kept; every other criterion wants more than its margin.
    bound = math.nextafter(criterion.limit, math.inf if lower else -math.inf)
    return compare(name, criterion.metric, estimate, bound, criterion.limit, lower, evidence.count(criterion.slice))


def _beats_baselines(criterion: BeatsBaselines, evidence: Evidence) -> Finding:
    name = f"{criterion.metric} beats every baseline{_by(criterion.margin)}{_on(criterion)}"
    defined = []
    for baseline in evidence.of("baseline"):
        estimate = baseline.estimate(criterion.metric, criterion.slice)
        if estimate is None:
            return missing(name, criterion.margin, f"no {criterion.metric}{_on(criterion)} of baseline {baseline.name}")
        if estimate.defined:
            defined.append(
                (baseline.name, _gain(evidence.difference(baseline.name, criterion.metric, criterion.slice), criterion))
            )
    if not defined:
        return missing(name, criterion.margin, f"no baseline has a {criterion.metric}{_on(criterion)}")
    hardest, gap = min(defined, key=lambda pair: -math.inf if pair[1] is None or pair[1].low is None else pair[1].low)
    return compare(name, f"gain over {hardest}", gap, criterion.margin, criterion.margin, False, evidence.count(criterion.slice))


def _beats_champion(criterion: BeatsChampion, evidence: Evidence) -> Finding:
    name = f"{criterion.metric} beats the champion{_by(criterion.margin)}{_on(criterion)}"
    if evidence.champion is None:
        return not_asked(name, criterion.margin)
    found = evidence.between("champion", criterion.metric, criterion.slice)
    gap = (found.bound if evidence.look else found.estimate) if found else None
    gain, rows, label = _gain(gap, criterion), evidence.count(criterion.slice), f"gain over v{evidence.champion_version}"
    return compare(name, label, gain, criterion.margin, criterion.margin, False, rows, evidence.look)


def _not_worse(criterion: NotWorse, evidence: Evidence) -> Finding:
    name = f"{criterion.metric} loses at most {criterion.margin:g} to {_whom(criterion.than)}{_on(criterion)}"
    if criterion.than == "champion" and evidence.champion is None:
        return not_asked(name, criterion.margin)
    gap = _gain(evidence.difference(criterion.than, criterion.metric, criterion.slice), criterion)
    # Just the margin is still allowed.
    bound = math.nextafter(-criterion.margin, -math.inf)
    return compare(
        name, f"gain over {_whom(criterion.than)}", gap, bound, -criterion.margin, False, evidence.count(criterion.slice)
    )


def _no_slice_worse(criterion: NoSliceWorse, evidence: Evidence) -> Finding:
    name = f"no slice measurably worse in {criterion.metric}" + (
        f" by more than {criterion.margin:g}" if criterion.margin else ""
    )
    if evidence.champion is None:
        return not_asked(name, criterion.alpha)
    chances: dict[str, tuple[float, Estimate]] = {}
    for found in evidence.differences:
        of_class = (found.slice or "").startswith("class=")
        rows = evidence.slice_rows.get(found.slice or "", 0)
        wanted = "f1" if of_class else criterion.metric
        # What the champion learned by heart says nothing of the candidate.
        if (
            found.other != "champion"
            or not found.slice
            or found.slice == SEEN
            or found.metric != wanted
            or rows < criterion.min_rows
        ):
            continue
        gap = found.estimate if wanted == "f1" else _gain(found.estimate, criterion)
        chance = _chance_of_no_harm(gap, criterion.margin)
        if chance is None or gap is None:
            return missing(name, criterion.alpha, f"{wanted} on {found.slice} was not measured")
        chances[found.slice] = (chance, gap)
    if not chances:
        return missing(name, criterion.alpha, f"no slice has {criterion.min_rows} rows")
    ordered = sorted(chances.items(), key=lambda pair: pair[1][0])
    harmed, worst = [], ordered[0]
    for place, (where, (chance, gap)) in enumerate(ordered):
        if chance > criterion.alpha / (len(ordered) - place):
            break
        harmed.append(f"{where} {shown(gap, signed=True)}")
    small = sum(rows < criterion.min_rows for rows in evidence.slice_rows.values())
    aside = f"; {small} smaller ones were not asked" if small else ""
    if harmed:
        return finding(
            name, "fail", worst[1][1], criterion.alpha, f"worse than v{evidence.champion_version}: {', '.join(harmed)}{aside}"
        )
    told = f"none of {len(ordered)} slices is; the nearest: {worst[0]} {shown(worst[1][1], signed=True)}{aside}"
    return finding(name, "pass", worst[1][1], criterion.alpha, told)


def _chance_of_no_harm(gap: Estimate | None, margin: float) -> float | None:
    """How likely a loss like this is where none is (one-sided, normal with the bootstrap's deviation)."""
    if gap is None or gap.value is None or gap.deviation is None or not math.isfinite(gap.value):
        return None
    if gap.deviation == 0:
        return 0.0 if gap.value < -margin else 1.0
    return NormalDist().cdf((gap.value + margin) / gap.deviation)


def _cases(criterion: Cases, evidence: Evidence) -> Finding:
    name = "behavioural cases hold" + (f", all but {criterion.allowed}" if criterion.allowed else "")
    if not evidence.cases:
        return missing(name, criterion.allowed, "no case was tried")
    failed = [case.name for case in evidence.cases if not case.passed]
    told = f"{len(evidence.cases) - len(failed)} of {len(evidence.cases)} hold"
    told += f"; not: {', '.join(failed[:5])}{' and others' if len(failed) > 5 else ''}" if failed else ""
    return plain(name, len(failed) <= criterion.allowed, told, criterion.allowed)


def _latency(criterion: Latency, evidence: Evidence) -> Finding:
    name = f"a row is answered within {criterion.limit:g} ms"
    candidate = evidence.of("candidate")
    found = candidate[0].latency if candidate else None
    return compare(name, "milliseconds", found, criterion.limit, criterion.limit, True, None)


def _data(criterion: DataChecks, evidence: Evidence) -> Finding:
    faults = []
    if not evidence.quarantined <= criterion.max_quarantined:
        faults.append(f"{evidence.quarantined:.1%} of the rows could not be used, more than {criterion.max_quarantined:.1%}")
    if evidence.rows < criterion.min_test_rows:
        faults.append(f"{evidence.rows:,} test rows, fewer than {criterion.min_test_rows:,}")
    told = "; ".join(faults) or f"{evidence.rows:,} test rows, {evidence.quarantined:.1%} of all rows could not be used"
    return plain("the data is good enough", not faults, told)


def _lineage(criterion: Lineage, evidence: Evidence) -> Finding:
    clean = evidence.commit is not None and not evidence.commit.endswith("+changes")
    told = f"commit {evidence.commit[:12]}" if evidence.commit and clean else "no commit, or changes beside it; commit them first"
    return plain("code, recipe and data are committed", clean, told)


def _steady(criterion: Steady, evidence: Evidence) -> Finding:
    name = f"{criterion.metric} varies by at most {criterion.limit:g} over seeds"
    several = [model.metrics.get(criterion.metric) for kind in ("candidate", "repeat") for model in evidence.of(kind)]
    values = [one.value for one in several if one is not None and one.value is not None]
    if len(values) < 3 or len(values) < len(several):
        return missing(name, criterion.limit, f"{len(values)} of {len(several)} seeds were measured")
    found = stdev(values)
    told = f"standard deviation {found:.3g} over {len(values)} seeds ({min(values):.3f} to {max(values):.3f})"
    return plain(name, found <= criterion.limit, told, criterion.limit)


def _forgetting(criterion: Forgetting, evidence: Evidence) -> Finding:
    name = f"other text surprises it at most {criterion.limit:g} times as much as its base"
    return compare(name, "perplexity over the base's", evidence.forgetting, criterion.limit, criterion.limit, True, None)


_ASK: dict[type, Callable[[Any, Evidence], Finding]] = {
    Floor: _floor, BeatsBaselines: _beats_baselines, BeatsChampion: _beats_champion, NotWorse: _not_worse,
    NoSliceWorse: _no_slice_worse, Cases: _cases, Latency: _latency, DataChecks: _data, Lineage: _lineage, Steady: _steady,
    Forgetting: _forgetting,
}  # fmt: skip


def _gain(gap: Estimate | None, criterion: Asked) -> Estimate | None:
    """A difference turned so that more is better."""
    if gap is None or gap.value is None or gap.low is None or gap.high is None or criterion.metric not in LOWER:
        return gap
    return gap.model_copy(update={"value": -gap.value, "low": -gap.high, "high": -gap.low})


def _on(criterion: Asked) -> str:
    return f" on {criterion.slice}" if criterion.slice else ""


def _by(margin: float) -> str:
    return f" by more than {margin:g}" if margin else ""


def _whom(than: str) -> str:
    return "the champion" if than == "champion" else f"the champion of {than}"
