"""infra/: everything in it is what its own schema says, and says what the process stack runs. No container engine is needed."""

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


@pytest.mark.parametrize("name", sorted(path.name for path in (INFRA / "kubernetes").glob("*.yaml")))
def test_every_manifest_is_valid_and_listed(name: str) -> None:
    listed = yaml.safe_load((INFRA / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    if name == "kustomization.yaml":
        assert sorted(listed) == sorted(path.name for path in (INFRA / "kubernetes").glob("*.yaml") if path.name != name)
        return
    checked("kubernetes-validate", "--strict", f"infra/kubernetes/{name}")


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
        first, *wanted = [*service.get("entrypoint", ()), *service["command"]]
        found = stack.command(name)
        started = next(place for place, word in enumerate(found) if Path(word).name == first)
        options = [word.split("=")[0] for word in found[started + 1 :]]
        assert options[: len(wanted)] == [word.split("=")[0] for word in wanted], name
        assert name == "postgres" or len(options) == len(wanted), name
