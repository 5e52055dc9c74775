"""From sources to a dataset version, as DVC stages: fetch, validate, split, profile.

Guarantees: every input row ends in exactly one of train, validation, test, quarantine; a row's split is a
function of its document and the recipe's salt alone; no text and no near-copy of one is in two splits; same inputs,
same bytes.
"""

from adaptory.data.dataset import Dataset, dataset_version, read_split, some_rows
from adaptory.data.fetching import fetch
from adaptory.data.prepare import keep, pending, prepare, pull
from adaptory.data.splitting import split
from adaptory.data.validation import validate

__all__ = [
    "Dataset", "dataset_version", "fetch", "keep", "pending", "prepare", "pull", "read_split", "some_rows", "split", "validate",
]  # fmt: skip
