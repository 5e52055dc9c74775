"""What is committed fits together: the data lock, the pages of `adaptory ui`."""

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
