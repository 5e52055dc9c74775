"""S10: a champion is made again from its record alone, in a checkout of its own, and must have the same bytes."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from adaptory import fingerprint
from adaptory.errors import IntegrityError, ReleaseError, StageError
from adaptory.process import ranks
from adaptory.profile import history as data_history
from adaptory.registry.ledger import Record
from adaptory.release.pull import fetch_release, resolve
from adaptory.storage import ObjectStore
from adaptory.workspace import Workspace


def rebuild(place: Workspace, store: ObjectStore, name: str, tell: Callable[[str], None]) -> bool:
    """Trains a version again (`sentiment@v7`) and returns whether its adapter has the bytes of the record.

    The commit of the record is checked out in a temporary folder, its data comes from the DVC remote by the md5s that the record
    names, its recipe from the release. Raises ReleaseError where the record does not suffice.
    """
    record = resolve(store, name)
    release = fetch_release(store, record, place.cache)
    version = data_history.version(store, record.model, record.data, record.dvc)
    if version is not None and record.dvc and fingerprint.of_json(version.dvc) != record.dvc:
        raise IntegrityError(f"what the store keeps of {name}'s dvc.lock is not what its record names; restore it from a backup")
    if version is None:
        raise ReleaseError(f"of the data of {name} nothing was kept; it cannot be made again")
    if record.git_commit is None:
        raise ReleaseError(f"{name} was made outside git; its code is not known")
    commit, changed = record.git_commit[:40], record.git_commit.endswith("+changes")
    if changed:
        tell(f"{name} was made with changes beside commit {commit[:12]}; if they matter, the bytes will differ")
    with tempfile.TemporaryDirectory() as scratch:
        checkout = Path(scratch) / "checkout"
        _git(place.root, "worktree", "add", "--detach", "--quiet", str(checkout), commit)
        try:
            _prepare(checkout, place, record, release, version.dvc)
            tell(f"training {name} again from commit {commit[:12]}")
            card = json.loads((release / "candidate.json").read_bytes())
            found = _train(checkout, record, card, _environment(checkout, place))
        finally:
            _git(place.root, "worktree", "remove", "--force", str(checkout))
    tell(f"recorded {record.candidate}")
    tell(f"made     {found}")
    return found == record.candidate


def _prepare(checkout: Path, place: Workspace, record: Record, release: Path, dvc: dict[str, Any]) -> None:
    """The recipe as it was, with the settings that were chosen; the data by its md5s; the same store and DVC remote."""
    body = json.loads((release / "recipe.json").read_bytes())
    card = json.loads((release / "candidate.json").read_bytes())
    body.pop("name")
    body |= {"training": card["training"], "search": None}
    (checkout / "params.yaml").write_text(yaml.safe_dump({"recipes": {record.model: body}}, sort_keys=False), encoding="utf-8")
    (checkout / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": dvc}), encoding="utf-8")
    local = place.root / ".dvc" / "config.local"
    if local.is_file():
        shutil.copyfile(local, checkout / ".dvc" / "config.local")
    environment = _environment(checkout, place)
    remote = place.home / "dvc-remote"
    if remote.is_dir() and not local.is_file():
        _run(["dvc", "remote", "modify", "--local", "default", "url", str(remote)], checkout, environment)
    _run(["dvc", "pull", "--quiet", *dvc], checkout, environment)


def _train(checkout: Path, record: Record, card: dict[str, Any], environment: dict[str, str]) -> str:
    """The digest of the adapter that the checkout's own code makes, from the release that it started from then.

    By as many processes as then: sums of numbers depend on how they are shared out.
    """
    code = (
        "import sys\n"
        "from dataclasses import replace\n"
        "from adaptory import run, workspace\n"
        "from adaptory.training.candidate import train\n"
        "now = run.current(workspace.find(), sys.argv[1])\n"
        "print(train(replace(now, start=sys.argv[2] or None), lambda event: None).digest)\n"
    )
    command = [sys.executable, "-c", code, record.model, card["start"] or ""]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda one: _run(command, checkout, one), ranks(environment, card.get("processes", 1))))
    digest = done[0].strip().splitlines()[-1]
    fingerprint.hex_of(digest)
    return digest


def _environment(checkout: Path, place: Workspace) -> dict[str, str]:
    """The checkout's own code, with the store and the cache of this one."""
    ours = {"ADAPTORY_STORE": place.store, "ADAPTORY_CACHE": str(place.cache)}
    return ours | os.environ | {"DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(checkout)}


def _git(root: Path, *words: str) -> None:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {' '.join(words[:2])}: {done.stderr.strip()}; the commit of the record must be in this clone")


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    if command[0] == "dvc":
        command = [sys.executable, "-m", *command]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise StageError(f"{' '.join(command[:4])}: {done.stderr.strip()[-800:]}")
    return done.stdout
