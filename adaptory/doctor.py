"""`adaptory doctor`: is everything there that a run needs, and has anything been left behind? Every finding names its remedy."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from adaptory import params, prefect_api, reach
from adaptory.errors import AlreadyExists, UserError
from adaptory.frozen import Frozen
from adaptory.registry import ledger
from adaptory.storage import ObjectStore, open_store
from adaptory.storage.objects import S3Store
from adaptory.workspace import Workspace

_ROOM = 5e9  # bytes that a run may need
_DEAD = timedelta(minutes=10)  # a run that is alive says so every 30 s
_OLD = timedelta(days=1)  # an upload that is still going on is younger


class Finding(Frozen):
    """One thing that was looked at."""

    what: str
    wrong: str | None = None  # None: it is as it should be
    remedy: str = ""


def examine(place: Workspace, *, abort_uploads: bool = False) -> Iterator[Finding]:
    """Looks at everything in turn; a check that cannot be made is a finding too. Changes nothing but, if asked, old uploads."""
    checks: list[tuple[str, Callable[[], Iterator[tuple[str, str]]]]] = [
        ("versions", _versions),
        ("recipes", lambda: _recipes(place)),
        ("disk", lambda: _disk(place)),
        ("store", lambda: _store(open_store(place.store))),
        ("ledgers", lambda: _ledgers(open_store(place.store))),
        ("uploads", lambda: _uploads(open_store(place.store), abort=abort_uploads)),
        ("locks", lambda: _locks(place)),
        ("ports", lambda: _ports(place)),
        ("MLflow", lambda: _mlflow(place)),
    ]
    if prefect_api.configured(place):
        checks += [
            ("Prefect", lambda: _prefect(place)),
            ("workers", lambda: _workers(place)),
            ("limits", lambda: _limits(place)),
            ("runs", lambda: _runs(place)),
        ]
    for what, check in checks:
        try:
            found = list(check())
        except UserError as fault:
            found = [(str(fault), "")]
        except Exception as fault:  # whatever a server answers: the other checks are still made
            found = [(f"could not be looked at: {type(fault).__name__}: {fault}", "look at the server's log")]
        for wrong, remedy in found:
            yield Finding(what=what, wrong=wrong, remedy=remedy)
        if not found:
            yield Finding(what=what)


def _versions() -> Iterator[tuple[str, str]]:
    """What pip does not see: versions that install side by side and do not work together."""
    if _version("prefect") and (fastapi := _version("fastapi")) and not (0, 139) <= fastapi[:2] < (0, 151):
        found = importlib.metadata.version("fastapi")
        yield f"fastapi {found} breaks the server of prefect 3.8.8", "pip install -c constraints.txt 'adaptory[train]'"
    if (torch := _version("torch")) and torch[:2] < (2, 10):
        yield "this torch can be made to run code by a weights file (CVE-2026-24747)", "pip install 'torch>=2.10'"


def _version(name: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in importlib.metadata.version(name).split("+")[0].split(".")[:3] if part.isdigit())
    except importlib.metadata.PackageNotFoundError:
        return None


def _recipes(place: Workspace) -> Iterator[tuple[str, str]]:
    for name in params.names(place.recipes_file):
        try:
            params.load(place.recipes_file, name)
        except UserError as fault:
            yield str(fault), "correct params.yaml; docs/recipe.md has every key"


def _disk(place: Workspace) -> Iterator[tuple[str, str]]:
    for folder in {place.home, place.cache}:
        near = next(one for one in (folder, *folder.parents) if one.is_dir())
        free = shutil.disk_usage(near).free
        if free < _ROOM:
            yield f"{folder} has {free / 1e9:.1f} GB free", f"free some: a run may need {_ROOM / 1e9:g} GB"


def _store(store: ObjectStore) -> Iterator[tuple[str, str]]:
    """The one thing that everything rests on: of two who create the same object, one wins."""
    with suppress(AlreadyExists):  # from the last time
        store.create("doctor/probe", b"first")
    try:
        store.create("doctor/probe", b"second")
    except AlreadyExists:
        return
    yield (
        f"{store.url} lets two writers create the same object; promotions would overwrite one another",
        "use a store with conditional writes (AWS S3, SeaweedFS >= 4, a local folder)",
    )


def _ledgers(store: ObjectStore) -> Iterator[tuple[str, str]]:
    for model in sorted({key.split("/")[1] for key in store.keys("ledger/")}):
        try:
            ledger.history(store, model)
        except UserError as fault:
            yield str(fault), "restore the ledger from a backup; nothing of this model is promoted or pulled until then"


def _uploads(store: ObjectStore, *, abort: bool) -> Iterator[tuple[str, str]]:
    if not isinstance(store, S3Store):
        return
    pages = store.client.get_paginator("list_multipart_uploads").paginate(Bucket=store.bucket, Prefix=store.prefix)
    for one in (one for page in pages for one in page.get("Uploads", ())):
        if datetime.now(UTC) - one["Initiated"] < _OLD:
            continue
        if abort:
            store.client.abort_multipart_upload(Bucket=store.bucket, Key=one["Key"], UploadId=one["UploadId"])
        else:
            said = f"an upload of {one['Key']} began on {one['Initiated']:%Y-%m-%d} and never ended"
            yield said, "adaptory doctor --abort-uploads"


def _mlflow(place: Workspace) -> Iterator[tuple[str, str]]:
    reach.check_tracking(place)
    if not place.tracking_uri.startswith("http"):
        yield from _mlflow_file(place)
        return
    from adaptory.registry import tracking

    tracking.client(place).search_registered_models(max_results=1)
    ours, theirs = importlib.metadata.version("mlflow-skinny"), tracking.server_version(place)
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        yield f"the server is MLflow {theirs}, this is {ours}", "give both the same constraints.txt"


def _mlflow_file(place: Workspace) -> Iterator[tuple[str, str]]:
    """Whether the database in a file has the schema of this MLflow; a server whose own has not does not start."""
    file = Path(place.tracking_uri.removeprefix("sqlite:///"))
    spec = importlib.util.find_spec("mlflow")
    if not file.is_file() or spec is None or not spec.submodule_search_locations:
        return
    from alembic.script import ScriptDirectory

    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        theirs = database.execute("select version_num from alembic_version").fetchone()[0]
    migrations = Path(spec.submodule_search_locations[0]) / "store" / "db_migrations"
    ours = ScriptDirectory(str(migrations)).get_current_head()
    if theirs != ours:
        yield f"{file} has schema {theirs}, this MLflow wants {ours}", f"keep a copy of it, then: mlflow db upgrade sqlite:///{file}"


def _locks(place: Workspace) -> Iterator[tuple[str, str]]:
    """What dead processes hold. Our own locks go with their process; DVC's reader and writer notes do not."""
    notes = place.root / ".dvc" / "tmp" / "rwlock"
    held = json.loads(notes.read_bytes() or b"{}") if notes.is_file() else {}
    for path, one in held.items():
        several = [one.get("write") or {}, *(one.get("read") or [])]
        if dead := [str(told["pid"]) for told in several if told and not Path(f"/proc/{told['pid']}").exists()]:
            yield f"DVC's note that {path} is in use is by a dead process ({', '.join(dead)})", f"rm {notes}"


def _ports(place: Workspace) -> Iterator[tuple[str, str]]:
    """Whether somebody else listens where the stack of `make up` would."""
    stack = place.home / "stack"
    if not (stack / "addresses.json").is_file() or (stack / "running.json").is_file():
        return
    for name, address in json.loads((stack / "addresses.json").read_bytes()).items():
        host, _, port = str(address).rpartition(":")
        if not host or not port.isdigit() or "/" in host:
            continue
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((host, int(port))) == 0:
                remedy = f"stop it, or: rm {stack}/addresses.json"
                yield f"another program listens at {address}, where `make up` starts {name}", remedy


def _prefect(place: Workspace) -> Iterator[tuple[str, str]]:
    reach.check_prefect(place)
    theirs, ours = prefect_api.get(place, "/admin/version"), importlib.metadata.version("prefect")
    if theirs != ours:
        yield f"the server is prefect {theirs}, this is {ours}", "give both the same constraints.txt"
    prefect_api.post(place, "/deployments/count", {})


def _workers(place: Workspace) -> Iterator[tuple[str, str]]:
    there = {one["name"]: one for one in prefect_api.post(place, "/work_pools/filter", {})}
    for name in ("cpu", os.environ.get("ADAPTORY_GPU_POOL") or "gpu"):
        if name not in there:
            yield f"there is no work pool {name}", "make deploy"
        elif there[name].get("status") == "NOT_READY":
            yield f"no worker of the pool {name} is alive: its runs wait", f"prefect worker start --pool {name}"
        elif there[name].get("is_paused"):
            yield f"the work pool {name} is paused: its runs wait", f"prefect work-pool resume {name}"


def _limits(place: Workspace) -> Iterator[tuple[str, str]]:
    """Slots that are taken while nothing runs that could have taken them."""
    states = {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}
    running = prefect_api.post(place, "/flow_runs/filter", {"flow_runs": states, "limit": 200})
    limits = prefect_api.post(place, "/v2/concurrency_limits/filter", {})
    for one in limits:
        name, taken = one["name"], one["active_slots"]
        could = [run for run in running if _takes(run, name)]
        if taken > len(could):
            yield (
                f"the limit {name} has {taken} slots taken, and {len(could) or 'nothing'} runs that could have",
                f"it is freed when the lease ends (a minute); else: prefect gcl update {name} --active-slots {len(could)}",
            )
    if not any(one["name"] == "gpu" for one in limits):
        yield "there is no limit gpu, and stages for the GPU pool refuse to start", "make deploy"


def _takes(run: dict[str, Any], limit: str) -> bool:
    """Whether a run may hold a slot of this limit: a stage that of the GPUs, a retrain or a monitor that of its model (started
    from a shell it has no tags), any run another."""
    if limit == "gpu":
        return "stage" in run["tags"]
    if limit.startswith("promote-"):
        return bool(run["parameters"].get("recipe") == limit.removeprefix("promote-"))
    return True


def _runs(place: Workspace) -> Iterator[tuple[str, str]]:
    """Runs that call themselves running and say nothing."""
    before = (datetime.now(UTC) - _DEAD).isoformat()
    wanted = {"state": {"type": {"any_": ["RUNNING"]}}, "start_time": {"before_": before}}
    for one in prefect_api.post(place, "/flow_runs/filter", {"flow_runs": wanted}):
        resource = {"id": [f"prefect.flow-run.{one['id']}"]}
        asked = {"filter": {"resource": resource, "occurred": {"since": before}}, "limit": 1}
        if not prefect_api.post(place, "/events/filter", asked)["events"]:
            yield (
                f"the run {one['name']} ({one['id']}) says nothing since {_DEAD.seconds // 60} minutes",
                f"its machine died, and no automation noticed (make deploy): prefect flow-run cancel {one['id']}",
            )
    for one in prefect_api.post(place, "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["PENDING"]}}}}):
        if datetime.now(UTC) - datetime.fromisoformat(one["state"]["timestamp"]) > _DEAD:
            said = f"the run {one['name']} ({one['id']}) was claimed by a worker and never begun"
            yield said, f"its worker died, and no automation noticed (make deploy): prefect flow-run cancel {one['id']}"
    due = {"state": {"name": {"any_": ["Late"]}}}
    if late := prefect_api.post(place, "/flow_runs/count", {"flow_runs": due}):
        yield f"{late} runs are late", "start a worker of their pool; of scheduled ones only the newest works"


def as_text(found: Finding) -> str:
    """One line, and one for the remedy."""
    if found.wrong is None:
        return f"✓ {found.what}"
    return f"✗ {found.what}: {found.wrong}" + (f"\n    {found.remedy}" if found.remedy else "")
