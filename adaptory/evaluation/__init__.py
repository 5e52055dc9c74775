"""From a candidate to evidence: everyone scored on the same test rows, once, and every row's score kept.

Guarantees: candidate, champion and baselines answer the same rows; all intervals and differences come from
the stored scores and a fixed seed, so they can be computed again without a model.
"""

from adaptory.evaluation.evaluate import evaluate, read

__all__ = ["evaluate", "read"]
