"""One Prefect server for all pipeline tests (it takes 20 s to start), and checkouts to run in."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from adaptory import workspace
from tests.support import ROOT

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(folder: Path, *words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `adaptory <words>` in a checkout as its user would, and checks the exit code."""
    command = [str(BIN / "adaptory"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == code, f"adaptory {' '.join(words)}: code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Prefect server keeps its database and its log."""
    return tmp_path_factory.mktemp("prefect")


def asking(url: str) -> httpx.Client:
    """A client of this Prefect server that asks again while it is busy, as one on SQLite is now and then (503)."""
    from prefect.client.base import PrefectHttpxSyncClient

    return PrefectHttpxSyncClient(base_url=url, timeout=30, raise_on_all_errors=False)


@pytest.fixture(scope="session")
def prefect_api(prefect_home: Path) -> Iterator[str]:
    """The address of a real Prefect server on SQLite."""
    home, port = prefect_home, free_port()
    environment = workspace.find(home).environment() | {"PREFECT_HOME": str(home)}
    with (home / "log").open("w") as log:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}/api"
            for _ in range(240):
                assert server.poll() is None, (home / "log").read_text()
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=2)
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                raise AssertionError((home / "log").read_text())
            yield url
        finally:
            server.terminate()
            server.wait(30)
