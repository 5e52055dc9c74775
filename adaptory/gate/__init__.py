"""The gate: a pure function from evidence to a verdict with reasons.

Guarantees: the same evidence and criteria give the same verdict on any machine; raising the candidate's
scores never turns a PASS into anything else; missing evidence, NaN and ties never pass.
"""

from adaptory.gate.decide import Finding, Verdict, judge
from adaptory.gate.evidence import Difference, Estimate, Evidence, ModelScores

__all__ = ["Difference", "Estimate", "Evidence", "Finding", "ModelScores", "Verdict", "judge"]
