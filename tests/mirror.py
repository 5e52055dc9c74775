"""A mirror in MLflow on SQLite: places with one, a client that fails or dies at its n-th change, and what it shows."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from adaptory.registry import history, projection, proposals, tracking
from adaptory.storage import ObjectStore
from adaptory.workspace import Workspace

CHANGES = (
    "create_registered_model", "create_experiment", "create_logged_model", "log_model_artifacts", "finalize_logged_model",
    "create_model_version", "set_model_version_tag", "set_registered_model_alias", "delete_registered_model_alias",
)  # fmt: skip


def workspace(folder: Path) -> Workspace:
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = uri  # MLflow's registry asks its default tracking store, whatever its client was told
    return Workspace(root=folder, home=folder / "home", store=str(folder / "store"), cache=folder / "cache", tracking_uri=uri)


def die_at_write(at: int) -> None:
    """Kills this process (SIGKILL) before the n-th thing that is written to a database or copied as a file."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    left = at

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @event.listens_for(Engine, "before_cursor_execute")
    def executes(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.lstrip().split(None, 1)[0].upper() in ("INSERT", "UPDATE", "DELETE"):
            count()

    @event.listens_for(Engine, "commit")
    def commits(_connection: Any) -> None:
        count()

    sys.addaudithook(lambda name, _words: count() if name == "shutil.copyfile" else None)


class FaultyClient:
    """An MLflow client whose n-th change fails once: before it is made (`lost`), or after (`unanswered`)."""

    def __init__(self, inner: Any, at: int, how: str) -> None:
        self._inner, self._at, self._how, self.changes, self._tags = inner, at, how, 0, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in CHANGES:
            return found

        def call(*words: Any, **named: Any) -> Any:
            self._tags += name == "set_model_version_tag"
            if name == "set_model_version_tag" and self._tags % 6 != 1:  # one tag is like the next
                return found(*words, **named)
            self.changes += 1
            if self.changes == self._at and self._how == "lost":
                raise ConnectionError("MLflow is gone")
            answer = found(*words, **named)
            if self.changes == self._at:
                raise ConnectionError("the answer is lost")
            return answer

        return call


def shown(place: Workspace) -> tuple[dict[str, str], dict[str, str]]:
    """What MLflow shows: alias -> candidate, and version -> candidate."""
    client = tracking.client(place)
    if not client.search_registered_models("name = 'tiny'"):
        return {}, {}
    versions = {str(one.version): one.tags["adaptory.candidate"] for one in client.search_model_versions("name = 'tiny'")}
    aliases = client.get_registered_model("tiny").aliases
    return {alias: versions[str(version)] for alias, version in aliases.items()}, versions


def disagreements(place: Workspace, store: ObjectStore) -> list[str]:
    """What is not as S4 and the ledger want it: one version per candidate, tagged with its record; aliases as they are due."""
    aliases, versions = shown(place)
    records = history(store, "tiny")
    found = []
    if len(set(versions.values())) < len(versions):
        found.append(f"two versions of one candidate: {versions}")
    if aliases != (due := projection.wanted(records, proposals.waiting(store, "tiny"))):
        found.append(f"aliases {aliases}, and {due} are due")
    for version in tracking.client(place).search_model_versions("name = 'tiny'"):
        made = [one for one in records if one.candidate == version.tags["adaptory.candidate"]]
        if made and version.tags.get("adaptory.ledger") not in {one.digest for one in made}:
            found.append(f"version {version.version} names no record of its candidate")
    return found
