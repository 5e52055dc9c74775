"""The Kubernetes pool: the real worker of Prefect makes a job from our template. Only the cluster is played: it keeps the job."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import deploy
from tests.pipeline.conftest import BIN, asking
from tests.support import ROOT

pytestmark = pytest.mark.slow
POOL = ROOT / "infra" / "kubernetes" / "pool"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """The configuration of a cluster that takes every job, and the jobs it took."""
    jobs: list[dict[str, Any]] = []

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.split("?")[0] == "/apis/batch/v1/namespaces/adaptory/jobs":
                jobs.append(json.loads(json.dumps(sent)))
                sent["metadata"]["name"] = "training-1"
                self._say(201, sent)
            else:
                self._say(404, {})

        def do_GET(self) -> None:
            self._say(200, {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []})

        def _say(self, code: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told = {
        "apiVersion": "v1", "kind": "Config", "current-context": "it", "users": [{"name": "me", "user": {"token": "x"}}],
        "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "me"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(told))
    yield tmp_path / "kubeconfig", jobs
    server.shutdown()


@pytest.fixture
def stage(prefect_api: str) -> Iterator[str]:
    """A run of the stage `train`, due in the pool that `make deploy` makes for Kubernetes."""
    environment = os.environ | {"PREFECT_API_URL": prefect_api, "ADAPTORY_GPU_POOL_TYPE": "kubernetes"}
    make = [sys.executable, "-c", "from infra.deploy import pools_and_limits; pools_and_limits([])"]
    for _ in range(2):
        subprocess.run(make, env=environment, cwd=ROOT, check=True)
    environment["ADAPTORY_GPU_POOL_TYPE"] = "process"
    other = subprocess.run(make, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert "the work pool gpu is of the type kubernetes" in other.stderr
    with asking(prefect_api) as api:
        queues = {one["name"]: one for one in api.post("/work_pools/cpu/queues/filter", json={}).json()}
        assert queues["default"]["concurrency_limit"] == 8 and queues["people"]["concurrency_limit"] is None
        assert api.get("/work_pools/cpu").json()["concurrency_limit"] is None, "rollback waits behind nothing"
        assert api.get("/work_pools/gpu").json()["concurrency_limit"] == 1, "of pods no more than GPUs"
        flow = api.post("/flows/", json={"name": "stage"}).json()["id"]
        words = {"name": "gpu", "flow_id": flow, "work_pool_name": "gpu", "entrypoint": "flows/stage.py:stage"}
        declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][-1]
        words["job_variables"] = declared["work_pool"]["job_variables"]
        made = api.post("/deployments/", json=words).json()["id"]
        yield api.post(f"/deployments/{made}/create_flow_run", json={"parameters": {}}).json()["id"]
        for path in ("/work_pools/gpu", "/work_pools/cpu", f"/deployments/{made}", "/v2/concurrency_limits/gpu"):
            api.delete(path).raise_for_status()


def test_every_stage_becomes_a_job_that_the_cluster_takes(
    cluster: tuple[Path, list[dict[str, Any]]], stage: str, prefect_api: str, tmp_path: Path
) -> None:
    configuration, jobs = cluster
    worker = yaml.safe_load((POOL / "pool-worker.yaml").read_text())["spec"]["template"]["spec"]["containers"][0]
    own = {one["name"]: one["value"] for one in worker["env"]} | {"PREFECT_API_AUTH_STRING": "canary:canary"}
    environment = os.environ | own | {"PREFECT_API_URL": prefect_api, "KUBECONFIG": str(configuration)}
    command = [word for word in worker["command"][1:] if word != "--with-healthcheck"]
    command = [str(BIN / command[0]), *command[1:], "--run-once"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert len(jobs) == 1, done.stdout + done.stderr
    pod = jobs[0]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["command"] + container["args"] == ["with-secrets", "prefect", "flow-run", "execute"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] in (1, "1") and pod["priorityClassName"] == "adaptory-training"
    known = {one["name"]: one for one in container["env"]}
    assert known["PREFECT__FLOW_RUN_ID"]["value"] == stage
    assert known["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"]["value"] == "reschedule", "a pod that is put off goes on elsewhere"
    reference = {"name": "adaptory", "key": "PREFECT_API_AUTH_STRING"}
    assert known["PREFECT_API_AUTH_STRING"]["valueFrom"]["secretKeyRef"] == reference and "canary" not in json.dumps(jobs)
    for strange in ("parallelism", "completions"):  # prefect-kubernetes wants them in the pod, too, where the cluster drops them
        pod.pop(strange)
    jobs[0]["metadata"]["name"] = "training-1"  # which the cluster makes of generateName
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(jobs[0]))
    checked = subprocess.run([BIN / "kubernetes-validate", "--strict", tmp_path / "job.yaml"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_the_job_refers_to_is_in_the_manifests() -> None:
    pod = json.loads(deploy._JOB_TEMPLATE.read_bytes())["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    there = [one for path in POOL.parent.glob("*/*.yaml") for one in yaml.safe_load_all(path.read_text())]
    named = {(one["kind"], one["metadata"]["name"]) for one in there if "metadata" in one}
    claim = next(one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one)
    settings = pod["containers"][0]["envFrom"][0]["configMapRef"]["name"]
    assert {("PersistentVolumeClaim", claim), ("ConfigMap", settings), ("PriorityClass", pod["priorityClassName"])} <= named
    home = next(one for one in there if one["kind"] == "ConfigMap")["data"]["ADAPTORY_HOME"]
    mounts = {one["mountPath"]: one["name"] for one in pod["containers"][0]["volumeMounts"]}
    assert any(home.startswith(path) and name == "state" for path, name in mounts.items()), "checkpoints outlive the pod"
