"""From a dataset and a base to a candidate: an adapter, and a record of how it was made.

Guarantees: same recipe, data, base and machine give the same adapter, byte for byte; the saved adapter,
loaded again, is the one that was measured; an adapter is finite and differs from its start, or the stage fails.
"""

from adaptory.training.candidate import Candidate, train

__all__ = ["Candidate", "train"]
