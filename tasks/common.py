"""What every task shell shares: which failures are worth another try, and where artifacts are filed."""

import re
from typing import Any

from adaptory.errors import ServerError, UserError


def worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """A fault that a person must mend does not go away by itself."""
    try:
        state.result()
    except ServerError:
        return True
    except UserError:
        return False
    except Exception:
        return True
    return False


def key(*parts: str) -> str:
    """An artifact key that Prefect's Artifacts page accepts: a-z, 0-9 and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
