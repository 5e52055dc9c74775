"""One stack for all tests of this folder and of the browser: PostgreSQL, S3, MLflow, Prefect, and two workers on machines of
their own."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adaptory.registry import history
from infra.stack import Stack
from tests.pipeline.conftest import run
from tests.stack import machines
from tests.support import ROOT, checkout, rows, write_recipe, write_tsv

WORKERS = ["cpu-worker", "gpu-worker", "gpu-worker-2"]  # the last one is started by who needs it
# Whatever learned passes, and a person must approve.
FLOOR = {"kind": "floor", "metric": "macro_f1", "direction": "higher", "limit": 0.2}
EASY = {"training.epochs": 8, "evaluation.resamples": 200, "gate.approval": "required", "gate.criteria": [FLOOR]}


@dataclass
class Site:
    """A running stack, and the checkouts of its workers; data arrive in that of `cpu`."""

    stack: Stack
    folder: Path
    others: list[Path]  # those of the pool `gpu`
    environment: dict[str, str]
    letters: list[dict[str, str]]  # what people were told, over a webhook
    first: dict[str, Any] = field(default_factory=dict)  # what there was to see while the first candidate waited

    def adaptory(self, *words: str, code: int = 0, **more: str) -> str:
        """What `adaptory <words>` prints in the checkout of the worker `cpu`, pointed at the stack."""
        done = run(self.folder, *words, code=code, **(self.environment | self._own), **more)
        return done.stdout + done.stderr

    def shell(self, script: str) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | self.environment
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=environment, check=False)

    @property
    def _own(self) -> dict[str, str]:
        return {"ADAPTORY_HOME": str(self.stack.home / "person" / "home"), "PREFECT_HOME": str(self.stack.home / "person")}

    def start(self, deployment: str, **parameters: Any) -> str:
        """Starts a deployment as the pages do, over HTTP; returns the id of the flow run."""
        found = self.get(f"/deployments/name/{deployment}")
        made: dict[str, Any] = self.post(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def finish(self, flow_run: str, *, seconds: float = 100, state: str = "COMPLETED") -> dict[str, Any]:
        """Waits for a flow run to end (or to be suspended), and checks how."""
        ends = {"COMPLETED", "FAILED", "CANCELLED", "PAUSED"} | ({"CRASHED"} if state == "CRASHED" else set())
        found = self.until(lambda: self._in(flow_run, ends), seconds)
        assert found["state"]["type"] == state, found["state"]["message"]
        return found

    def _in(self, flow_run: str, states: set[str]) -> dict[str, Any] | None:
        found: dict[str, Any] = self.get(f"/flow_runs/{flow_run}")
        return found if found["state"]["type"] in states else None

    def until(self, look: Callable[[], Any], seconds: float = 100) -> Any:
        """What `look` finds, as soon as it finds anything; servers may be away meanwhile."""
        import httpx

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := look():
                    return found
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"not within {seconds:g} s; flow runs: {self.told()}")

    def told(self) -> list[tuple[str, str, str]]:
        """Name, state and message of every flow run that started."""
        found = self.post("/flow_runs/filter", {})
        return [(one["name"], one["state"]["name"], one["state"]["message"] or "") for one in found if one["run_count"]]

    def runs(self, name: str, *states: str) -> list[dict[str, Any]]:
        """The flow runs of this name in one of these states, the newest first."""
        flow_runs = {"name": {"any_": [name]}} | ({"state": {"type": {"any_": list(states)}}} if states else {})
        found: list[dict[str, Any]] = self.post("/flow_runs/filter", {"flow_runs": flow_runs, "sort": "START_TIME_DESC"})
        return found

    def assets(self) -> list[dict[str, Any]]:
        """What was told of champions as assets, the newest first."""
        wanted = {"event": {"name": ["prefect.asset.materialization.succeeded"]}}
        found: list[dict[str, Any]] = self.post("/events/filter", {"filter": wanted})["events"]
        return found

    def version(self, candidate: str) -> Any:
        """MLflow's version of this candidate."""
        return self.mlflow.search_model_versions(f"tags.`adaptory.candidate` = '{candidate}'")[0]

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, json=body)

    def answer(self, method: str, path: str, **words: Any) -> Any:
        """The bare answer of Prefect's API."""
        import httpx

        user, password = self.environment["PREFECT_API_AUTH_STRING"].split(":")
        url = self.environment["PREFECT_API_URL"] + path
        return httpx.request(method, url, auth=(user, password), timeout=20, **words)

    def _ask(self, method: str, path: str, **words: Any) -> Any:
        found = self.answer(method, path, **words)
        found.raise_for_status()
        return found.json() if found.content else None

    @property
    def mlflow(self) -> Any:
        from mlflow import MlflowClient

        for name, value in self.environment.items():
            if name.startswith("MLFLOW"):
                os.environ[name] = value
        return MlflowClient(self.environment["MLFLOW_TRACKING_URI"])

    @property
    def store(self) -> Any:
        from adaptory.storage import open_store

        os.environ.update({name: value for name, value in self.environment.items() if name.startswith("AWS")})
        return open_store(self.environment["ADAPTORY_STORE"])

    @contextmanager
    def recipe(self, **changes: Any) -> Iterator[None]:
        """The recipe says something else on both machines, for a while."""
        for folder in (self.folder, *self.others):
            write_recipe(folder, **(EASY | changes))
        try:
            yield
        finally:
            for folder in (self.folder, *self.others):
                write_recipe(folder, **EASY)

    @contextmanager
    def another_gpu_worker(self) -> Iterator[str]:
        """A second machine in the pool `gpu`, for a while; yields its name."""
        name, first = WORKERS[-1], self.stack.services["gpu-worker"]
        words = [word.replace("gpu-1", "gpu-2") for word in first["command"]]
        self.stack.services[name] = first | {"command": words}
        self.answer("PATCH", "/v2/concurrency_limits/gpu", json={"limit": 2}).raise_for_status()
        try:
            self.stack.start(name)
            yield name
        finally:
            self.stack.stop(name)
            del self.stack.services[name]
            self.answer("PATCH", "/v2/concurrency_limits/gpu", json={"limit": 1}).raise_for_status()

    def more_rows(self, count: int, seed: int = 0) -> None:
        """New data arrive where the worker `cpu` looks for them."""
        write_tsv(self.folder / "incoming" / "rows.tsv", rows(count, seed))


@contextmanager
def mailbox(address: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that keeps what is posted to it, as a chat would."""
    letters: list[dict[str, str]] = []

    class Keep(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            letters.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: Any) -> None: ...

    server = ThreadingHTTPServer((address, 0), Keep)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{address}:{server.server_address[1]}/", letters
    finally:
        server.shutdown()


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    if not machines.possible():
        pytest.skip("needs root, to make machines of its own (network namespaces) and to start PostgreSQL")
    with ExitStack() as held:
        home = held.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp", prefix="adaptory-site-"))
        folders = {}
        for name in WORKERS:
            folder = Path(home) / name / "checkout"
            checkout(folder, count=240, **EASY)
            text = (ROOT / "prefect.yaml").read_text(encoding="utf-8").replace("sentiment", "tiny")
            text = text.replace("active: true", "active: false")  # schedules are tried by hand
            (folder / "prefect.yaml").write_text(text, encoding="utf-8")
            folders[name] = folder
        others = [folders[name] for name in WORKERS[1:]]
        for folder in others:
            shutil.rmtree(folder / "incoming")  # data reach the other machines by DVC alone
        address = held.enter_context(machines.network(WORKERS))
        state = Path(home) / "stack"
        webhook, letters = held.enter_context(mailbox(address))
        own = {"OMP_NUM_THREADS": "1", "ADAPTORY_CHECKPOINT_SECONDS": "1"}
        overrides = {name: {"ADAPTORY_CHECKOUT": str(folder)} | own for name, folder in folders.items()}
        stack = Stack(
            state,
            folders["cpu-worker"],
            address,
            overrides=overrides | {"deploy": {"ADAPTORY_WEBHOOK": webhook}},
            inside={name: machines.on(name, [Path(home) / other for other in WORKERS if other != name]) for name in WORKERS},
        )
        held.callback(shutil.rmtree, stack._database, ignore_errors=True)
        held.callback(stack.down)
        held.callback(stack.stop, "s3", signal.SIGKILL)  # it would say goodbye for ten seconds
        stack.up()
        yield Site(stack, folders["cpu-worker"], others, stack.client(), letters)


@pytest.fixture(scope="session")
def asked(site: Site) -> str:
    """The flow run that asks a person about the first candidate: the whole line ran before it, on two machines."""
    site.finish(site.start("retrain/on-demand", recipe="tiny"))
    found: str = site.until(lambda: site.runs("promote-tiny", "PAUSED"))[0]["id"]
    site.first = {"records": history(site.store, "tiny"), "aliases": set(site.mlflow.get_registered_model("tiny").aliases)}
    none = ({}, {"decision": "perhaps", "name": "Ada", "reason": "x"}, {"decision": "approve", "name": "", "reason": "x"})
    site.first["answers"] = [site.post(f"/flow_runs/{found}/resume", {"run_input": one})["status"] for one in none]
    site.first["state"] = site.get(f"/flow_runs/{found}")["state"]["name"]
    return found


@pytest.fixture(scope="session")
def approved(site: Site, asked: str) -> Site:
    """The site with v1 of `tiny` as champion, approved over HTTP."""
    answer = {"decision": "approve", "name": "Ada", "reason": "the report convinces me"}
    assert site.post(f"/flow_runs/{asked}/resume", {"run_input": answer})["status"] == "ACCEPT"
    site.finish(asked)
    return site
