"""`adaptory serve` in a process of its own, and questions to it."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.pipeline.conftest import BIN, free_port


@contextmanager
def service(folder: Path, **environment: str) -> Iterator[str]:
    port = free_port()
    command = [str(BIN / "adaptory"), "serve", "tiny@champion", "--port", str(port), "--every", "0.02"]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            assert process.poll() is None, process.stderr and process.stderr.read()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def ask(url: str, body: Any, **headers: str) -> tuple[int, Any, str]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/predict", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read()), answer.headers["X-Adaptory-Version"]
    except urllib.error.HTTPError as fault:
        return fault.code, json.loads(fault.read()), ""


def health(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(urllib.request.urlopen(f"{url}/health", timeout=5).read())
    return found
