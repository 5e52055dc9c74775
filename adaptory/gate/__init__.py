"""The gate: a pure function from evidence to a verdict with reasons.

Guarantees: the same evidence and criteria give the same verdict on any machine; raising the candidate's
scores never turns a PASS into anything else; missing evidence, NaN and ties never pass.
"""

from adaptory.gate.decide import Verdict, judge, settles
from adaptory.gate.evidence import Case, Difference, Estimate, Evidence, Look, ModelScores, Paired
from adaptory.gate.findings import Finding

__all__ = [
    "Case",
    "Difference",
    "Estimate",
    "Evidence",
    "Finding",
    "Look",
    "ModelScores",
    "Paired",
    "Verdict",
    "judge",
    "settles",
]
