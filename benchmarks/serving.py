"""Pulling and serving beside MLflow: the same release, the same machine, alternating.

    python -m benchmarks.serving [MODEL] [--seconds 10] [--runs 3] [--clients 16]

Needs a promoted model (adaptory retrain sentiment); asks whatever servers the environment names (source .adaptory/stack/env).
"""

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("model", nargs="?", default="sentiment")
    words.add_argument("--seconds", type=float, default=10)
    words.add_argument("--runs", type=int, default=3)
    words.add_argument("--clients", type=int, default=16)
    told = words.parse_args()
    pulls(told.model, told.runs)
    serving(told.model, told.seconds, told.runs, told.clients)


def pulls(model: str, runs: int) -> None:
    """Whole commands, a fresh folder each time; and the transfer alone, inside one process each."""
    commands = {
        "adaptory pull": [str(BIN / "adaptory"), "pull", f"{model}@champion"],
        "mlflow artifacts download": [str(BIN / "mlflow"), "artifacts", "download", "-u", f"models:/{model}@champion", "-d"],
    }
    whole: dict[str, list[float]] = {name: [] for name in commands}
    inside: dict[str, list[float]] = {name: [] for name in commands}
    environment = _environment()
    for _ in range(runs):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                subprocess.run([*command, f"{folder}/out"], check=True, env=environment, capture_output=True)
                whole[name].append(time.perf_counter() - began)
            script = _INSIDE[name].format(model=model)
            done = subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True, text=True)
            inside[name].append(float(done.stdout.splitlines()[-1]))
    print(f"pulling {model}, medians of {runs} alternating runs")
    base, alone = (statistics.median(found["mlflow artifacts download"]) for found in (whole, inside))
    for name in commands:
        took, moved = statistics.median(whole[name]), statistics.median(inside[name])
        print(f"  {name:28}{took:7.2f} s {base / took:6.1f} x   without start-up {1000 * moved:7.0f} ms {alone / moved:6.1f} x")


_INSIDE = {
    "adaptory pull": """
import tempfile, time
from pathlib import Path
from adaptory import release, workspace
from adaptory.storage.objects import open_store
store = open_store(workspace.find().store)
store.keys("ledger/")  # the connection is open
began = time.perf_counter()
release.pull(store, "{model}@champion", Path(tempfile.mkdtemp()) / "out")
print(time.perf_counter() - began)
""",
    "mlflow artifacts download": """
import tempfile, time
import mlflow
mlflow.MlflowClient().search_registered_models(max_results=1)  # the connection is open
began = time.perf_counter()
mlflow.artifacts.download_artifacts("models:/{model}@champion", dst_path=tempfile.mkdtemp())
print(time.perf_counter() - began)
""",
}


def serving(model: str, seconds: float, runs: int, clients: int) -> None:
    """Single questions from several clients at once, each waiting for its answer before it asks again."""
    texts = [row["asked"]["text"] for row in _example(model)] * 8
    found: dict[str, list[tuple[float, float, float]]] = {"mlflow models serve": [], "adaptory serve": []}
    said: dict[str, list[str]] = {}
    with _mlflow(model) as theirs, _adaptory(model) as ours:
        for _ in range(runs):
            for name, (port, path, body, label) in {"mlflow models serve": theirs, "adaptory serve": ours}.items():
                said[name] = [label(_ask(port, path, body(text))) for text in texts]
                found[name].append(_load(port, path, [body(text) for text in texts], seconds, clients))
    same = sum(a == b for a, b in zip(*said.values(), strict=True))
    print(f"\nserving {model} to {clients} clients, medians of {runs} alternating runs of {seconds:g} s; "
          f"{same} of {len(texts)} answers the same")  # fmt: skip
    base = statistics.median(one[0] for one in found["mlflow models serve"])
    for name, several in found.items():
        rate, half, worst = (statistics.median(one[place] for one in several) for place in range(3))
        print(f"  {name:22}{rate:8.1f} answers/s {rate / base:6.1f} x   p50 {1000 * half:6.1f} ms   p99 {1000 * worst:6.1f} ms")


def _load(port: int, path: str, bodies: list[bytes], seconds: float, clients: int) -> tuple[float, float, float]:
    """Answers a second, and the median and 99th percentile of what one took."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        place = number
        while time.perf_counter() < until:
            began = time.perf_counter()
            connection.request("POST", path, bodies[place % len(bodies)], {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            took.append(time.perf_counter() - began)
            place += clients
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    spent = time.perf_counter() - began
    took.sort()
    return len(took) / spent, took[len(took) // 2], took[int(len(took) * 0.99)]


@contextmanager
def _mlflow(model: str) -> Iterator[Any]:
    port = _port()
    words = ["models", "serve", "-m", f"models:/{model}@champion", "--env-manager", "local", "-p", str(port)]
    command = [str(BIN / "mlflow"), *words]
    with _running(command, f"http://127.0.0.1:{port}/ping"):
        yield port, "/invocations", _their_body, lambda answer: str(answer["predictions"][0]["label"])


@contextmanager
def _adaptory(model: str) -> Iterator[Any]:
    port = _port()
    with _running([str(BIN / "adaptory"), "serve", f"{model}@champion", "--port", str(port)], f"http://127.0.0.1:{port}/health"):
        yield port, "/predict", _our_body, lambda answer: str(answer[0]["label"])


def _their_body(text: str) -> bytes:
    return json.dumps({"dataframe_records": [{"text": text}]}).encode()


def _our_body(text: str) -> bytes:
    return json.dumps([{"text": text}]).encode()


def _ask(port: int, path: str, body: bytes) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


@contextmanager
def _running(command: list[str], url: str) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=_environment(), stdout=log, stderr=log)
        try:
            for _ in range(600):
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(log.read().decode()[-3000:])
                try:
                    urllib.request.urlopen(url, timeout=2)
                    break
                except OSError:
                    time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(20)


def _example(model: str) -> list[dict[str, Any]]:
    from adaptory import release, workspace
    from adaptory.storage.objects import open_store

    folder = Path(tempfile.mkdtemp())
    release.pull(open_store(workspace.find().store), f"{model}@champion", folder)
    rows: list[dict[str, Any]] = json.loads((folder / "current" / "example.json").read_bytes())
    shutil.rmtree(folder)
    return rows


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    from adaptory import workspace

    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    return workspace.find().environment() | {"HF_HUB_OFFLINE": "1", "PATH": path}


if __name__ == "__main__":
    main()
