"""The search: several settings are tried on the same rows before one of them becomes the candidate's.

Guarantees: what is tried is a function of the recipe; a trial that goes on is the same training, byte for byte, as one
that was never interrupted; only validation rows choose; a search that was killed goes on where it was.
"""

from adaptory.search.choice import Choice, Trial, Tried
from adaptory.search.report import device_seconds, table

__all__ = ["Choice", "Trial", "Tried", "device_seconds", "table"]
