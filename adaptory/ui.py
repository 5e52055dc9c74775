"""`adaptory ui`: the MLflow and Prefect servers on this machine's state, until Ctrl-C."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from adaptory.errors import StageError
from adaptory.workspace import Workspace

_PATIENCE = 120.0  # seconds a server may take to answer


def serve(place: Workspace) -> int:
    """Starts both servers on loopback, prints their addresses, and stops exactly these when interrupted."""
    place.activate()
    prefect, mlflow = _port(4200), _port(5000)
    environment = place.environment() | {"PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])}
    servers = [
        subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ),
        subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow), "--workers", "1",
             "--backend-store-uri", place.tracking_uri, "--artifacts-destination", str(place.mlflow_artifacts)],
            env=environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ),
    ]  # fmt: skip
    try:
        _wait("Prefect", servers[0], f"http://127.0.0.1:{prefect}/api/health")
        _wait("MLflow", servers[1], f"http://127.0.0.1:{mlflow}/health")
        print(f"MLflow    http://127.0.0.1:{mlflow}")
        print(f"Prefect   http://127.0.0.1:{prefect}     (for runs to use it: export PREFECT_API_URL=http://127.0.0.1:{prefect}/api)")
        print("Ctrl-C stops both.", flush=True)
        for server in servers:
            server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()
    return 0


def _port(wanted: int) -> int:
    """The usual port, or a free one if somebody has it."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("port 0 always binds")


def _wait(name: str, server: "subprocess.Popen[bytes]", url: str) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if server.poll() is not None:
            raise StageError(f"the {name} server ended with code {server.returncode} before it answered {url}")
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise StageError(f"{url} did not answer within {_PATIENCE:.0f} s")
