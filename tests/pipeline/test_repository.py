"""What is committed fits together: the data lock, the deployment, the pages of `adaptory ui`."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from adaptory import workspace
from tests.pipeline.conftest import BIN
from tests.support import ROOT, checkout

pytestmark = pytest.mark.slow


def test_dvc_lock_was_made_by_this_code_and_these_recipes(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    environment = workspace.find(clone).environment()
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    told = json.loads(subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=True).stdout)
    wrong = {stage: kind for stage, kinds in told.items() for kind in kinds if "changed outs" not in kind}
    # Inputs that are another stage's output are missing in a fresh clone; code and parameters are not.
    for stage, kind in wrong.items():
        for path, state in kind.get("changed deps", {"": kind}).items():
            assert path.startswith("data/"), f"{stage}: {path} {state}; run `adaptory prepare {stage.split('@')[1]}` and commit"


def test_the_deployment_is_accepted_runs_and_offers_the_recipe_as_a_parameter(tmp_path: Path, prefect_api: str) -> None:
    folder = checkout(tmp_path / "checkout")
    text = (ROOT / "prefect.yaml").read_text().replace("sentiment", "tiny")
    (folder / "prefect.yaml").write_text(text)
    environment = workspace.find(folder).environment() | {"PREFECT_API_URL": prefect_api, "ADAPTORY_CHECKOUT": str(folder)}

    (folder / ".adaptory" / "prefect").mkdir(parents=True)

    def prefect(*words: str) -> str:
        command = [str(BIN / "prefect"), *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    prefect("work-pool", "create", "local", "--type", "process")
    prefect("--no-prompt", "deploy", "--all")
    prefect("deployment", "run", "retrain/tiny")
    told = subprocess.run(
        [str(BIN / "prefect"), "worker", "start", "--pool", "local", "--run-once"], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    runs = _ask(f"{prefect_api}/flow_runs/filter", {"flow_runs": {"name": {"any_": ["retrain-tiny"]}}})
    assert "COMPLETED" in [run["state_type"] for run in runs], told.stdout + told.stderr
    assert (folder / ".adaptory" / "store" / "ledger" / "tiny" / "000001.json").is_file()
    found = _ask(f"{prefect_api}/artifacts/latest/filter", {})
    kinds = {artifact["key"]: artifact["type"] for artifact in found}
    named = {"tiny-data": "table", "tiny-training": "progress", "tiny-scores": "table", "tiny-report": "markdown"}
    assert kinds.items() >= named.items()
    progress = next(artifact["data"] for artifact in found if artifact["type"] == "progress")
    assert progress == 100
    deployment = json.loads(urllib.request.urlopen(f"{prefect_api}/deployments/name/retrain/tiny").read())
    assert deployment["parameter_openapi_schema"]["properties"]["recipe"]["description"].startswith("A name under `recipes:`")


def _ask(url: str, body: object) -> list[dict[str, object]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    found: list[dict[str, object]] = json.loads(urllib.request.urlopen(request).read())
    return found


def test_the_pages_answer_until_ctrl_c_and_nothing_is_left_running(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout", base=False, count=10)
    command = [str(BIN / "adaptory"), "ui"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        said = "".join(process.stdout.readline() for _ in range(3))
        addresses = re.findall(r"http://127\.0\.0\.1:\d+(?=\s)", said)
        assert len(addresses) == 2, said
        for address in addresses:
            assert b"<html" in urllib.request.urlopen(address).read().lower()
    finally:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
