"""From sources to a dataset version, as three DVC stages: fetch, validate, split.

Guarantees: every input row ends in exactly one of train, validation, test, quarantine; a row's split is a
function of its document and the recipe's salt alone; no text is in two splits; same inputs, same bytes.
"""

from adaptory.data.dataset import Dataset, dataset_version, read_split
from adaptory.data.prepare import pending, prepare
from adaptory.data.stages import fetch, split, validate

__all__ = ["Dataset", "dataset_version", "fetch", "pending", "prepare", "read_split", "split", "validate"]
