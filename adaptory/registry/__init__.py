"""Who is champion, since when, and why: the ledger, and MLflow as what people see of it.

Guarantees: the ledger is a chain of numbered records without gap or fork; a promotion is its record, and is
there or not; MLflow's versions and aliases can be rebuilt from the ledger at any time.
"""

from adaptory.registry.judged import Judged, read_judged, write_judged
from adaptory.registry.ledger import Record, append, head, history

__all__ = ["Judged", "Record", "append", "head", "history", "read_judged", "write_judged"]
