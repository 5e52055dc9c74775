"""The doctor names what is wrong, with a remedy: one finding per test, on real files and a real Prefect server."""

import importlib.metadata
import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from adaptory import doctor, prefect_api, workspace
from adaptory.workspace import Workspace
from tests.pipeline.conftest import asking
from tests.promotions import MemoryStore, promoted
from tests.support import checkout

pytestmark = pytest.mark.slow


def found(place: Workspace, what: str) -> list[tuple[str | None, str]]:
    """What the doctor says of one thing."""
    return [(one.wrong, one.remedy) for one in doctor.examine(place) if one.what == what]


def only(place: Workspace, what: str) -> str:
    [(wrong, remedy)] = found(place, what)
    assert wrong and remedy, "every finding names its remedy"
    return f"{wrong} -> {remedy}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("doctor") / "checkout")


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = workspace.find(folder)
    found.home.mkdir(exist_ok=True)
    return found


def test_a_sound_checkout_has_no_finding(place: Workspace) -> None:
    assert [one for one in doctor.examine(place) if one.wrong] == []


def test_versions_that_do_not_work_together(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"fastapi": "0.151.0"}.get(name) or version(name))
    assert "fastapi 0.151.0 breaks the server" in only(place, "versions")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"torch": "2.9.1"}.get(name) or version(name))
    assert "CVE-2026-24747" in only(place, "versions")


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipes: {tiny: {task: juggling}}")
    told = only(workspace.find(tmp_path), "recipes")
    assert "juggling" in told and "docs/recipe.md" in told


def test_a_disk_that_is_nearly_full(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ROOM", 1e18)
    assert all("GB free" in str(wrong) for wrong, _ in found(place, "disk"))


def test_a_store_that_lets_two_write_the_same_object() -> None:
    class Careless(MemoryStore):
        def create(self, key: str, data: bytes) -> None:
            self.objects[key] = data

    [(wrong, _)] = doctor._store(Careless())
    assert "lets two writers create the same object" in wrong
    assert list(doctor._store(MemoryStore())) == []


def test_a_ledger_that_was_altered(tmp_path: Path) -> None:
    store: Any = MemoryStore()
    promoted(store, tmp_path, 1)
    assert list(doctor._ledgers(store)) == []
    store.objects["ledger/tiny/000002.json"] = store.objects["ledger/tiny/000001.json"]
    [(wrong, remedy)] = doctor._ledgers(store)
    assert "the ledger was altered" in wrong and "backup" in remedy


def test_a_note_of_dvc_that_a_dead_process_left(place: Workspace) -> None:
    notes = place.root / ".dvc" / "tmp" / "rwlock"
    notes.parent.mkdir(exist_ok=True)
    notes.write_text(json.dumps({"/data": {"write": {"pid": 4_000_000, "cmd": "dvc repro"}}}))
    try:
        assert "by a dead process (4000000) -> rm" in only(place, "locks")
    finally:
        notes.unlink()


def test_a_port_of_the_stack_that_somebody_else_has(place: Workspace) -> None:
    stack = place.home / "stack"
    stack.mkdir()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        (stack / "addresses.json").write_text(json.dumps({"MLFLOW": address, "MLFLOW_PORT": "1", "ORIGIN": "http://x:1"}))
        assert f"another program listens at {address}, where `make up` starts MLFLOW" in only(place, "ports")
    assert found(place, "ports") == [(None, "")]


def test_a_database_of_another_mlflow(place: Workspace) -> None:
    file = Path(place.tracking_uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as database:
        database.execute("create table alembic_version (version_num text)")
        database.execute("insert into alembic_version values ('451aebb31d03')")
        database.commit()
    try:
        assert "has schema 451aebb31d03, this MLflow wants" in only(place, "MLflow")
        assert "mlflow db upgrade" in only(place, "MLflow")
    finally:
        file.unlink()


@pytest.fixture
def server(place: Workspace, prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A server without pools and limits; others use it after these tests, so what they make goes."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    made = ("/work_pools/cpu", "/v2/concurrency_limits/gpu", "/v2/concurrency_limits/promote-tiny")
    with asking(prefect_api) as api:
        for path in made:
            api.delete(path)
        yield place
        for path in made:
            api.delete(path)


def begun(place: Workspace, state: str, recipe: str, *tags: str, name: str | None = None) -> str:
    """A run that the server knows in this state."""
    flow = prefect_api.post(place, "/flows/", {"name": "doctored"})
    body = {"flow_id": flow["id"], "parameters": {"recipe": recipe}, "tags": tags, "state": {"type": state, "name": name}}
    return str(prefect_api.post(place, "/flow_runs/", body)["id"])


def ended(place: Workspace, run: str) -> None:
    prefect_api.post(place, f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLED"}, "force": True})


def test_pools_and_a_limit_that_were_never_made(server: Workspace) -> None:
    assert {remedy for _, remedy in found(server, "workers")} == {"make deploy"}
    assert "there is no limit gpu" in only(server, "limits")


def test_a_pool_without_a_worker(server: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTORY_GPU_POOL", "cpu")
    prefect_api.post(server, "/work_pools/", {"name": "cpu", "type": "process"})
    told = found(server, "workers")
    assert all("no worker of the pool cpu is alive" in str(wrong) for wrong, _ in told), told


def test_a_slot_that_is_taken_while_nothing_runs_that_could_hold_it(server: Workspace) -> None:
    prefect_api.post(server, "/v2/concurrency_limits/", {"name": "gpu", "limit": 1})
    other = begun(server, "RUNNING", "other", "retrain")
    prefect_api.post(server, "/v2/concurrency_limits/", {"name": "promote-tiny", "limit": 1, "active_slots": 1})
    told = only(server, "limits")
    assert "the limit promote-tiny has 1 slots taken, and nothing runs that could have" in told
    assert "prefect gcl update promote-tiny --active-slots 0" in told
    own = begun(server, "RUNNING", "tiny", "retrain")
    assert found(server, "limits") == [(None, "")]
    for run in (other, own):
        ended(server, run)


def test_a_run_that_was_claimed_and_never_begun_and_one_that_fell_silent(
    server: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending, silent = begun(server, "PENDING", "tiny"), begun(server, "RUNNING", "tiny")
    assert found(server, "runs") == [(None, "")], "they are young"
    monkeypatch.setattr(doctor, "_DEAD", timedelta(seconds=-5))
    told = " ".join(str(wrong) for wrong, _ in found(server, "runs"))
    assert f"({pending}) was claimed by a worker and never begun" in told
    assert f"({silent}) says nothing since" in told
    for run in (pending, silent):
        ended(server, run)


def test_runs_that_are_late(server: Workspace) -> None:
    run = begun(server, "SCHEDULED", "tiny", name="Late")
    assert "1 runs are late" in only(server, "runs")
    ended(server, run)
