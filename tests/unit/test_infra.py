"""infra/: everything in it is what its own schema says, and says what the process stack runs. No container engine is needed."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import secrets
from infra.stack import Stack, interpolate
from tests.support import ROOT

INFRA = ROOT / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load(interpolate((INFRA / "compose.yaml").read_text(encoding="utf-8"), {}))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def checked(*command: str) -> None:
    path = Path(sys.executable).parent / command[0]
    done = subprocess.run([str(path), *command[1:]], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_is_one() -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "infra/compose.yaml")


def test_the_images_are_built_as_hadolint_wants_it() -> None:
    checked("hadolint", "infra/docker/Dockerfile")


KUBERNETES = INFRA / "kubernetes"
_FILES = [path for path in KUBERNETES.glob("*/*.yaml") if path.stem != "kustomization"]
MANIFESTS = sorted(path.relative_to(KUBERNETES).as_posix() for path in _FILES)


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_manifest_is_valid_and_listed(name: str) -> None:
    folder, _, file = name.partition("/")
    listed = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())["resources"]
    assert file in listed and set(listed) <= {path.name for path in (KUBERNETES / folder).iterdir()} | {"../base"}
    checked("kubernetes-validate", "--strict", f"infra/kubernetes/{name}")


def manifests(kind: str) -> list[tuple[str, dict[str, Any]]]:
    every = [(name, one) for name in MANIFESTS for one in yaml.safe_load_all((KUBERNETES / name).read_text())]
    return [(name, one) for name, one in every if one["kind"] == kind]


def test_the_workers_of_the_cluster_run_the_commands_and_know_the_variables_of_compose() -> None:
    settings = manifests("ConfigMap")[0][1]["data"]
    for kind, part in (("Deployment", "cpu-worker"), ("StatefulSet", "gpu-worker")):
        pod = next(one for _, one in manifests(kind) if one["metadata"]["name"] == part)["spec"]["template"]["spec"]
        worker = pod["containers"][0]
        known = settings | {one["name"]: one["value"] for one in worker["env"]}
        service = SERVICES[part]
        # A pod's name is its worker's.
        assert worker["command"] == [word for word in service["command"] if not word.startswith("--name=")]
        # What is compose's own: where its S3 is, and that a port is for this container alone.
        own = {"AWS_ENDPOINT_URL", "PREFECT_WORKER_WEBSERVER_HOST"}
        assert service["environment"].keys() - own <= known.keys(), part
        apart = {"PREFECT_WORKER_QUERY_SECONDS"}  # many ask
        assert {name: known[name] for name in known.keys() & service["environment"].keys() - apart} == {
            name: service["environment"][name] for name in known.keys() & service["environment"].keys() - apart
        }
        assert int(pod["terminationGracePeriodSeconds"]) >= int(service["stop_grace_period"].removesuffix("s"))


def test_a_pod_holds_the_secrets_of_a_client_and_no_others() -> None:
    client = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
    client |= {"PREFECT_API_AUTH_STRING"}
    template = json.loads((ROOT / "infra" / "kubernetes" / "pool" / "job-template.json").read_bytes())
    pods = [template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]]
    pods += [one["spec"]["template"]["spec"] for kind in ("Deployment", "StatefulSet") for _, one in manifests(kind)]
    assert len(pods) == 4
    for pod in pods:
        held = next(one["secret"] for one in pod["volumes"] if one["name"] == "secrets")
        assert {one["key"] for one in held["items"]} == {one["path"] for one in held["items"]} == client


def test_what_a_person_asks_for_does_not_wait_behind_retrains() -> None:
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    queues = {one["entrypoint"]: one["work_pool"].get("work_queue_name", "default") for one in entries}
    assert {flow for flow, queue in queues.items() if queue == "people"} == {
        "flows/promote.py:promote", "flows/rollback.py:rollback", "flows/reconcile.py:reconcile", "flows/monitor.py:monitor",
    }  # fmt: skip
    assert queues["flows/retrain.py:retrain"] == "default"


def test_processes_of_a_gpu_machine_share_memory_enough_for_gradients() -> None:
    """The default of 64 MB would end a training of several GPUs in its first step."""
    assert SERVICES["gpu-worker"]["shm_size"] == "1gb"
    pods = [one["spec"]["template"]["spec"] for _, one in manifests("StatefulSet")]
    template = json.loads((KUBERNETES / "pool" / "job-template.json").read_text())
    for pod in [*pods, template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]]:
        assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in pod["volumes"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]


def test_no_pod_may_do_more_than_it_needs() -> None:
    pods = [one["spec"]["template"]["spec"] for kind in ("Deployment", "StatefulSet") for _, one in manifests(kind)]
    template = json.loads((KUBERNETES / "pool" / "job-template.json").read_text())
    pods.append(template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"])
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["containers"][0]["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert pod.get("automountServiceAccountToken") is False or pod["serviceAccountName"] == "pool-worker"
        assert "limits" in pod["containers"][0]["resources"]
    for _, policy in manifests("NetworkPolicy"):
        assert policy["spec"]["ingress"] == [] and all(rule.get("to") and rule.get("ports") for rule in policy["spec"]["egress"])


def test_shell_scripts_parse() -> None:
    for script in (INFRA / "backup.sh", INFRA / "restore.sh", INFRA / "docker" / "with-secrets"):
        assert script.stat().st_mode & stat.S_IXUSR
        subprocess.run(["sh", "-n", str(script)], check=True)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_pinned_checked_and_open_to_this_host_only(name: str) -> None:
    service = SERVICES[name]
    assert "@sha256:" in service["image"] or service["image"].startswith("adaptory:")
    assert "healthcheck" in service or service["restart"] == "on-failure"
    assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_secrets_are_files_and_nowhere_else(name: str, tmp_path: Path) -> None:
    secrets.write(tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(SERVICES[name].get("secrets", ())) <= set(made) & set(COMPOSE["secrets"])
    text = (INFRA / "compose.yaml").read_text()
    assert not any(value in text for key, value in made.items() if not key.endswith("USERNAME"))


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    secrets.write(tmp_path / "s")
    before = {path.name: path.read_text() for path in (tmp_path / "s").iterdir()}
    secrets.write(tmp_path / "s")
    assert {path.name: path.read_text() for path in (tmp_path / "s").iterdir()} == before
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "s").iterdir())
    secrets.write(tmp_path / "other")
    assert (tmp_path / "other" / "PGPASSWORD").read_text() != before["PGPASSWORD"]


def test_the_process_stack_runs_the_commands_of_the_containers(tmp_path: Path) -> None:
    """Word by word, but for addresses, ports and folders; PostgreSQL is told its folders, which its image knows."""
    stack = Stack(tmp_path / "stack")
    for name, service in SERVICES.items():
        first, *wanted = list(service.get("entrypoint", ())) + service["command"]
        found = stack.command(name)
        started = next(place for place, word in enumerate(found) if Path(word).name == first)
        options = [word.split("=")[0] for word in found[started + 1 :]]
        assert options[: len(wanted)] == [word.split("=")[0] for word in wanted], name
        assert name == "postgres" or len(options) == len(wanted), name
