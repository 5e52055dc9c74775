"""What every task shell shares: when it is tried again, where artifacts are filed, what runs side by side."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from prefect import runtime
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait

from adaptory.errors import DiedError, Preempted, ServerError, UserError
from adaptory.process import slots
from tasks.elsewhere import pool


def worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """A server may come back, and who was killed or told to stop can go on; what nobody foresaw may be chance, once; a fault that
    a person must mend does not go away."""
    try:
        state.result()
    except (ServerError, DiedError, Preempted):
        return True
    except UserError:
        return False
    except Exception:
        return bool(task_run.run_count <= 1)
    return False


RETRIED: dict[str, Any] = {
    "cache_policy": NO_CACHE, "retries": 3, "retry_delay_seconds": [5, 20, 60], "retry_condition_fn": worth_retrying,
}  # fmt: skip
"""For tasks that need servers: one that starts again is waited for, a minute and a half beyond what its client waits."""


def last_try() -> bool:
    """Whether the task that asks is not tried again."""
    return bool(runtime.task_run.run_count > RETRIED["retries"])


def key(*parts: str) -> str:
    """An artifact key that Prefect's Artifacts page accepts: a-z, 0-9 and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def beside(items: Sequence[Any], submit: Callable[[Any, dict[str, str]], PrefectFuture[Any]]) -> None:
    """Hands each item and a place to compute to `submit`, as many at a time as there are places; waits for all.

    The workers of a GPU pool are all asked at once, and take what they can.
    """
    places = [{}] * max(1, len(items)) if pool() else slots()
    for start in range(0, len(items), len(places)):
        futures = [submit(item, place) for item, place in zip(items[start:], places, strict=False)]
        wait(futures)
        for future in futures:
            future.result()
