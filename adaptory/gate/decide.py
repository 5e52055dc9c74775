"""From evidence to verdict. No clock, no file, no randomness: arithmetic on stored numbers."""

from typing import Literal

from adaptory import fingerprint
from adaptory.gate.criteria import ask, complete, traceable
from adaptory.gate.evidence import Evidence
from adaptory.gate.findings import Finding
from adaptory.recipe import BeatsBaselines, BeatsChampion, Floor, Frozen, Gate, Latency, Lineage, NotWorse

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "STALE", "CHAMPION_BROKEN"]


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
    compared with, the verdict is STALE whatever the numbers say. A champion that cannot be scored is not beaten by default
    (CHAMPION_BROKEN); without a champion the floors and baselines decide.
    """
    asked = [ask(criterion, evidence) for criterion in gate.criteria]
    proofs = (Floor, BeatsBaselines, BeatsChampion, NotWorse)
    proved = any(f.outcome == "pass" for c, f in zip(gate.criteria, asked, strict=True) if isinstance(c, proofs))
    findings = (complete(evidence), traceable(evidence), *asked)
    outcome, reason = _decide(evidence, findings, champion_now, proved=proved)
    return Verdict(
        outcome=outcome,
        reason=reason,
        findings=findings,
        evidence=evidence.digest,
        candidate=evidence.candidate,
        champion=evidence.champion,
    )


def settles(verdict: Verdict, gate: Gate) -> bool:
    """Whether the same inputs need not be judged again: not when the champion changed or could not be read, and not when all
    that was missing may be otherwise the next time (a commit, a machine that was busy)."""
    if verdict.outcome in ("STALE", "CHAMPION_BROKEN"):
        return False
    asked = zip(gate.criteria, verdict.findings[-len(gate.criteria) :], strict=True)
    wrong = [criterion for criterion, found in asked if found.outcome in ("fail", "inconclusive")]
    passing = wrong and all(isinstance(criterion, Lineage | Latency) for criterion in wrong)
    return verdict.outcome == "PASS" or not passing


def _decide(evidence: Evidence, findings: tuple[Finding, ...], champion_now: str | None, *, proved: bool) -> tuple[Outcome, str]:
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
    if not proved:
        return "FAIL", "no criterion could be asked that proves anything; add a floor or a baseline"
    return "PASS", "every criterion holds"
